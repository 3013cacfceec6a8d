"""Lists of resources as JSON. What a resource looks like at its revisions never changes, so it is made once."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import itertools
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from starlette.responses import Response

from bocage import words
from bocage.api import answers, paging
from bocage.model import base, keys
from bocage.store import contract, resources

R = TypeVar("R", bound=base.Resource[Any, Any])

log = logging.getLogger(__name__)

_MOST = 10_000  # resources that are remembered
_PER_RESOURCE = 3  # keys: owner, spec, status
_TOGETHER = 50  # that are made before others get their turn


@dataclasses.dataclass(frozen=True, slots=True)
class View:
    """One resource at its revisions, ready to be sent; its fields that lists are filtered by."""

    revisions: tuple[int, ...]  # of its records
    revision: int  # of its spec
    content: bytes
    name: str
    tags: tuple[str, ...]
    deleted: bool
    state: str


Filter = Callable[[View], bool]


class Views:
    """Reads lists."""

    def __init__(self, store: contract.Store) -> None:
        self._store = store
        self._damaged: set[tuple[str, int]] = set()
        self._made: collections.OrderedDict[tuple[str, str], View] = collections.OrderedDict()

    async def page(
        self,
        cls: type[base.Resource[Any, Any]],
        project: str | None = None,
        *,
        limit: int,
        after: str | None = None,
        keep: Filter | None = None,
    ) -> Response:
        """One page of a list. Raises paging.BadCursor, and contract.Compacted when its revision is too old."""
        cursor = paging.read(after)
        prefix, at = keys.prefix(cls.kind, project), cursor.at if cursor else None
        behind, found = cursor.after if cursor else None, list[bytes]()
        while True:
            page = await self._store.list(prefix, limit=(limit + 1) * _PER_RESOURCE, after=behind, at=at)
            at, last = page.revision, None
            groups = _whole_groups(page)
            for number, (stem, group) in enumerate(groups):
                view = self._view_if_whole(cls, stem, group)
                if number % _TOGETHER == _TOGETHER - 1:
                    await asyncio.sleep(0)
                if view and not (keep and not keep(view)):
                    if len(found) == limit:
                        return _answer(found, at, paging.Cursor(at, str(last or behind)))
                    found.append(view.content)
                last = group[-1].key
            if page.after is None:
                return _answer(found, at, None)
            behind = last

    async def one(self, cls: type[base.Resource[Any, Any]], project: str | None, uid: str) -> View:
        """One resource. Raises resources.Missing."""
        page = await self._store.list(keys.base(cls.kind, project, uid))
        for stem, group in _whole_groups(page):
            if view := self._view(cls, stem, group):
                return view
        raise resources.Missing(kind=cls.kind, name=uid)

    async def newest(self, cls: type[R], project: str | None = None, *, limit: int) -> list[R]:
        """The last of a kind whose uids sort by time, the newest last."""
        groups, _ = await self._last(cls, project, limit)
        return [resources.decode(cls, parts["spec"], parts.get("status")) for parts in map(_parts, groups)]

    async def newest_page(
        self, cls: type[base.Resource[Any, Any]], project: str | None = None, *, limit: int
    ) -> Response:
        """The last of a kind, as the one page of a list."""
        groups, revision = await self._last(cls, project, limit)
        made = (self._view_if_whole(cls, group[0].key.rpartition("/")[0], group) for group in groups)
        return _answer([view.content for view in made if view], revision, None)

    async def _last(
        self, cls: type[base.Resource[Any, Any]], project: str | None, limit: int
    ) -> tuple[list[list[contract.Entry]], int]:
        page = await self._store.list(keys.prefix(cls.kind, project))
        groups = [group for _, group in _whole_groups(page) if "spec" in _parts(group)]
        return groups[-limit:], page.revision

    def _view_if_whole(self, cls: type[base.Resource[Any, Any]], stem: str, group: list[contract.Entry]) -> View | None:
        """None for a damaged record: it must not hide all others; the log has it once, and asking for it says so."""
        try:
            return self._view(cls, stem, group)
        except resources.Damaged as damaged:
            if (stem, group[0].revision) not in self._damaged:
                self._damaged.add((stem, group[0].revision))
                log.warning("left out of a list: %s", words.say(damaged))
            return None

    def _view(self, cls: type[base.Resource[Any, Any]], stem: str, group: list[contract.Entry]) -> View | None:
        revisions = tuple(entry.revision for entry in group)
        place = (stem, words.language.get())
        view = self._made.get(place)
        if view is None or view.revisions != revisions:
            parts = _parts(group)
            if "spec" not in parts:
                return None
            resource = resources.decode(cls, parts["spec"], parts.get("status"), parts.get("owner"))
            view = _make(resource, revisions)
            self._made[place] = view
            if len(self._made) > _MOST:
                self._made.popitem(last=False)
        return view


def _make(resource: base.Resource[Any, Any], revisions: tuple[int, ...]) -> View:
    about = resource.metadata
    return View(
        revisions=revisions,
        revision=about.revision,
        content=resource.model_dump_json(context=base.WORDS).encode(),
        name=about.name,
        tags=about.tags,
        deleted=about.deleted is not None,
        state=str(getattr(resource.status, "state", "")),
    )


def _parts(group: list[contract.Entry]) -> dict[str, contract.Entry]:
    return {entry.key.rpartition("/")[2]: entry for entry in group}


def _whole_groups(page: contract.Page) -> Iterator[tuple[str, list[contract.Entry]]]:
    """The keys of each resource; of the last only when none of its keys can be on the next page."""
    groups = [
        (stem, list(group))
        for stem, group in itertools.groupby(page.entries, lambda entry: entry.key.rpartition("/")[0])
    ]
    return iter(groups if page.after is None else groups[:-1])


def _answer(found: list[bytes], at: int, after: paging.Cursor | None) -> Response:
    tail = json.dumps(str(after) if after else None)
    content = b'{"items":[' + b",".join(found) + b'],"revision":%d,"after":%s}' % (at, tail.encode())
    return answers.json(content)
