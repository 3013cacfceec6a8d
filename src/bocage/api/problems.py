"""How problems are said over HTTP (RFC 9457), and that each is in the log once."""

from __future__ import annotations

import json
import logging
from typing import Any

from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from bocage import errors, words
from bocage.model import base, faults
from bocage.words import N_

URN = "urn:bocage:problem:"
MEDIA_TYPE = "application/problem+json"
_MEMBERS = frozenset({"type", "title", "status", "detail", "instance", "hint"})
_LONGEST_LINE = 300  # characters of a problem in the log

log = logging.getLogger(__name__)


class Error(errors.Problem):
    """A request that the API itself cannot take."""


class NoSuchAddress(Error, errors.NotFound):
    type = "no-such-address"
    text = N_("there is nothing at this address")
    hint = N_("/api/v1/openapi.json has all addresses")


class NoSuchMethod(Error):
    type = "no-such-method"
    status = 405
    text = N_("this address takes {allowed}, not {method}")
    method: str
    allowed: str


class Refused(Error):
    """What the server's own layers refuse, by its HTTP status."""

    type = "request-refused"
    text = N_("the request was refused: {said}")
    said: str


class Fault(BaseModel):
    """One field that does not hold."""

    path: str
    wrong: str
    right: str


class Document(BaseModel):
    """A problem document (RFC 9457). The problem's parameters are members beside these."""

    model_config = ConfigDict(
        extra="allow",
        title="Problem",
        json_schema_extra={
            "example": {
                "type": URN + "not-found",
                "title": "there is no VM named web1",
                "status": 404,
                "detail": "there is no VM named web1",
                "hint": "'bocage vm list' shows what there is",
                "kind": "vm",
                "name": "web1",
            }
        },
    )
    type: str
    title: str
    status: int
    detail: str
    hint: str | None = None
    faults: list[Fault] | None = None


def document(problem: errors.Problem, *, status: int | None = None) -> dict[str, Any]:
    """The problem as JSON holds it, in the reader's language."""
    sentence, advice = words.say(problem), words.advise(problem)
    found = {key: value for key, value in problem.params.items() if key not in _MEMBERS and key != "summary"}
    told = {
        "type": URN + problem.type,
        "title": sentence,
        "status": status or problem.status,
        "detail": sentence,
        **({"hint": advice} if advice else {}),
    }
    return told | found


def response(problem: errors.Problem, *, status: int | None = None) -> Response:
    """The problem as an HTTP answer."""
    content = document(problem, status=status)
    headers = {"www-authenticate": "Bearer"} if content["status"] == 401 else None
    body = json.dumps(content, ensure_ascii=False, allow_nan=False, default=str, separators=(",", ":"))
    return Response(body.encode(errors="replace"), content["status"], headers, MEDIA_TYPE)


async def on_problem(request: Request, error: Exception) -> Response:
    """Tell a problem that a route raised; that of a WebSocket is told by the gate, before it is accepted."""
    assert isinstance(error, errors.Problem)
    if request.scope["type"] == "websocket":
        raise error
    _note(request, error)
    return response(error)


async def on_invalid(request: Request, error: Exception) -> Response:
    """Tell which fields of a request do not hold."""
    assert isinstance(error, (RequestValidationError, WebSocketRequestValidationError))
    found = [{**one, "loc": _location(one["loc"])} for one in error.errors()]
    return await on_problem(request, faults.problem(faults.read(found)))


async def on_refused(request: Request, error: Exception) -> Response:
    """Tell what the router refused."""
    assert isinstance(error, HTTPException)
    problem: errors.Problem = Refused(said=str(error.detail))
    if isinstance(error.__cause__, errors.Problem):
        problem = error.__cause__
        return await on_problem(request, problem)
    if error.status_code == 404:
        problem = NoSuchAddress()
    elif error.status_code == 405:
        problem = NoSuchMethod(method=request.method, allowed=(error.headers or {}).get("Allow", ""))
    _note(request, problem)
    answer = response(problem, status=error.status_code)
    answer.headers.update(error.headers or {})
    return answer


def on_fault(method: str, path: str, error: Exception) -> errors.Internal:
    """A fault of our own: the log gets it whole, once, and the asker its reference."""
    reference = base.new_uid()[:8]
    log.error("%s %s failed [%s]", method, path[:200], reference, exc_info=error)
    return errors.Internal(reference=reference)


def note(method: str, path: str, asker: object, problem: errors.Problem) -> None:
    """One line in the log."""
    level = logging.WARNING if problem.status >= 500 else logging.INFO
    said = " ".join(words.say(problem).split())[:_LONGEST_LINE]
    log.log(level, "%s %s (%s): %s: %s", method, path[:200], asker or "nobody", problem.type, said)


def _note(request: Request, problem: errors.Problem) -> None:
    note(request.method, request.url.path, request.scope.get("state", {}).get("asker"), problem)


def _location(parts: tuple[Any, ...]) -> tuple[Any, ...]:
    """Where a field is: of the body by its path, else after where it was looked for."""
    if parts[0] == "body":
        return parts[1:]
    where, *rest = parts
    return ("?" + ".".join(map(str, rest)),) if where == "query" else tuple(rest)
