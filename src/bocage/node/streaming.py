"""Answers of the node that come piece by piece."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send


class Stream(Response):
    """A stream that ends when nobody reads it any more, and whose source has then put away what it held.

    Not Starlette's own: that cancels each wait of the source's clean-up too.
    """

    def __init__(self, pieces: AsyncGenerator[bytes, None], **options: Any) -> None:
        super().__init__(**options)
        del self.headers["content-length"]
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        doing = [asyncio.create_task(self._send(send)), asyncio.create_task(_until_gone(receive))]
        try:
            await asyncio.wait(doing, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in doing:
                one.cancel()
            await asyncio.wait(doing)
            await self._pieces.aclose()
        if not doing[0].cancelled():
            doing[0].result()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for piece in self._pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
