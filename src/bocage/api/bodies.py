"""Bodies of requests: bounded, strict JSON (RFC 8259), read before anything looks at them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pydantic_core
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from bocage import errors
from bocage.api import idempotency, problems
from bocage.words import N_

MOST = 1 << 20  # bytes of a JSON body
LARGE = 8 << 20  # of one that brings a whole world


class TooLarge(problems.Error, errors.Invalid):
    type = "body-too-large"
    status = 413
    text = N_("the body is larger than {most:size}")
    hint = N_("files go to /api/v1/uploads")
    most: int


class NotJson(problems.Error, errors.Invalid):
    type = "body-not-json"
    status = 415
    text = N_("the body is said to be '{given}'; JSON is taken")
    hint = N_("send it with 'Content-Type: application/json'")
    given: str


class Malformed(problems.Error, errors.Invalid):
    """It is no JSON: cut off, not UTF-8, NaN, nested too deep, numbers that nobody can hold."""

    type = "body-malformed"
    text = N_("the body is no JSON: {reason}")
    reason: str


class GoneAway(problems.Error, errors.Invalid, ConnectionError):
    type = "client-gone"
    status = 499
    text = N_("the client went away before its request was whole")


class Route(APIRoute):
    """A route whose JSON body is read here, and whose POST is carried out once for each idempotency key."""

    most = MOST

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        inner = super().get_route_handler()
        with_body = self.body_field is not None

        async def handle(request: Request) -> Response:
            content = b""
            if with_body:
                content = await read(request, self.most)
                request = _Read(request, content)
            if request.method == "POST" and "idempotency-key" in request.headers:
                return await idempotency.once(request, content, inner)
            return await inner(request)

        return handle


class LargeRoute(Route):
    """The same for large bodies."""

    most = LARGE


class _Read(Request):
    """A request whose body is here."""

    def __init__(self, request: Request, content: bytes) -> None:
        super().__init__(request.scope, request.receive)
        self._content = content
        self._document = _parse(request, content) if content else None

    async def body(self) -> bytes:
        return self._content

    async def json(self) -> Any:
        return self._document


async def read(request: Request, most: int = MOST) -> bytes:
    """The whole body. Raises TooLarge and GoneAway."""
    said = request.headers.get("content-length", "")
    if said.isdigit() and (len(said) > 18 or int(said) > most):
        raise TooLarge(most=most)
    content = bytearray()
    try:
        async for piece in request.stream():
            content += piece
            if len(content) > most:
                raise TooLarge(most=most)
    except ClientDisconnect as error:
        raise GoneAway from error
    return bytes(content)


def _parse(request: Request, content: bytes) -> Any:
    given = request.headers.get("content-type", "")
    kind = given.partition(";")[0].strip().lower()
    if not (kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))):
        raise NotJson(given=given[:100])
    try:
        return pydantic_core.from_json(content, allow_inf_nan=False, cache_strings=False)
    except ValueError as error:
        raise Malformed(reason=str(error)) from error
