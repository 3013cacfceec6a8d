"""Who asks: over the Unix socket the peer's uid, over TCP a token; and what each route asks to be allowed."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import hashlib
import hmac
import re
import secrets
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import Scope

from bocage import errors
from bocage.api import problems
from bocage.model import base, work
from bocage.store import contract, resources
from bocage.words import N_

PROJECT = "default"  # where tokens lie
USE_IS_NOTED_EVERY = 60.0  # seconds between two writes of a token's last use
_TOKEN = re.compile(r"bcg_([0-9a-f]{32})([A-Za-z0-9_-]{43})")


class Error(problems.Error):
    """Somebody who may not ask this."""


class TokenNeeded(Error):
    type = "token-needed"
    status = 401
    text = N_("a token is needed to ask over the network")
    hint = N_("'bocage token create' on the host makes one; send it as 'Authorization: Bearer TOKEN'")


class TokenUnknown(Error):
    type = "token-unknown"
    status = 401
    text = N_("this token is not known here")
    hint = N_("'bocage token list' on the host shows which there are; 'bocage token create' makes one")


class TokenExpired(Error):
    type = "token-expired"
    status = 401
    text = N_("the token {name} has expired")
    hint = N_("'bocage token create' on the host makes another")
    name: str


class OtherUser(Error, errors.Forbidden):
    type = "user-not-allowed"
    text = N_("the user {uid} may not use this daemon's socket")
    hint = N_("ask as root or as the user that the daemon runs as, or with a token over the network")
    uid: int


class NotAllowed(Error, errors.Forbidden):
    type = "not-allowed"
    text = N_("{asker} may not do this ({permission})")
    asker: str
    permission: str


@dataclasses.dataclass(frozen=True, slots=True)
class Asker:
    """Who asks, as tasks and the log name them: `unix:0`, `token:backup`."""

    name: str
    local: bool

    def __str__(self) -> str:
        return self.name

    def may(self, permission: str) -> bool:
        """Whether they may do what a route asks for, such as `vm:create`. Roles will be looked at here."""
        return bool(permission)


@dataclasses.dataclass(frozen=True, slots=True)
class Minted:
    """A fresh token: `text` is shown once, `hash` is kept."""

    uid: str
    text: str
    hash: str


def mint() -> Minted:
    """Make a token: its uid, by which it is found, and 256 bits that nobody else has."""
    uid, secret = base.new_uid(), secrets.token_urlsafe(32)
    return Minted(uid=uid, text=f"bcg_{uid.replace('-', '')}{secret}", hash=_hash(secret))


class Authentication:
    """Tells who asks by a request's scope."""

    def __init__(self, store: resources.Resources, *, allowed_uids: Collection[int]) -> None:
        self._resources = store
        self._allowed = frozenset(allowed_uids)
        self._noted: dict[str, float] = {}
        self._noting: set[asyncio.Task[None]] = set()

    async def ask(self, scope: Scope) -> Asker:
        """Raises TokenNeeded, TokenUnknown, TokenExpired and OtherUser."""
        given = Headers(scope=scope).get("authorization")
        client = scope.get("client")
        if given is None and client and client[0] == "unix":
            if client[1] not in self._allowed:
                raise OtherUser(uid=client[1])
            return Asker(f"unix:{client[1]}", local=True)
        if given is None:
            raise TokenNeeded
        scheme, _, token = given.partition(" ")
        match = _TOKEN.fullmatch(token.strip())
        if scheme.lower() != "bearer" or not match:
            raise TokenUnknown
        return await self._by_token(match[1], match[2])

    async def _by_token(self, uid: str, secret: str) -> Asker:
        dashed = "-".join((uid[:8], uid[8:12], uid[12:16], uid[16:20], uid[20:]))
        try:
            token = await self._resources.get(work.Token, PROJECT, dashed)
        except resources.Missing:
            raise TokenUnknown from None
        if not hmac.compare_digest(_hash(secret), token.spec.hash):
            raise TokenUnknown
        now = base.now()
        if token.spec.expires and now >= token.spec.expires:
            raise TokenExpired(name=token.name)
        self._note_use(token, now)
        return Asker(f"token:{token.name}", local=False)

    def _note_use(self, token: work.Token, now: datetime.datetime) -> None:
        """Write when it was used, now and then, beside the request and never in its way."""
        last, loop_time = token.status.last_used, asyncio.get_running_loop().time()
        if last and abs((now - last).total_seconds()) < USE_IS_NOTED_EVERY:
            return
        if self._noted.get(token.uid, -USE_IS_NOTED_EVERY) > loop_time - USE_IS_NOTED_EVERY:
            return
        self._noted[token.uid] = loop_time
        noting = asyncio.create_task(self._write_use(token, now))
        self._noting.add(noting)
        noting.add_done_callback(self._noting.discard)

    async def _write_use(self, token: work.Token, now: datetime.datetime) -> None:
        try:
            await self._resources.change_status(
                work.Token, PROJECT, token.uid, lambda present: present.status.model_copy(update={"last_used": now})
            )
        except (resources.Error, contract.Error, errors.TimedOut):
            return  # it was deleted meanwhile, or the next use is noted


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
