"""The client that a command speaks through."""

from __future__ import annotations

from bocage.client import rest


def connect(project: str = "default") -> rest.Client:
    """The client for what the environment names, in the reader's language."""
    return rest.connect(project=project, language=rest.language_of_environment())


def look_up(documents: rest.Document) -> dict[str, rest.Document]:
    """A list's documents by their uid."""
    return {one["metadata"]["uid"]: one for one in documents["items"]}
