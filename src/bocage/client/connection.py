"""One connection to the API: its Unix socket, or a URL with a token."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import os
import re
import socket
import urllib.parse
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

from bocage import errors
from bocage.client import problems
from bocage.words import N_

ANSWER_WITHIN = 60.0  # seconds
_CONNECT_WITHIN = 10.0
_BASE = "/api/v1"
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")

Query = Mapping[str, Any]
Body = bytes | Iterable[bytes] | BinaryIO


class BadUrl(problems.Error, errors.Invalid, ValueError):
    type = "bad-api-url"
    text = N_("BOCAGE_URL: '{url}' is not the address of an API")
    hint = N_("write it like https://host.example:8480")
    url: str


class BadName(problems.Error, errors.Invalid, ValueError):
    type = "bad-name"
    text = N_("'{name}' is not a name")
    hint = N_("a name has lower-case letters, digits and hyphens inside, 63 at most: web1, db-2")
    name: str


@dataclasses.dataclass(frozen=True, slots=True)
class Address:
    """Where an API is: the path of a Unix socket, or scheme, host and port of a URL."""

    socket: str | None = None
    scheme: str = "http"
    host: str = ""
    port: int = 0
    token: str | None = dataclasses.field(default=None, repr=False)

    @classmethod
    def from_environment(cls) -> Address:
        """`BOCAGE_URL` with `BOCAGE_TOKEN`; else the socket of the home. Raises BadUrl."""
        if url := os.environ.get("BOCAGE_URL"):
            return cls.from_url(url, os.environ.get("BOCAGE_TOKEN"))
        from bocage import home

        return cls(socket=str(home.Home.from_environment().socket))

    @classmethod
    def from_url(cls, url: str, token: str | None = None) -> Address:
        """Read `http://HOST:PORT`, `https://HOST` or `unix:///PATH`; raises BadUrl."""
        try:
            parts = urllib.parse.urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise BadUrl(url=url) from error
        if parts.scheme == "unix" and parts.path:
            return cls(socket=parts.path, token=token)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BadUrl(url=url)
        return cls(
            scheme=parts.scheme,
            host=parts.hostname,
            port=port or (443 if parts.scheme == "https" else 8480),
            token=token,
        )

    def __str__(self) -> str:
        return self.socket or f"{self.scheme}://{self.host}:{self.port}"


class _OverUnixSocket(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("bocage", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body) if self.body else None


class Connection:
    """Sends requests one after another; kept alive between them. Not for several threads at once."""

    def __init__(self, address: Address, *, language: str = "") -> None:
        self.address = address
        self.store_silent: int | None = None
        """For how many seconds the cluster's store has been silent, by the last answer: it may be that old."""
        self._headers = {"Accept-Language": language} if language else {}
        if address.token:
            self._headers["Authorization"] = f"Bearer {address.token}"
        self._kept: http.client.HTTPConnection | None = None

    @property
    def headers(self) -> dict[str, str]:
        """What every request carries."""
        return dict(self._headers)

    def close(self) -> None:
        if self._kept:
            self._kept.close()
            self._kept = None

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        document: Any = None,
        body: Body | None = None,
        headers: Mapping[str, str] | None = None,
        within: float = ANSWER_WITHIN,
    ) -> Answer:
        """One request and its whole answer; `within` bounds each silence in seconds.

        Every POST carries an idempotency key, so that it is sent once more when the connection
        broke, as what only reads is. Raises problems.Error.
        """
        sent = {**self._headers, **(headers or {})}
        if document is not None:
            body, sent["Content-Type"] = json.dumps(document).encode(), "application/json"
        if method == "POST":
            sent.setdefault("Idempotency-Key", str(uuid.uuid4()))
        again = method in ("GET", "HEAD", "POST") and (body is None or isinstance(body, bytes))
        while True:
            try:
                with self._exchange(method, target(path, query), body, sent, within) as response:
                    return Answer(response.status, dict(response.headers.items()), response.read())
            except problems.Broken:
                if not again:
                    raise
                again = False

    @contextlib.contextmanager
    def stream(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        document: Any = None,
        within: float | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        """The answer's head, its body to be read piece by piece; on a connection of its own, and asked once."""
        own = Connection(self.address)
        own._headers = self._headers
        headers, body = dict(self._headers), None
        if document is not None:
            body, headers["Content-Type"] = json.dumps(document).encode(), "application/json"
        try:
            with own._exchange(method, target(path, query), body, headers, within) as response:
                yield response
        finally:
            own.close()

    @contextlib.contextmanager
    def _exchange(
        self, method: str, url: str, body: Body | None, headers: Mapping[str, str], within: float | None
    ) -> Iterator[http.client.HTTPResponse]:
        kept = self._open()
        assert kept.sock
        kept.sock.settimeout(within)
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            try:
                kept.request(method, url, body=body, headers=dict(headers))
                response = kept.getresponse()
                said = response.headers.get("Bocage-Store-Silent", "")
                self.store_silent = int(said) if said.isdigit() else None
                if response.status >= 400:
                    raise problems.read(response.status, response.read(), address=str(self.address))
                yield response
            except TimeoutError as error:
                raise errors.TimedOut(what="the daemon", bound=within or 0) from error
            except (http.client.HTTPException, ConnectionError) as error:
                if isinstance(error, problems.Error):
                    raise
                raise problems.Broken(reason=str(error) or type(error).__name__) from error
            if not response.will_close:
                undo.pop_all()

    def _open(self) -> http.client.HTTPConnection:
        if self._kept and self._kept.sock:
            return self._kept
        self._kept = self._make()
        try:
            self._kept.connect()
        except OSError as error:
            self._kept = None
            reason = (error.strerror or str(error)).lower()
            raise problems.Unreachable(address=str(self.address), reason=reason) from error
        return self._kept

    def _make(self) -> http.client.HTTPConnection:
        at = self.address
        if at.socket:
            return _OverUnixSocket(at.socket, _CONNECT_WITHIN)
        if at.scheme == "https":
            return http.client.HTTPSConnection(at.host, at.port, timeout=_CONNECT_WITHIN)
        return http.client.HTTPConnection(at.host, at.port, timeout=_CONNECT_WITHIN)


def target(path: str, query: Query | None = None) -> str:
    """The request's target: `path` below the API's base, with what of `query` is not None."""
    given = {key: _plain(value) for key, value in (query or {}).items() if value is not None}
    tail = "?" + urllib.parse.urlencode(given) if given else ""
    return _BASE + path + tail


def segment(name: str, *, form: re.Pattern[str] = _NAME) -> str:
    """A name of a form as one part of a path; raises BadName for what is none, so that it cannot lead elsewhere."""
    if not form.fullmatch(name):
        raise BadName(name=name if len(name) <= 80 else name[:79] + "…")
    return name


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
