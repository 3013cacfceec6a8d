"""Idempotency keys: a POST that is sent twice is done once, and answered the same.

The answer is written in the transaction of what it answers for, so there is never one without the other.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import datetime
import hashlib
import json
import re
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from bocage import errors
from bocage.api import problems
from bocage.model import base, keys
from bocage.store import contract, resources
from bocage.words import N_

KEPT = datetime.timedelta(hours=24)
MOST = 20_000  # answers that are kept
PRUNE_EVERY = 500  # answers
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_HEADERS = ("location", "etag")
_PAGE = 500  # answers that are looked at before others get their turn
_PIECE = 100  # deletes of one transaction


class BadKey(problems.Error, errors.Invalid):
    type = "idempotency-key-invalid"
    text = N_("an Idempotency-Key is 1 to 255 printable characters without spaces")


class OtherRequest(problems.Error, errors.Invalid):
    type = "idempotency-key-reused"
    text = N_("this Idempotency-Key was sent before with another request")
    hint = N_("take a new key for a new request")


@dataclasses.dataclass(slots=True)
class Once:
    """What a request that carries a key is to leave behind."""

    key: str  # of the store
    digest: str

    def enter(self, transaction: resources.Transaction, answer: Response) -> None:
        """Write the answer together with what it answers for."""
        transaction.compare[self.key] = 0
        transaction.puts[self.key] = json.dumps(
            {
                "digest": self.digest,
                "status": answer.status_code,
                "headers": {name: answer.headers[name] for name in _HEADERS if name in answer.headers},
                "body": base64.b64encode(bytes(answer.body)).decode(),
                "time": base.now().isoformat(),
            }
        ).encode()


async def once(request: Request, content: bytes, handle: Callable[[Request], Awaitable[Response]]) -> Response:
    """Carry a request out unless its key was answered before. Raises BadKey and OtherRequest."""
    given = request.headers["idempotency-key"]
    if not _KEY.fullmatch(given):
        raise BadKey
    digest = hashlib.sha256(b"\0".join([request.method.encode(), _target(request), content])).hexdigest()
    hashed = hashlib.sha256(given.encode()).hexdigest()
    asked = Once(key=keys.idempotency(str(request.state.asker), hashed), digest=digest)
    store: contract.Store = request.app.state.api.resources.store
    if kept := await _kept(store, asked):
        return kept
    request.state.once = asked
    try:
        return await handle(request)
    except errors.Conflict:
        if kept := await _kept(store, asked):  # the same request was under way at the same time
            return kept
        raise


async def prune(store: contract.Store, *, now: datetime.datetime | None = None) -> int:
    """Forget what is older than KEPT, and the oldest of more than MOST; returns how many went."""
    now = now or base.now()
    prefix, after = keys.idempotency("", "").removesuffix("/"), None
    held: list[tuple[datetime.datetime, str]] = []
    while True:
        page = await store.list(prefix, limit=_PAGE, after=after)
        held += [(_time(entry), entry.key) for entry in page.entries]
        after = page.after
        if after is None:
            break
        await asyncio.sleep(0)  # others get their turn
    held.sort()
    surplus = max(len(held) - MOST, 0)
    doomed = [key for number, (time, key) in enumerate(held) if number < surplus or now - time > KEPT]
    for start in range(0, len(doomed), _PIECE):
        await store.apply(deletes=doomed[start : start + _PIECE])
    return len(doomed)


async def _kept(store: contract.Store, asked: Once) -> Response | None:
    entry = await store.get(asked.key)
    if entry is None:
        return None
    held = json.loads(entry.value)
    if held["digest"] != asked.digest:
        raise OtherRequest
    headers = {**held["headers"], "idempotent-replayed": "true"}
    return Response(base64.b64decode(held["body"]), held["status"], headers, "application/json")


def _target(request: Request) -> bytes:
    raw: bytes = request.scope.get("raw_path") or request.url.path.encode()
    query: bytes = request.scope["query_string"]
    return raw.partition(b"?")[0] + b"?" + query


def _time(entry: contract.Entry) -> datetime.datetime:
    try:
        return datetime.datetime.fromisoformat(json.loads(entry.value)["time"])
    except (ValueError, KeyError, TypeError):
        return datetime.datetime.min.replace(tzinfo=datetime.UTC)
