"""The resources of one kind, whatever kind: what can be done with all of them, and how it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from bocage.client.connection import ANSWER_WITHIN, Connection, segment

if TYPE_CHECKING:
    from pydantic import BaseModel

Document = dict[str, Any]
Documents = list[Document]
Request: TypeAlias = "Mapping[str, Any] | BaseModel"
_PAGE = 500


class Nouns:
    """The resources of one kind."""

    def __init__(self, connection: Connection, path: str) -> None:
        self.connection = connection
        self.path = path

    def list(self, *, limit: int | None = None, within: float = ANSWER_WITHIN, **filters: Any) -> Document:
        """All of them under `items`, fetched page after page at one `revision`; `limit` bounds how many."""
        whole: Document = {"items": []}
        after: str | None = None
        while True:
            left = _PAGE if limit is None else limit - len(whole["items"])
            query = {**filters, "limit": min(left, _PAGE), "after": after}
            answer = self.connection.request("GET", self.path, query=query, within=within).document
            answer["items"] = [*whole["items"], *answer["items"]]
            whole, after = answer, answer.get("after")
            if not after or (limit is not None and len(whole["items"]) >= limit):
                return whole

    def get(self, name: str) -> Document:
        return self._get(self._of(name))

    def create(self, request: Request) -> Document:
        return self._post(self.path, request)

    def change(self, name: str, changes: Request, *, etag: int | None = None) -> Document:
        """Change the fields that are given; with `etag` only when it is still that revision."""
        return self._send("PATCH", self._of(name), changes, etag=etag)

    def delete(self, name: str) -> Document:
        return self._send("DELETE", self._of(name))

    def _of(self, name: str, *rest: str) -> str:
        return "/".join((self.path, segment(name), *rest))

    def _get(self, path: str, **query: Any) -> Document:
        document: Document = self.connection.request("GET", path, query=query).document
        return document

    def _post(self, path: str, request: Request | None = None) -> Document:
        return self._send("POST", path, request)

    def _send(
        self,
        method: str,
        path: str,
        request: Request | None = None,
        *,
        etag: int | None = None,
        within: float = ANSWER_WITHIN,
        **query: Any,
    ) -> Document:
        headers = {} if etag is None else {"If-Match": f'"{etag}"'}
        body = None if request is None else plain(request)
        answer = self.connection.request(method, path, query=query, document=body, headers=headers, within=within)
        document: Document = answer.document or {}
        return document


def given(**values: Any) -> Document:
    """What of `values` is not None."""
    return {key: value for key, value in values.items() if value is not None}


def plain(request: Request) -> Any:
    """A request as JSON holds it; of a model only what was set."""
    if isinstance(request, Mapping):
        return request
    return request.model_dump(mode="json", exclude_unset=True)
