"""The members' HTTP gateway: what is asked of one member that is slow is asked of another beside it.

No answer is neither yes nor no. A `Race` therefore knows whether what it asked may still be carried out somewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

import httpx

from bocage.store import contract
from bocage.store.etcd import access
from bocage.words import N_

HEDGE = 0.3  # seconds without an answer, at least, after which another member is asked too
_UNUSUAL = 3  # so many times what answers take by and large, where that is more (hosts far apart, slow disks)
AGAIN = 1.0  # the same when each member has been asked; reached by and by where there are several
_SLOWER = 1.5  # each wait for another round is longer by this
PAUSE = 0.1  # seconds, when all members have failed
CONNECT = 1.0  # seconds
_LONGEST = 30.0  # seconds that one attempt may take

_OUT_OF_RANGE, _EXHAUSTED, _DENIED, _INVALID, _UNAUTHENTICATED = 11, 8, 7, 3, 16  # gRPC's status codes
_DEFINITE = {_OUT_OF_RANGE, _EXHAUSTED, _DENIED, _INVALID}
_SIGNED_IN_BEFORE = "revision of auth store is old"  # users or roles were changed since

Document = dict[str, Any]


Silent = contract.Silent


class Refused(contract.Failed):
    """A member refused; what was asked is not carried out."""

    type = "store-refused"
    text = N_("etcd refused: {reason}")
    hint = ""


class OutOfRange(Refused):
    """A revision is compacted, or to come."""

    @property
    def compacted(self) -> bool:
        return "compacted" in self.reason


class Full(Refused):
    """etcd's space is used up (its NOSPACE alarm is raised): it can be read, and takes deletes alone."""

    type = "store-full"
    text = N_("etcd's space is used up: {reason}")
    hint = N_("compact and defragment it, then 'etcdctl alarm disarm'; or give it a larger '--quota-backend-bytes'")


