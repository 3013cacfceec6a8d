"""What this host has of its cluster beside the store: the records, its life, and the way to other hosts' nodes."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from bocage import errors, ledger, words
from bocage.membership import place
from bocage.model import ground
from bocage.node import rights
from bocage.protocol import records, timing
from bocage.words import N_

if TYPE_CHECKING:
    import httpx


class Error(errors.Problem):
    """Another host cannot be asked."""


class Silent(Error, errors.Unavailable):
    type = "host-does-not-answer"
    text = N_("{host} does not answer: {reason}")
    hint = N_("'bocage host show {host}' says when it was last seen")
    host: str
    reason: str


class Alone(Error, errors.Conflict):
    type = "host-without-cluster"
    text = N_("this host is part of no cluster: there is nowhere else to go")
    hint = N_("'bocage cluster init', then 'bocage cluster invite' for another host")


class Coming(rights.Claim, Protocol):
    """A VM that is on its way here, guarded before it has any memory."""

    def arrived(self, generation: int) -> None:
        """The records say that it is this host's."""


class Lives(Protocol):
    """This host's life in the cluster."""

    @property
    def life(self) -> records.Life | None:
        """This host's, while it is live."""

    async def comes(self, vm: str, storage: str, generation: int) -> Coming:
        """The right to have a VM's process wait here, which runs elsewhere. Raises rights.Error."""

    def is_empty(self, vm: str) -> bool:
        """Whether nothing of it is here, and what was sent to its storage has landed."""

    async def comes_again(self, vm: str, storage: str, generation: int) -> Coming:
        """The same for one that was found waiting."""


@dataclasses.dataclass(frozen=True, slots=True)
class Cluster:
    """One host's."""

    address: str
    book: ledger.Ledger
    lives: Lives
    profile: timing.Timing
    trust: Callable[[], ssl.SSLContext]


class Peer:
    """Another host's node, asked over one connection that is kept; to be closed."""

    def __init__(self, host: ground.Host, cluster: Cluster) -> None:
        self.name = host.name
        self._url = place.url(host.status.address, place.HOST_PORT)
        self._cluster = cluster
        self._client: httpx.AsyncClient | None = None

    async def ask(self, method: str, path: str, document: Any = None, *, within: float) -> Any:
        """What it answers, as JSON. Raises its own problems, and Silent."""
        import httpx  # late: large, and not needed before

        if self._client is None:
            trust = await asyncio.to_thread(self._cluster.trust)
            self._client = httpx.AsyncClient(base_url=self._url, verify=trust, trust_env=False)
        try:
            async with asyncio.timeout(within):
                answer = await self._client.request(method, path, json=document, timeout=within)
        except TimeoutError as error:
            raise Silent(host=self.name, reason=f"no answer within {within:g} s") from error
        except httpx.TransportError as error:
            raise Silent(host=self.name, reason=str(error) or type(error).__name__) from error
        if answer.status_code >= 400:
            raise self._told(answer.content)
        return json.loads(answer.content) if answer.content else None

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    def _told(self, content: bytes) -> errors.Problem:
        try:
            told = json.loads(content)
            message = words.revive(str(told["type"]), dict(told["params"]))
        except (ValueError, KeyError, TypeError):
            return Silent(host=self.name, reason=content[:200].decode(errors="replace"))
        return message if isinstance(message, errors.Problem) else Silent(host=self.name, reason=words.say(message))
