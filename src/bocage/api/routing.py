"""How routers are made (one noun each, JSON read strictly, problems declared), and how a request finds its route."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from bocage.api import bodies, problems

BASE = "/api/v1"
IN_PROJECT = "/projects/{project}"
_SAID = {
    404: "It is not there.",
    409: "Not in the present state.",
    410: "The revision is no longer kept.",
    412: "It was changed meanwhile.",
    428: "If-Match is needed.",
    502: "The node broke off.",
    504: "It did not answer in time.",
}


def router(noun: str, prefix: str, *, route: type[bodies.Route] = bodies.Route) -> APIRouter:
    """A router for a noun, such as `vm`, below `prefix`."""
    return APIRouter(prefix=BASE + prefix, tags=[noun], route_class=route, generate_unique_id_function=_operation_id)


class Lanes(BaseRoute):
    """All routes as one, which finds the right one by noun, depth and last word before any pattern is tried."""

    def __init__(self, routes: Iterable[BaseRoute]) -> None:
        self._lanes: dict[tuple[str, int, str], list[BaseRoute]] = {}
        for route in routes:
            noun, depth, last = _lane(str(getattr(route, "path", "")))
            self._lanes.setdefault((noun, depth, "" if last.startswith("{") else last), []).append(route)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] not in ("http", "websocket"):
            return Match.NONE, {}
        noun, depth, last = _lane(scope["path"])
        partial: tuple[Match, Scope] = (Match.NONE, {})
        for word in (last, ""):
            for route in self._lanes.get((noun, depth, word), ()):
                match, child = route.matches(scope)
                if match is Match.FULL:
                    return match, {**child, "route": route}
                if match is Match.PARTIAL and partial[0] is Match.NONE:
                    partial = match, {**child, "route": route}
        return partial

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await scope["route"].handle(scope, receive, send)


def _lane(path: str) -> tuple[str, int, str]:
    """Which routes can match at all: the noun, how many segments there are, the last of them."""
    segments = path.split("/")
    noun = segments[5] if len(segments) > 5 and segments[3] == "projects" else segments[3] if len(segments) > 3 else ""
    return noun, len(segments), segments[-1]


def _operation_id(route: APIRoute) -> str:
    return f"{route.tags[0]}_{route.name}"


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route's documentation says of its problems, beside those that every route has."""
    return {status: problem_response(_SAID[status]) for status in statuses}


def problem_response(description: str) -> dict[str, Any]:
    """One problem response, as OpenAPI has it."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": description, "content": {problems.MEDIA_TYPE: {"schema": schema}}}


def binary(media_type: str, description: str) -> dict[int | str, dict[str, Any]]:
    """A 200 that is no JSON."""
    content = {media_type: {"schema": {"type": "string", "format": "binary"}}}
    return {200: {"description": description, "content": content}}
