"""How routers are made: one noun each, JSON read strictly, problems declared."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from bocage.api import bodies, problems

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


def router(noun: str, prefix: str) -> APIRouter:
    """A router for a noun, such as `vm`, below `prefix`."""
    return APIRouter(prefix=prefix, tags=[noun], route_class=bodies.Route)


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
