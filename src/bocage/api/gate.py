"""The way into the application: who asks, in which language, and what happens when our own code fails."""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from bocage import errors, words
from bocage.api import auth, problems
from bocage.store import remembered

_LANGUAGE = re.compile(rb"\s*([A-Za-z]{2,8})(?:[-_][A-Za-z0-9]{1,8})*\s*(?:[;,]|$)")


class Gate:
    """ASGI middleware around everything else."""

    def __init__(self, app: ASGIApp, *, authentication: auth.Authentication) -> None:
        self._app = app
        self._authentication = authentication

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        begun = False

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = True
            if message["type"] == "http.response.start" and (silent := remembered.silence.get()) is not None:
                message["headers"] = [*message.get("headers", ()), (b"bocage-store-silent", b"%d" % silent)]
            await send(message)

        words.language.set(_language(scope))
        state = scope.setdefault("state", {})
        try:
            state["asker"] = await self._authentication.ask(scope)
            await self._app(scope, receive, noted)
        except errors.Problem as problem:
            _log(scope, problem)
            await _tell(problem, scope, receive, send, begun=begun)
        except Exception as error:  # noqa: BLE001 - whatever it is, the asker gets an answer and the log the rest
            fault = problems.on_fault(scope.get("method", "WEBSOCKET"), scope["path"], error)
            await _tell(fault, scope, receive, send, begun=begun)


async def _tell(problem: errors.Problem, scope: Scope, receive: Receive, send: Send, *, begun: bool) -> None:
    if begun:
        return  # the answer was under way: the connection is cut, so that nobody takes it for whole
    answer = problems.response(problem)
    if scope["type"] == "http":
        await answer(scope, receive, send)
    else:
        await WebSocket(scope, receive, send).send_denial_response(answer)


def _log(scope: Scope, problem: errors.Problem) -> None:
    problems.note(scope.get("method", "WEBSOCKET"), scope["path"], scope.get("state", {}).get("asker"), problem)


def _language(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"accept-language" and (match := _LANGUAGE.match(value)):
            return bytes(match[1]).decode().lower()
    return "en"
