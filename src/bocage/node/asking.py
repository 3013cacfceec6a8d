"""Reads what the node is asked over HTTP: what makes no sense is told as a problem with the field's path."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, TypeVar

import pydantic
from pydantic import Field
from starlette.requests import Request

from bocage import errors
from bocage.model import base, faults
from bocage.words import N_

M = TypeVar("M", bound=base.Part)

_MOST = 1 << 20  # bytes of a body that is no stream
_LARGEST = 1 << 62


class Error(errors.Problem):
    """A request to the node makes no sense."""


class NotJson(Error, errors.Invalid, ValueError):
    type = "node-body-not-json"
    text = N_("the body is not JSON: {reason}")
    reason: str


class BodyTooLarge(Error, errors.Invalid):
    type = "node-body-too-large"
    status = 413
    text = N_("the body is larger than {limit:size}")
    limit: int


class Expect(base.Part):
    """What to send to the serial line, and what to wait for."""

    pattern: Annotated[str, Field(max_length=4096)]
    send: Annotated[str, Field(max_length=65_536)] | None = None
    timeout: Annotated[float, Field(ge=0, le=86_400)]


class Off(base.Part):
    """How a VM is to go off."""

    within: Annotated[float, Field(ge=0, le=86_400)] = 0.0
    """Seconds that its guest gets to do it itself."""
    kill: bool = False
    """Pull the plug then."""


def whole_number(given: Mapping[str, str], name: str, default: int | None = None) -> int:
    """A number of bytes among headers or parameters. Raises errors.InvalidFields."""
    value = given.get(name)
    if value is None or value == "":
        if default is None:
            raise faults.problem([faults.At(name, faults.Missing())])
        return default
    if not (value.isascii() and value.isdigit() and len(value) <= 19) or int(value) > _LARGEST:
        raise faults.problem([faults.At(name, faults.NotWhole(given=value[:40]))])
    return int(value)


async def body(request: Request, cls: type[M]) -> M:
    """The body as a model. Raises NotJson, BodyTooLarge and errors.InvalidFields."""
    content = b""
    async for piece in request.stream():
        content += piece
        if len(content) > _MOST:
            raise BodyTooLarge(limit=_MOST)
    try:
        return cls.model_validate(json.loads(content))
    except pydantic.ValidationError as error:
        raise faults.problem(faults.read(error.errors(include_url=False))) from error
    except (ValueError, RecursionError) as error:
        raise NotJson(reason=str(error)[:200]) from error
