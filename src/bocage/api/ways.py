"""How a node is reached: this host's over its Unix socket, another's over TLS with this host's certificate."""

from __future__ import annotations

import asyncio
import os
import pathlib
import ssl
from typing import TYPE_CHECKING, Any, Protocol

from bocage import errors
from bocage.api import problems
from bocage.membership import place
from bocage.model import base, ground
from bocage.store.etcd import access
from bocage.words import N_

if TYPE_CHECKING:
    import httpx

_CONNECT = 5.0  # seconds until this host's own node has taken a connection
_REACH = 3.0  # and another host: it is near, or it is in trouble
_DOUBT = 5.0  # seconds without a word after which it is asked whether it is still there
_FRAME = 1 << 20  # bytes; the largest of a console


class Error(problems.Error):
    """A node cannot be reached."""


class Away(Error, errors.Unavailable):
    type = "node-away"
    text = N_("this host's node does not answer: {reason}")
    hint = N_("it may be starting; 'bocage daemon status' says whether it runs")
    reason: str


class HostSilent(Error, errors.Unavailable):
    """Another host does not answer; what the store knows of its VMs is there all the same."""

    type = "host-silent"
    text = N_("{host} does not answer, and was last seen {ago:seconds} ago: {reason}")
    hint = N_("'bocage vm list' goes on to tell what was known of its VMs last; 'bocage host show {host}' says more")
    host: str
    ago: float
    reason: str


class Way(Protocol):
    """How one node is reached."""

    @property
    def within(self) -> float:
        """Seconds that it has to take a connection."""

    def client(self) -> httpx.AsyncClient:
        """For HTTP, by paths alone; whoever asks closes it."""

    def converse(self, path: str) -> Any:
        """A WebSocket, as a context."""

    def away(self, reason: str) -> errors.Problem:
        """What is to be said when it does not answer."""

    async def lost(self) -> errors.Problem:
        """Wait until it is known to be out of reach, though nothing says so; what is to be said then."""


class Own:
    """This host's own: where it ends, the connection does."""

    within = _CONNECT

    def __init__(self, socket: pathlib.Path) -> None:
        self._socket = os.fspath(socket)

    def client(self) -> httpx.AsyncClient:
        import httpx  # late: large, and not needed before somebody asks for a stream

        transport = httpx.AsyncHTTPTransport(uds=self._socket, limits=_limits())
        return httpx.AsyncClient(transport=transport, base_url="http://node", trust_env=False)

    def converse(self, path: str) -> Any:
        from websockets.asyncio import client

        return client.unix_connect(self._socket, f"ws://node{path}", **_talking(self.within))

    def away(self, reason: str) -> errors.Problem:
        return Away(reason=reason)

    async def lost(self) -> errors.Problem:
        never: asyncio.Future[errors.Problem] = asyncio.get_running_loop().create_future()
        return await never


class Other:
    """Another host's: it may go without a word, so it is asked, beside what it is doing."""

    within = _REACH

    def __init__(self, host: ground.Host, papers: access.Certificates) -> None:
        self.address = host.status.address
        self._host, self._papers = host, papers
        self._url = place.url(self.address, place.HOST_PORT)

    def client(self) -> httpx.AsyncClient:
        import httpx

        transport = httpx.AsyncHTTPTransport(verify=self._trusted(), limits=_limits())
        return httpx.AsyncClient(transport=transport, base_url=self._url, trust_env=False)

    def converse(self, path: str) -> Any:
        from websockets.asyncio import client

        url = self._url.replace("https:", "wss:", 1)
        return client.connect(f"{url}{path}", ssl=self._trusted(), proxy=None, **_talking(self.within))

    def away(self, reason: str) -> errors.Problem:
        seen = self._host.status.seen
        ago = max((base.now() - seen).total_seconds(), 0.0) if seen else 0.0
        return HostSilent(host=self._host.name, ago=ago, reason=reason)

    async def lost(self) -> errors.Problem:
        while True:
            await asyncio.sleep(_DOUBT)
            if (reason := await self._is_silent()) is not None:
                return self.away(reason)

    async def _is_silent(self) -> str | None:
        """Why it does not answer, over a connection of its own; None: it does."""
        import httpx

        try:
            async with asyncio.timeout(_REACH), self.client() as client:
                await client.get("/ca")
        except TimeoutError:
            return f"no answer within {_REACH:g} s"
        except httpx.TransportError as error:
            return str(error) or type(error).__name__
        return None

    def _trusted(self) -> ssl.SSLContext:
        """Made anew each time: certificates are renewed."""
        return self._papers.context()


def _limits() -> httpx.Limits:
    import httpx

    return httpx.Limits(max_connections=None, max_keepalive_connections=8, keepalive_expiry=5)


def _talking(within: float) -> dict[str, Any]:
    return {"open_timeout": within, "close_timeout": 1, "max_size": _FRAME, "compression": None}
