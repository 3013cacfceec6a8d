"""ETags: the store's revision of a resource's spec (RFC 9110, sections 8.8.3 and 13.1)."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import Header

from bocage import errors
from bocage.api import problems
from bocage.model import base
from bocage.store import resources
from bocage.words import N_

_ONE = re.compile(r'\s*"(\d{1,19})"\s*')

IfMatch = Annotated[
    str | None,
    Header(description="The ETag that was read: refused with 412 when it is another by now.", examples=['"42"']),
]


class Malformed(problems.Error, errors.Invalid):
    type = "etag-malformed"
    text = N_("If-Match is not an ETag of this API: {given}")
    hint = N_('send what the ETag header said, such as "42", quotes and all')
    given: str


class Needed(problems.Error, errors.Invalid):
    """RFC 6585, section 3."""

    type = "etag-needed"
    status = 428
    text = N_("a whole document is only taken with the revision that it was made from")
    hint = N_("read it, then send its ETag as If-Match")


def of(revision: int) -> str:
    """The ETag of a revision."""
    return f'"{revision}"'


def expected(if_match: str | None) -> int | None:
    """The revision that the asker had read; None when any will do. Raises Malformed."""
    if if_match is None or if_match.strip() == "*":
        return None
    match = _ONE.fullmatch(if_match)
    if not match:
        raise Malformed(given=if_match[:80])
    return int(match[1])


def check(if_match: str | None, present: base.Resource[Any, Any]) -> None:
    """Raises resources.Changed when the asker had read another revision, and Malformed."""
    wanted, found = expected(if_match), present.metadata.revision
    if wanted is not None and wanted != found:
        raise resources.Changed(kind=present.kind, name=present.name, expected=wanted, found=found)
