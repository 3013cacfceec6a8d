"""How long a planner may think. It has no clock: whoever asks gives it something to look at meanwhile."""

from __future__ import annotations

from collections.abc import Callable

from bocage import errors
from bocage.words import N_

Check = Callable[[], bool]
"""Whether the time is over. What it raises ends the work at once, and nothing of it can be used."""


class TookTooLong(errors.Unavailable):
    type = "plan-took-too-long"
    text = N_("the time for a plan was over before anything could be said of so many hosts and VMs")
    hint = N_("ask with fewer hosts or VMs, or for fewer hosts that die at once")


def endless() -> bool:
    """There is all the time that it takes."""
    return False


def require(check: Check) -> None:
    """Raises TookTooLong once the time is over."""
    if check():
        raise TookTooLong


def required(check: Check) -> Check:
    """The same, which raises TookTooLong once the time is over."""

    def look() -> bool:
        require(check)
        return False

    return look


def to_the_end(check: Check) -> Check:
    """The same for what is done however late it is."""
    return lambda: check() and False
