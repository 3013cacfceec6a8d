"""Answers: documents that are made by the model once, and not validated again on their way out."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from pydantic import BaseModel, Field
from starlette.responses import Response

from bocage.api import etags, routing
from bocage.model import base, work

R = TypeVar("R")


class Listed(BaseModel, Generic[R]):
    """Part of a list, all of it as of one revision."""

    @classmethod
    def model_parametrized_name(cls, params: tuple[Any, ...]) -> str:
        return f"{params[0].__name__}List"

    items: list[R]
    revision: int = Field(description="Of the store: watch from here to miss nothing.")
    after: str | None = Field(description="Ask again with it for what follows; null at the end.")


def json(content: bytes | str, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """An answer whose JSON is ready."""
    return Response(content, status, headers, "application/json")


def one(resource: base.Resource[Any, Any], status: int = 200, *, location: str | None = None) -> Response:
    """A resource with its ETag."""
    headers = {"etag": etags.of(resource.metadata.revision)}
    if location:
        headers["location"] = location
    return json(resource.model_dump_json(context=base.WORDS), status, headers)


def accepted(task: work.Task, *, location: str | None = None) -> Response:
    """202: it is under way; the task tells how far. `location` is what comes of it, else the task."""
    return json(
        task.model_dump_json(context=base.WORDS),
        202,
        {"location": location or f"{routing.BASE}/tasks/{task.uid}", "bocage-task": task.uid},
    )


def path(resource: base.Resource[Any, Any]) -> str:
    """Where a resource is found."""
    inside = f"/projects/{resource.metadata.project}" if resource.in_project else ""
    return f"{routing.BASE}{inside}/{resource.plural}/{resource.name}"
