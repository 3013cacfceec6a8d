"""What comes or goes piece by piece: events, logs, exports, uploads."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

from bocage import errors
from bocage.client import problems
from bocage.client.connection import Connection, Query, segment
from bocage.client.rest import Client
from bocage.words import N_

_PIECE = 1 << 20
_UPLOAD_PIECE = 16 << 20
_SILENCE = 45.0  # seconds: the API says something each 15
_TRIES = 6


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """One server-sent event: `revision` is where to go on after it."""

    revision: str
    kind: str
    data: Any


class Shrunk(problems.Error, errors.Conflict):
    type = "upload-file-changed"
    text = N_("{path} changed while it was sent")
    hint = N_("send it again when nothing writes to it")
    path: str


def changes(
    connection: Connection, *, kinds: str | None = None, since: str | None = None, tries: int = _TRIES
) -> Iterator[Change]:
    """Events as they come, without end; taken up again after the last one when the connection breaks.

    Raises problems.Error when it cannot be made again in `tries` attempts.
    """
    left = tries
    while True:
        try:
            query = {"kinds": kinds, "since": since}
            with connection.stream("GET", "/events/stream", query=query, within=_SILENCE) as response:
                left = tries
                for change in parse(response):
                    since = change.revision or since
                    yield change
        except (problems.Broken, problems.Unreachable, errors.TimedOut):
            left -= 1
            if left <= 0:
                raise
        time.sleep(min(5.0, 0.2 * 2 ** (tries - left)))


def parse(stream: Any) -> Iterator[Change]:
    """Read a `text/event-stream` (WHATWG HTML, section 9.2); comments and what is cut short are left out."""
    revision, kind = "", ""
    data: list[str] = []
    while line := stream.readline():
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        if not text:
            if data:
                yield Change(revision, kind, json.loads("\n".join(data)))
            kind, data = "", []
            continue
        field, _, value = text.partition(":")
        value = value.removeprefix(" ")
        if field == "id":
            revision = value
        elif field == "event":
            kind = value
        elif field == "data":
            data.append(value)


def log(
    client: Client, name: str, *, source: str = "serial", follow: bool = False, offset: int | None = None
) -> Iterator[bytes]:
    """A VM's log as it lies there; with `follow` also what comes, without end. `source`: serial or qemu."""
    query = {"source": source, "follow": follow, "offset": offset}
    path = f"{client.vms.path}/{segment(name)}/log"
    with client.connection.stream("GET", path, query=query, within=None if follow else 60) as response:
        while piece := response.read1(_PIECE):
            yield piece


class Had:
    """What is there of an export: its length, and its digest so far."""

    def __init__(self) -> None:
        self.length, self._hashed = 0, hashlib.sha256()

    def add(self, piece: bytes) -> None:
        self.length += len(piece)
        self._hashed.update(piece)

    @property
    def query(self) -> dict[str, Any]:
        """Asks for what comes after it."""
        return {"offset": self.length, "sha256": self._hashed.hexdigest()} if self.length else {}


def export(client: Client, name: str, *, chain: bool = False, had: Had | None = None) -> Iterator[bytes]:
    """A stopped VM as an archive, or what comes after `had`; with `chain` its disks keep their backing files.

    When the connection breaks it goes on where it was. Raises problems.Error.
    """
    had, left = had or Had(), _TRIES
    while True:
        before = had.length
        try:
            yield from _rest(client, name, had, chain=chain)
        except (problems.Broken, problems.Unreachable, errors.TimedOut):
            left = _TRIES if had.length > before else left - 1
            if not had.length or not left:
                raise
        else:
            return
        time.sleep(0.2 * 2 ** (_TRIES - left))


def _rest(client: Client, name: str, had: Had, *, chain: bool) -> Iterator[bytes]:
    query = {"form": "archive", "chain": chain, **had.query}
    path = f"{client.vms.path}/{segment(name)}/export"
    with client.connection.stream("GET", path, query=query, within=300) as response:
        while piece := response.read1(_PIECE):
            had.add(piece)
            yield piece
        if response.length:
            raise problems.Broken(reason="it ended too soon")


def upload(
    client: Client,
    key: str,
    path: str,
    *,
    storage: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Send a file to a storage under `key`, going on where an earlier try ended.

    `on_progress` gets bytes sent and in all. What is made of the file is made on that storage.
    """
    total, query = os.path.getsize(path), {"storage": storage}
    with open(path, "rb") as file:
        sent = _already(client.connection, key, query)
        if sent > total:
            raise Shrunk(path=path)
        while True:
            if on_progress:
                on_progress(sent, total)
            if sent >= total:
                return
            sent = _send_piece(client.connection, key, query, file, sent)


def _already(connection: Connection, key: str, query: Query) -> int:
    try:
        answer = connection.request("GET", f"/uploads/{key}", query=query)
    except problems.ProblemError as problem:
        if problem.http_status == 404:
            return 0
        raise
    return int(answer.headers.get("Upload-Offset") or answer.headers.get("upload-offset") or 0)


def _send_piece(connection: Connection, key: str, query: Query, file: BinaryIO, offset: int) -> int:
    file.seek(offset)
    piece = file.read(_UPLOAD_PIECE)
    if not piece:
        raise Shrunk(path=getattr(file, "name", key))
    headers = {"Upload-Offset": str(offset), "Content-Type": "application/octet-stream"}
    for left in reversed(range(_TRIES)):
        try:
            if left < _TRIES - 1 and (now := _already(connection, key, query)) != offset:
                return now
            connection.request("PATCH", f"/uploads/{key}", query=query, body=piece, headers=headers, within=300)
            return offset + len(piece)
        except (problems.Broken, problems.Unreachable, problems.ProblemError, errors.TimedOut) as problem:
            passing = getattr(problem, "http_status", 503) in (502, 503, 504)  # such as a daemon that is started anew
            if not left or not passing:
                raise
            time.sleep(0.2 * 2 ** (_TRIES - left))
    raise AssertionError("unreachable")


def put_import(client: Client, key: str, pieces: Iterable[bytes], *, storage: str | None = None) -> None:
    """Send an exported archive to a storage under `key`, for `client.vms.take_import`."""
    path = f"/projects/{client.project}/imports/{key}"
    headers = {"Content-Type": "application/octet-stream"}
    client.connection.request("PUT", path, query={"storage": storage}, body=pieces, headers=headers, within=3600)


def discard(client: Client, key: str, *, storage: str | None = None) -> None:
    """Have what was sent to a storage under `key` forgotten."""
    client.connection.request("DELETE", f"/uploads/{key}", query={"storage": storage})
