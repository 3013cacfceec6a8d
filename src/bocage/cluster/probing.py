"""Whether a host answers directly, at the port on which hosts speak to each other.

It answers only where its daemon runs: the handshake is the daemon's, not the kernel's.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl

from bocage.cluster.mirror import Mirror
from bocage.model import ground


class Probing:
    """A `ruler.Probe`."""

    def __init__(self, mirror: Mirror, trust: ssl.SSLContext, port: int) -> None:
        self._mirror, self._trust, self._port = mirror, trust, port

    async def answers(self, uid: str) -> bool:
        """Raises OSError where it does not."""
        host = self._mirror.get(ground.Host, uid)
        if host is None or not host.status.address:
            return False
        _, writer = await asyncio.open_connection(host.status.address, self._port, ssl=self._trust)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return True
