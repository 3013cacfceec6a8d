"""What is said of a resource for people, title and notes and tags, changed alike for all kinds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from starlette.responses import Response

from bocage.api import answers, calls, etags
from bocage.model import base, requests
from bocage.store import resources

R = TypeVar("R", bound=base.Resource[Any, Any])


async def describe(
    call: calls.Call,
    cls: type[R],
    project: str | None,
    name: str,
    patch: requests.Description,
    if_match: str | None,
    *,
    nullable: Sequence[str] = (),
) -> Response:
    """Write the fields that are given (RFC 7396), those that are no description into the spec.

    Null changes nothing but those that are `nullable`.

    Raises resources.Missing, resources.Changed and etags.Malformed.
    """
    named = {field: getattr(patch, field) for field in patch.model_fields_set}
    given = {field: value for field, value in named.items() if value is not None or field in nullable}
    about = {field: given.pop(field) for field in requests.Description.model_fields if field in given}

    def wanted(present: R) -> R:
        return resources.with_metadata(resources.with_spec(present, **given), **about)

    present = await call.resources.find(cls, project, name)
    changed = await call.resources.change(cls, project, present.uid, wanted, expected=etags.expected(if_match))
    return answers.one(changed)
