"""Fetching an image over HTTP into an intake, carried on where it broke off."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import json
import re
import ssl
import urllib.parse
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from bocage import errors, storage
from bocage.storage import intake
from bocage.words import N_

if TYPE_CHECKING:
    import httpx

_REDIRECTS = 5
_TRIES = 5  # in a row without a byte
_PATIENCE = 60.0  # seconds without a byte
_PAUSE = 1.0  # seconds before the second try; doubled for each that follows


class Error(storage.Error):
    """A download did not come to its end."""


class BadAddress(Error, errors.Invalid, ValueError):
    """An address that is not fetched from."""

    type = "download-bad-address"
    text = N_("'{address}' is not an address to download from: {fault}")
    hint = N_("give an http:// or https:// address")
    address: str
    fault: str


class Refused(Error, errors.Unavailable):
    """The server answered that it does not give the file. `status_code` is its HTTP status."""

    type = "download-refused"
    text = N_("{address} cannot be had: the server answered {status_code}")
    address: str
    status_code: int


class Broken(Error, errors.Unavailable):
    """The connection failed again and again. What came is kept."""

    type = "download-broken"
    text = N_("the download of {address} broke off at {offset:size}: {fault}")
    hint = N_("the same command goes on where it broke off")
    address: str
    offset: int
    fault: str


@dataclasses.dataclass(slots=True)
class _Source:
    """Where a download stands: the version of the file on the server, and its size where it is known."""

    address: str
    version: str | None = None
    size: int | None = None

    def text(self) -> str:
        """As it is noted beside the partial file."""
        return json.dumps(dataclasses.asdict(self))


def _noted(text: str, address: str) -> _Source:
    with contextlib.suppress(ValueError, TypeError):
        source = _Source(**json.loads(text))
        if source.address == address:
            return source
    return _Source(address)


def key_of(address: str) -> str:
    """The intake's key of a download: the same address goes on with the same file."""
    return "url-" + hashlib.sha256(address.encode()).hexdigest()[:32]


async def fetch(
    into: intake.Intake,
    address: str,
    *,
    limit: int | None = None,
    received: Callable[[int, int | None], None] | None = None,
    trust: ssl.SSLContext | None = None,
    pause: float = _PAUSE,
) -> str:
    """Download `address` and return the intake's key of it.

    `received` is told the bytes here and, where the server says it, in all. `trust` replaces the
    system's certificates. Raises BadAddress, Refused, Broken, intake.Busy, intake.OverLimit, space.Full.
    """
    import httpx

    _check_address(address)
    key = key_of(address)
    source = _noted(into.noted(key), address)
    tries = 0
    async with httpx.AsyncClient(
        timeout=httpx.Timeout(_PATIENCE, connect=30.0), verify=trust or True, headers={"Accept-Encoding": "identity"}
    ) as client:
        while True:
            before = into.offset(key)
            try:
                await _once(client, into, key, source, limit, received)
            except (httpx.TransportError, _ShortError) as error:
                tries = 1 if into.offset(key) > before else tries + 1
                if tries >= _TRIES:
                    fault = str(error) or type(error).__name__
                    raise Broken(address=address, offset=into.offset(key), fault=fault) from error
                await asyncio.sleep(pause * 2 ** (tries - 1))
            else:
                return key


class _ShortError(Exception):
    """The body ended before its announced length."""


async def _once(
    client: httpx.AsyncClient,
    into: intake.Intake,
    key: str,
    source: _Source,
    limit: int | None,
    received: Callable[[int, int | None], None] | None,
) -> None:
    offset = into.offset(key)
    if offset and source.version is None:
        # nobody knows which version of the file it was: begin anew
        await into.discard(key)
        offset = 0
    headers = {"Range": f"bytes={offset}-", "If-Range": source.version or ""} if offset else {}
    async with _response(client, source.address, headers) as response:
        if response.status_code == 416 and offset == source.size:
            return
        if response.status_code not in (200, 206):
            await response.aread()
            raise Refused(address=source.address, status_code=response.status_code)
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise BadAddress(address=source.address, fault="the server sends it compressed")
        if offset and not _goes_on(response, offset):
            await into.discard(key)
            offset = 0
        length = response.headers.get("Content-Length", "")
        source.version = _version(response)
        source.size = offset + int(length) if length.isdecimal() else None
        if limit is not None and source.size is not None and source.size > limit:
            await into.discard(key)
            raise intake.OverLimit(key=key, limit=limit)
        into.note(key, source.text())

        def told(count: int) -> None:
            if received:
                received(count, source.size)

        reached = await into.append(key, offset, response.aiter_raw(), limit=limit, received=told)
        if source.size is not None and reached != source.size:
            raise _ShortError(f"{reached} of {source.size} bytes")


@contextlib.asynccontextmanager
async def _response(client: httpx.AsyncClient, address: str, headers: dict[str, str]) -> AsyncIterator[httpx.Response]:
    request = client.build_request("GET", address, headers=headers)
    for _ in range(_REDIRECTS + 1):
        response = await client.send(request, stream=True)
        try:
            if response.next_request is None:
                yield response
                return
            _check_redirect(str(request.url), str(response.next_request.url))
            request = response.next_request
        finally:
            await response.aclose()
    raise BadAddress(address=address, fault=f"more than {_REDIRECTS} redirections")


def _check_address(address: str) -> None:
    try:
        parts = urllib.parse.urlsplit(address)
        _ = parts.port
    except ValueError as error:
        raise BadAddress(address=address[:500], fault=str(error)) from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadAddress(address=address[:500], fault="only http and https are fetched from")
    if any(ord(letter) < 33 or ord(letter) == 127 for letter in address):
        raise BadAddress(address=address[:500], fault="it has spaces or control characters")


def _check_redirect(origin: str, target: str) -> None:
    _check_address(target)
    if origin.startswith("https:") and not target.startswith("https:"):
        raise BadAddress(address=target[:500], fault="an https address leads to one that is not")


def _goes_on(response: httpx.Response, offset: int) -> bool:
    matched = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return response.status_code == 206 and matched is not None and int(matched.group(1)) == offset


def _version(response: httpx.Response) -> str | None:
    tag = response.headers.get("ETag")
    if tag and not tag.startswith("W/"):
        return str(tag)
    modified = response.headers.get("Last-Modified")
    return str(modified) if modified else None
