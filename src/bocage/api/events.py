"""Events: what happened, listed; and every change of the store as a stream (server-sent events)."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Annotated, Any

from fastapi import Header, Query
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from bocage import errors
from bocage.api import answers, calls, nodes, paging, problems, routing
from bocage.model import base, failover, ground, keys, vm, work
from bocage.store import contract, resources
from bocage.words import N_

HEARTBEAT = 15.0  # seconds without an event after which a comment is sent
KINDS: Mapping[str, type[base.Resource[Any, Any]]] = {
    cls.kind: cls
    for cls in (
        vm.VM,
        ground.Host,
        ground.Storage,
        ground.Volume,
        ground.Image,
        ground.Network,
        work.Task,
        work.Event,
        work.Alarm,
        failover.Failover,
    )
}

router = routing.router("event", "/events")

Reading = Annotated[calls.Call, calls.may("event:read")]


class UnknownKind(problems.Error, errors.Invalid):
    type = "event-kind-unknown"
    text = N_("there is no kind '{given}'")
    hint = N_("there are {known}")
    given: str
    known: list[str]


class BadEventId(problems.Error, errors.Invalid):
    type = "last-event-id-malformed"
    text = N_("Last-Event-ID is the id of no event: {given}")
    given: str


@router.get("", name="list", response_model=answers.Listed[work.Event])
async def list_(call: Reading, limit: paging.Limit = 100) -> Response:
    """The newest events, the newest last."""
    return await call.api.views.newest_page(work.Event, None, limit=limit)


@router.get(
    "/stream",
    name="follow",
    response_class=Response,
    responses={
        200: {"description": "One event a change.", "content": {"text/event-stream": {"schema": {"type": "string"}}}},
        **routing.problem_responses(410),
    },
)
async def follow(
    call: Reading,
    since: Annotated[
        int | None, Query(ge=0, le=1 << 62, description="The revision after which to begin; else from now on.")
    ] = None,
    kinds: Annotated[
        str | None, Query(max_length=200, description="Only these, such as `event,vm,task`; else all.")
    ] = None,
    last_event_id: Annotated[str | None, Header(description="Go on behind this event.")] = None,
) -> Response:
    """Every change, none twice and none left out: `id` is the store's revision, `event` the kind.

    The data is the resource, or `{"uid": …, "deleted": true}`. 410 when the revision is no longer kept:
    list again, and begin at the list's revision.
    """
    wanted = _kinds(kinds)
    if last_event_id is not None:
        if not (last_event_id.isascii() and last_event_id.isdigit() and len(last_event_id) <= 18):
            raise BadEventId(given=last_event_id[:80])
        since = int(last_event_id)
    store = call.resources.store
    begin = await store.revision() if since is None else since
    await _check_kept(store, begin)
    prefix = keys.prefix(next(iter(wanted))) if len(wanted) == 1 else keys.ROOT + "/"
    return _Feed(call, store.watch(prefix, since=begin), wanted, begin)


class _Feed(Response):
    """The stream itself; ends when nobody listens, and when the daemon does."""

    media_type = "text/event-stream"

    def __init__(self, call: calls.Call, watch: contract.Watch, kinds: frozenset[str], since: int) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._call, self._watch, self._kinds, self._since = call, watch, kinds, since

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await nodes.first(self._pump(send), nodes.gone(receive), self._call.api.closing.wait())
            if self._call.api.closing.is_set():
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await self._watch.aclose()

    async def _pump(self, send: Send) -> None:
        async for piece in self._pieces():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pieces(self) -> AsyncIterator[bytes]:
        yield b": from revision %d\n\n" % self._since
        while True:
            try:
                async with asyncio.timeout(HEARTBEAT):
                    changes = await anext(self._watch)
            except TimeoutError:
                yield b": still here\n\n"
                continue
            except contract.Error as error:  # too slow a reader; it lists again
                yield _event("problem", json.dumps(problems.document(error)).encode())
                return
            for revision, group in _revisions(changes):
                if told := [message async for message in self._told(group)]:
                    yield b"".join(told[:-1]) + b"id: %d\n" % revision + told[-1]

    async def _told(self, changes: list[contract.Change]) -> AsyncIterator[bytes]:
        """One message for each resource that one revision has changed."""
        seen: set[str] = set()
        for change in changes:
            kind, stem = keys.kind_of(change.key), change.key.rpartition("/")[0]
            if kind in self._kinds and stem not in seen:
                seen.add(stem)
                yield _event(kind, await self._document(KINDS[kind], change.key))

    async def _document(self, cls: type[base.Resource[Any, Any]], key: str) -> bytes:
        parts = key.removeprefix(keys.prefix(cls.kind)).split("/")
        project = parts[0] if cls.in_project else None
        with contextlib.suppress(resources.Missing, resources.Damaged):
            return (await self._call.api.views.one(cls, project, keys.uid_of(key))).content
        return json.dumps({"uid": keys.uid_of(key), "deleted": True}).encode()


def _event(kind: str, data: bytes) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), data)


def _revisions(changes: list[contract.Change]) -> Iterator[tuple[int, list[contract.Change]]]:
    group: list[contract.Change] = []
    for change in changes:
        if group and group[0].revision != change.revision:
            yield group[0].revision, group
            group = []
        group.append(change)
    if group:
        yield group[0].revision, group


def _kinds(given: str | None) -> frozenset[str]:
    if given is None:
        return frozenset(KINDS)
    wanted = frozenset(part.strip() for part in given.split(",") if part.strip())
    if unknown := sorted(wanted - KINDS.keys()):
        raise UnknownKind(given=unknown[0], known=sorted(KINDS))
    return wanted or frozenset(KINDS)


async def _check_kept(store: contract.Store, revision: int) -> None:
    """Raises contract.Compacted and FutureRevision, while the answer can still say so."""
    await store.list(keys.setting("-"), limit=1, at=revision)
