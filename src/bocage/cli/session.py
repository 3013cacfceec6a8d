"""The client that a command speaks through."""

from __future__ import annotations

from bocage import words
from bocage.cli import output
from bocage.client import connection, rest


class _Client(rest.Client):
    """Says it when what is shown may be old."""

    def __exit__(self, *error: object) -> None:
        silent = self.connection.store_silent
        super().__exit__(*error)
        if silent is not None:
            output.complain(
                f"the cluster's store has been silent for {words.seconds(silent)}: this is what the host knew then; "
                "'bocage cluster show' says which of its members do not answer"
            )


def connect(project: str = "default") -> rest.Client:
    """The client for what the environment names, in the reader's language."""
    address = connection.Address.from_environment()
    language = rest.language_of_environment()
    return _Client(connection.Connection(address, language=language), project=project)


def look_up(documents: rest.Document) -> dict[str, rest.Document]:
    """A list's documents by their uid."""
    return {one["metadata"]["uid"]: one for one in documents["items"]}
