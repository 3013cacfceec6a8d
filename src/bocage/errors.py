"""The one base of all problems: a type, words, a hint, fields.

Each module has one base error of its own; its children also inherit the family below that says what
kind of problem it is for the one who asked, and the fitting built-in where there is one.
"""

from __future__ import annotations

from typing import Any, ClassVar

from bocage import words
from bocage.words import N_


class Problem(words.Message, Exception):
    """Anything that can go wrong and be told to a person.

    `status` is the HTTP status of its RFC 9457 problem document.
    """

    status: ClassVar[int] = 500

    def __str__(self) -> str:
        return words.say(self)


class Invalid(Problem):
    """The request makes no sense as it stands: bad value, bad document, bad file."""

    status = 422


class NotFound(Problem):
    """What was named does not exist."""

    status = 404


class Conflict(Problem):
    """The request makes sense, but not in the present state."""

    status = 409


class Forbidden(Problem):
    """The asker may not do this."""

    status = 403


class Unavailable(Problem):
    """It cannot be done now; the same request may succeed later."""

    status = 503


class Internal(Problem):
    """A fault of the program itself; the log has the details under `reference`."""

    type = "internal"
    text = N_("something went wrong inside Bocage (reference {reference})")
    hint = N_("the daemon's log has the details: 'bocage daemon log'")
    reference: str


class TimedOut(Unavailable, TimeoutError):
    """Something did not answer within its bound."""

    type = "timed-out"
    status = 504
    text = N_("{what} did not answer within {bound:seconds}")
    what: str
    bound: float


class InvalidFields(Invalid):
    """Fields of a document do not hold; `faults` has one entry for each: path, what is wrong, what would be right."""

    type = "invalid-fields"
    text = N_("{summary}")
    summary: str
    faults: list[dict[str, Any]]
