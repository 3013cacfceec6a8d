"""Documents of the API as the model's own types, for programs that want fields and not keys."""

from __future__ import annotations

from typing import Any, TypeVar

from bocage.model import base

R = TypeVar("R", bound=base.Resource[Any, Any])


def read(cls: type[R], document: dict[str, Any]) -> R:
    """The resource that a document is of; raises pydantic.ValidationError for one of a newer API."""
    return cls.model_validate(document)


def read_list(cls: type[R], listed: dict[str, Any]) -> list[R]:
    """The resources of a list's document."""
    return [read(cls, document) for document in listed["items"]]