class Denied(Refused):
    """etcd does not let us in, or not where we want."""

    type = "store-denied"
    text = N_("etcd does not let us in: {reason}")


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What a member said. `sent` is when this attempt was sent, on CLOCK_BOOTTIME."""

    document: Document
    sent: float


class Lost(Exception):
    """An attempt came to no answer. When `loose`, it was sent and may still be carried out."""

    def __init__(self, reason: str, *, loose: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.loose = loose


class Gateway:
    """All members of one cluster; those that answer are asked first."""

    def __init__(self, how: access.Access) -> None:
        self.order = list(how.members)
        self._usual = 0.0  # seconds to an answer, by and large
        self._user = how.user
        self._token = ""
        self._signing_in = asyncio.Lock()
        self._client = httpx.AsyncClient(
            verify=how.certificates.context() if how.certificates else False,
            trust_env=False,
            timeout=httpx.Timeout(_LONGEST, connect=CONNECT, pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=32),
        )

    async def close(self) -> None:
        """Let go of all connections; who still asks is raised contract.Closed."""
        await self._client.aclose()

    def race(self, path: str, document: Document, *, harmless: bool = False) -> Race:
        """Ask all members, one after the other; to be entered with `async with`.

        `harmless` is what may be done twice, or late: then a refusal is an answer like any other.
        """
        return Race(self, path, json.dumps(document).encode(), harmless=harmless)

    async def ask(self, path: str, document: Document, *, within: float) -> Document:
        """The answer to what may be done twice without harm. Raises Silent and Refused."""
        async with self.race(path, document, harmless=True) as race:
            return (await race.answer(until=asyncio.get_running_loop().time() + within)).document

    @property
    def hedge(self) -> float:
        """Seconds without an answer after which another member is asked too."""
        return min(AGAIN, max(HEDGE, _UNUSUAL * self._usual))

    async def ask_one(self, member: str, path: str, document: Document) -> Document:
        """The answer of this member. Raises Lost and Refused."""
        return (await self.attempt(member, path, json.dumps(document).encode())).document

    def distrust(self, member: str) -> None:
        """Ask it last from now on."""
        if member in self.order:
            self.order.remove(member)
            self.order.append(member)

    def prefer(self, member: str) -> None:
        """Ask it first from now on."""
        if member in self.order:
            self.order.remove(member)
            self.order.insert(0, member)

    def learn(self, members: Sequence[str]) -> None:
        """Ask these from now on; those that are known keep their turns."""
        known = [member for member in self.order if member in members]
        self.order[:] = known + [member for member in members if member not in known]

    async def attempt(self, member: str, path: str, content: bytes) -> Answer:
        """One request to one member. Raises Lost, Refused and contract.Closed."""
        if self._client.is_closed:
            raise contract.Closed
        token = self._token
        for last in (False, True):
            if self._user and (not token or last):
                token = await self._sign_in(member, stale=token)
            sent = time.clock_gettime(time.CLOCK_BOOTTIME)
            with _told():
                response = await self._client.post(_address(member, path), content=content, headers=_headers(token))
            if response.status_code == httpx.codes.OK:
                self._usual += (time.clock_gettime(time.CLOCK_BOOTTIME) - sent - self._usual) / 8
                return Answer(_parsed(response.content), sent)
            error = _error(response.status_code, response.content)
            if not (isinstance(error, _Unauthenticated) and self._user and not last):
                break
        raise error

    @contextlib.asynccontextmanager
    async def stream(self, member: str, path: str, document: Document) -> AsyncIterator[AsyncGenerator[Document, None]]:
        """What this member tells, one document after the other. Raises Lost, Refused and contract.Closed."""
        if self._client.is_closed:
            raise contract.Closed
        if self._user and not self._token:
            await self._sign_in(member, stale="")
        token = self._token
        timeout = httpx.Timeout(None, connect=CONNECT)
        with _told():
            async with self._client.stream(
                "POST", _address(member, path), json=document, headers=_headers(token), timeout=timeout
            ) as response:
                if response.status_code != httpx.codes.OK:
                    error = _error(response.status_code, await response.aread())
                    if isinstance(error, _Unauthenticated) and self._user:
                        await self._sign_in(member, stale=token)
                    raise error
                yield _results(response)

    async def _sign_in(self, member: str, *, stale: str) -> str:
        """A token that is not `stale`; those of a member that was restarted are."""
        async with self._signing_in:
            if self._token == stale:
                assert self._user
                content = json.dumps({"name": self._user.name, "password": self._user.password}).encode()
                try:
                    with _told():
                        response = await self._client.post(_address(member, "auth/authenticate"), content=content)
                    if response.status_code != httpx.codes.OK:
                        raise _error(response.status_code, response.content)
                    self._token = str(_parsed(response.content)["token"])
                except Lost as lost:
                    raise Lost(lost.reason, loose=False) from lost
            return self._token


class Race:
    """One request on its way to several members. It ends with the context; what was sent may outlive it."""

    def __init__(self, gateway: Gateway, path: str, content: bytes, *, harmless: bool) -> None:
        self.began = time.clock_gettime(time.CLOCK_BOOTTIME)
        self._gateway = gateway
        self._path = path
        self._content = content
        self._harmless = harmless
        self._asked: list[str] = []
        self._pending: dict[asyncio.Task[Answer], str] = {}
        self._answers: list[Answer] = []  # that nobody has looked at yet
        self._lost = False
        self._refused: Refused | None = None
        self._reason = "no answer"

    async def __aenter__(self) -> Race:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._pending:
            task.cancel()
        await asyncio.gather(*self._pending, return_exceptions=True)

    @property
    def loose(self) -> bool:
        """Whether an attempt is without an answer, and may yet be carried out."""
        return self._lost or bool(self._pending)

    async def answer(self, *, until: float) -> Answer:
        """The first answer, by the loop's clock `until`.

        Raises Silent, and Refused when no other attempt may succeed.
        """
        loop = asyncio.get_running_loop()
        begin = loop.time()
        while not self._answers and loop.time() < until:
            patience = loop.time() + self._start()
            failed = False
            while self._pending and not (self._answers or failed) and (left := min(patience, until) - loop.time()) > 0:
                failed = await self._wait(left)
            if self._refused and not self._answers and (self._harmless or not self.loose):
                raise self._refused
            if failed and not self._answers and len(self._asked) >= len(self._gateway.order):
                await asyncio.sleep(min(PAUSE, max(0.0, until - loop.time())))
        if not self._answers:
            raise Silent(reason=self._reason, bound=loop.time() - begin)
        return self._answers.pop(0)

    async def rest(self, *, until: float) -> list[Answer]:
        """The answers of those that are being asked, by the loop's clock `until`; no others are asked."""
        while self._pending and (left := until - asyncio.get_running_loop().time()) > 0:
            await self._wait(left)
        return self._answers

    def _start(self) -> float:
        """Ask the next member: each once, then again, the last one first. How many seconds it has for itself."""
        order, count = self._gateway.order, len(self._asked)
        free = [member for member in order if member not in self._asked]
        member = free[0] if free else self._asked[: len(order)][-1 - count % len(order)]
        self._asked.append(member)
        self._pending[asyncio.ensure_future(self._gateway.attempt(member, self._path, self._content))] = member
        if len(order) == 1:
            return AGAIN
        return min(AGAIN, self._gateway.hedge * _SLOWER ** max(0, count + 1 - len(order)))

    async def _wait(self, left: float) -> bool:
        """Take in what comes to an end within `left` seconds; whether some of it came to no answer."""
        done, _ = await asyncio.wait(self._pending, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        answered = [self._ended(task) for task in done]
        return not all(answered)

    def _ended(self, task: asyncio.Task[Answer]) -> bool:
        """Take in how an attempt ended; whether it was answered."""
        member = self._pending.pop(task)
        try:
            answer = task.result()
        except Lost as lost:
            self._lost = self._lost or lost.loose
            self._reason = lost.reason
            self._gateway.distrust(member)
            return False
        except Refused as refused:
            self._refused = refused
            self._reason = refused.reason
            return False
        if self._pending or self._lost:
            self._gateway.prefer(member)  # the others were slower
        self._answers.append(answer)
        return True


class _Unauthenticated(Denied):
    """The token is not known to this member."""


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Turn httpx's errors into Lost, and those of TLS that it lets through."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise Lost(str(error) or type(error).__name__, loose=False) from error
    except (httpx.TransportError, OSError) as error:
        raise Lost(str(error) or type(error).__name__, loose=True) from error


def _address(member: str, path: str) -> str:
    return f"{member}/v3/{path}"


def _headers(token: str) -> Mapping[str, str]:
    return {"Authorization": token} if token else {}


def _parsed(content: bytes) -> Document:
    try:
        document = json.loads(content)
    except ValueError as error:
        raise Lost(f"no JSON: {content[:100]!r}", loose=True) from error
    if not isinstance(document, dict):
        raise Lost(f"no object: {content[:100]!r}", loose=True)
    return document


def _error(status: int, content: bytes) -> Exception:
    """What an answer other than 200 means."""
    try:
        document = json.loads(content)
        code, reason = int(document["code"]), str(document["error"])
    except (ValueError, KeyError, TypeError):
        reason = content[:200].decode(errors="replace").strip()
        return Refused(reason=reason) if status < 500 else Lost(reason, loose=True)
    return _verdict(code, reason)


def _verdict(code: int, reason: str) -> Exception:
    if code == _UNAUTHENTICATED or _SIGNED_IN_BEFORE in reason:
        return _Unauthenticated(reason=reason)
    if "too many requests" in reason:
        return Lost(reason, loose=False)
    if code not in _DEFINITE:  # no leader, no answer of the other members in time, member on its way down
        return Lost(reason, loose=True)
    kind = {_OUT_OF_RANGE: OutOfRange, _DENIED: Denied}.get(code, Full if "space exceeded" in reason else Refused)
    return kind(reason=reason)


async def _results(response: httpx.Response) -> AsyncGenerator[Document, None]:
    """The documents of a stream, one a line."""
    async for line in response.aiter_lines():
        document = _parsed(line.encode())
        if error := document.get("error"):
            raise _verdict(int(error.get("grpc_code", 0)), str(error.get("message", error)))
        yield document["result"]
