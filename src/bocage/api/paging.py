"""Pages of one list: a cursor holds the revision and the place, so that all pages are of one moment."""

from __future__ import annotations

import base64
import dataclasses
from typing import Annotated

import pydantic_core
from fastapi import Query

from bocage import errors
from bocage.api import problems
from bocage.model import keys
from bocage.words import N_

MOST = 1000
_LONGEST = 1024

Limit = Annotated[int, Query(ge=1, le=MOST, description="How many at most.")]
After = Annotated[str | None, Query(max_length=_LONGEST, description="The `after` of the page before.")]


class BadCursor(problems.Error, errors.Invalid):
    type = "cursor-malformed"
    text = N_("this is not the cursor of a page")
    hint = N_("send 'after' as the page before gave it, or leave it out to begin anew")


@dataclasses.dataclass(frozen=True, slots=True)
class Cursor:
    """Where a list goes on: behind the store's key `after`, as of revision `at`."""

    at: int
    after: str

    def __str__(self) -> str:
        content = pydantic_core.to_json([self.at, self.after])
        return base64.urlsafe_b64encode(content).decode().rstrip("=")


def read(text: str | None) -> Cursor | None:
    """Raises BadCursor."""
    if text is None:
        return None
    try:
        content = base64.b64decode(text + "=" * (-len(text) % 4), altchars="-_", validate=True)
        at, after = pydantic_core.from_json(content)
    except (ValueError, TypeError) as error:
        raise BadCursor from error
    if type(at) is not int or not 0 <= at < 1 << 62 or not isinstance(after, str) or not after.startswith(keys.ROOT):
        raise BadCursor
    return Cursor(at, after)
