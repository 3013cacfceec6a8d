"""A small API on a Unix socket that answers what a test tells it to, and remembers what it was asked."""

from __future__ import annotations

import dataclasses
import http.server
import json
import pathlib
import socketserver
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

VM_UID = "5f0c9f1e-6f0a-4c53-9c1e-0d1f5a3f7c11"
TASK_UID = "01890a5d-ac96-774b-bcce-b302099a8057"


@dataclasses.dataclass
class Asked:
    method: str
    path: str
    """Below /api/v1, with the query."""
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)


@dataclasses.dataclass
class Reply:
    body: Any = None
    status: int = 200
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    hang_up: bool = False
    """Close the connection in place of an answer."""
    cut: int | None = None
    """Close it after so many bytes of the body."""


Answer = Reply | Callable[[Asked], Reply]


class FakeApi:
    """`on` says what is answered; several answers are given one after the other, the last one from then on."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self.asked: list[Asked] = []
        self._answers: dict[tuple[str, str], list[Answer]] = {}
        self._starts: dict[tuple[str, str], Answer] = {}

    def on(self, method: str, path: str, *answers: Answer | dict[str, Any] | list[Any]) -> None:
        self._answers[method, path] = [Reply(one) if isinstance(one, (dict, list)) else one for one in answers]

    def answer_any(self, method: str, start: str, answer: Answer) -> None:
        """One answer for all paths that begin so."""
        self._starts[method, start] = answer

    def asked_for(self, method: str, path: str = "") -> list[Asked]:
        return [one for one in self.asked if one.method == method and one.path.startswith(path)]

    def answer(self, asked: Asked) -> Reply:
        self.asked.append(asked)
        bare = asked.path.partition("?")[0]
        found = self._answers.get((asked.method, asked.path)) or self._answers.get((asked.method, bare))
        if not found:
            found = [
                one for (how, start), one in self._starts.items() if how == asked.method and bare.startswith(start)
            ]
        if not found:
            return problem(404, "not-found", f"there is nothing at {asked.method} {asked.path}")
        one = found.pop(0) if len(found) > 1 else found[0]
        return one(asked) if callable(one) else one


def problem(status: int, kind: str, sentence: str, hint: str = "", **more: Any) -> Reply:
    body = {"type": f"urn:bocage:problem:{kind}", "title": sentence, "detail": sentence, "status": status, **more}
    if hint:
        body["hint"] = hint
    return Reply(body, status)


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64
    fake: FakeApi

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no fault of the test's."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _serve(self) -> None:
        asked = Asked(self.command, self.path.removeprefix("/api/v1"), dict(self.headers.items()), self._read())
        reply = self.server.fake.answer(asked)
        if reply.hang_up:
            self.close_connection = True
            return
        body = reply.body if isinstance(reply.body, bytes) else b"" if reply.body is None else _json(reply.body)
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: reply.cut])
        self.close_connection = self.close_connection or reply.cut is not None

    def __getattr__(self, name: str) -> Any:
        """`do_GET`, `do_POST` and all others alike."""
        if name.startswith("do_"):
            return self._serve
        raise AttributeError(name)

    def _read(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            return b"".join(self._chunks())
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's own name
        pass


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def serving(path: pathlib.Path) -> Iterator[FakeApi]:
    """A fixture's body: the API at the socket `path` until the test ends."""
    fake = FakeApi(path)
    server = _Server(str(path), _Handler)
    server.fake = fake
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def listed(*items: dict[str, Any], after: str | None = None) -> dict[str, Any]:
    return {"items": list(items), "revision": 7, "after": after}


def metadata(name: str, uid: str = VM_UID, **more: Any) -> dict[str, Any]:
    return {
        "uid": uid,
        "name": name,
        "project": "default",
        "title": "",
        "notes": "",
        "tags": [],
        "protected": False,
        "created": "2026-01-02T03:04:05Z",
        "deleted": None,
        "generation": 1,
        "revision": 42,
        "status_revision": 43,
        **more,
    }


def vm(name: str = "web1", *, uid: str = VM_UID, state: str = "running", **status: Any) -> dict[str, Any]:
    """A VM as the API gives it."""
    return {
        "metadata": metadata(name, uid),
        "spec": {
            "power": "running",
            "cpus": {"sockets": 1, "cores": 2, "threads": 1},
            "memory": "512M",
            "disks": [],
            "cds": [],
            "nics": [],
            "boot": {"order": ["disk0"], "once": None},
            "seed": None,
            "restart": {"policy": "on-crash", "limit": 5, "delay": 1.0},
            "autostart": {"enabled": False, "order": 100, "delay": 0.0},
            "stop": {"within": 180.0, "then": "leave"},
            "hardware": {
                "machine": "pc-q35-7.2",
                "cpu_model": "Westmere-v1",
                "firmware": "bios",
                "smbios": {"uuid": VM_UID, "serial": "x"},
                "devices": {},
            },
        },
        "status": {"state": state, "since": "2026-01-02T03:04:05Z", "nics": [], "problem": None, **status},
    }


def task(action: str = "vm.start", state: str = "pending", name: str = "web1", **status: Any) -> dict[str, Any]:
    """A task as the API gives it."""
    return {
        "metadata": metadata("t", TASK_UID),
        "spec": {"action": action, "subject": {"kind": "vm", "uid": VM_UID, "name": name}, "params": {}},
        "status": {"state": state, "progress": {"done": 0, "total": 0, "unit": "steps"}, "log": [], **status},
    }
