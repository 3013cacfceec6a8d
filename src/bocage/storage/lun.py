"""A LUN, reached by QEMU's own initiator: its size, its parts read and written, a slice of it filled.

Every tool that is given up here leaves nothing that its kernel goes on sending.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import pathlib
import re
import tempfile
from collections.abc import Iterator
from typing import Any

from bocage import errors, process, sockets, storage, threads
from bocage.model.lun import LunPlace, Slice
from bocage.storage import qcow2, tools
from bocage.words import N_

_QUICK = 10.0  # seconds
_LONG = 24 * 3600.0
_SECRET = "chap"  # noqa: S105 - what QEMU calls it
_PERCENT = re.compile(r"\(\s*([\d.]+)/100%\)")


class Unreachable(storage.Error, errors.Unavailable):
    type = "lun-unreachable"
    text = N_("LUN {lun} of {target} at {portal} cannot be had: {reason}")
    hint = N_("look at the array and the network to it, at its access list, and at user and password (CHAP)")
    lun: int
    target: str
    portal: str
    reason: str


class NoInitiator(storage.Error, errors.Unavailable):
    type = "iscsi-initiator-missing"
    text = N_("QEMU's iSCSI initiator is not installed on this host")
    hint = N_("apt-get install qemu-block-extra")


@dataclasses.dataclass(frozen=True, slots=True)
class Lun:
    """Where it is, and who we are there."""

    place: LunPlace
    initiator: str  # ours, one per host: QEMU's default is the same everywhere
    password: str = dataclasses.field(default="", repr=False)

    def node(self) -> dict[str, Any]:
        """It as a block node of QEMU's; its password is the object `chap`."""
        at = self.place
        found: dict[str, Any] = {"driver": "iscsi", "transport": "tcp", "portal": at.portal, "target": at.target}
        found |= {"lun": at.lun, "initiator-name": self.initiator}
        return found | ({"user": at.user, "password-secret": _SECRET} if at.user else {})


async def size(lun: Lun) -> int:
    """Its size in bytes. Raises Unreachable and NoInitiator."""
    told = await _tool(lun, "info", "--output=json", _named(lun.node()), within=_QUICK)
    return int(json.loads(told)["virtual-size"])


async def read(lun: Lun, part: Slice) -> bytes:
    """What is in a small part of it. Raises Unreachable and NoInitiator."""
    with tempfile.TemporaryDirectory(prefix="bocage-lun-") as scratch:
        into = pathlib.Path(scratch, "part")
        await _tool(lun, "convert", "-O", "raw", _named(_part(lun, part)), qcow2.plain(into), within=_QUICK)
        return await asyncio.to_thread(into.read_bytes)


async def write(lun: Lun, offset: int, content: bytes) -> None:
    """Write a small part of it, durably. Raises Unreachable and NoInitiator."""
    with tempfile.TemporaryDirectory(prefix="bocage-lun-") as scratch:
        source = pathlib.Path(scratch, "part")
        await asyncio.to_thread(source.write_bytes, content)
        into = _named(_part(lun, Slice(offset=offset, size=len(content))))
        await _tool(lun, "convert", "-n", "-f", "raw", "-O", "raw", qcow2.plain(source), into, within=_QUICK)


async def fill(
    lun: Lun,
    part: Slice,
    scratch: pathlib.Path,
    *,
    image: tuple[pathlib.Path, str] | None,
    progress: threads.Progress | None = None,
) -> None:
    """Write a whole slice: what an image of a format holds, if one is given, and zeros behind it.

    `scratch` is a file that may be made meanwhile. Raises Unreachable, NoInitiator and process.Failed.
    """

    def told(line: str) -> None:
        if progress and (percent := _PERCENT.search(line)):
            progress(int(float(percent.group(1)) / 100 * part.size), part.size)

    await threads.run(scratch.unlink, missing_ok=True)
    try:
        await threads.run(_source, scratch, part.size, image)
        into = _named(_part(lun, part))
        source = qcow2.plain(scratch)
        await _tool(lun, "convert", "-p", "-n", "-f", "qcow2", "-O", "raw", source, into, within=_LONG, each_line=told)
    finally:
        await threads.run(scratch.unlink, missing_ok=True)


def _source(path: pathlib.Path, size: int, image: tuple[pathlib.Path, str] | None) -> None:
    """Something of that size that reads as the image does, and as zeros behind it."""
    if image is None:
        qcow2.write_empty(path, size)
    else:
        backing, backing_format = image
        qcow2.write_empty(path, size, os.path.relpath(backing, path.parent), backing_format)


def _part(lun: Lun, part: Slice) -> dict[str, Any]:
    return {"driver": "raw", "offset": part.offset, "size": part.size, "file": lun.node()}


def _named(node: dict[str, Any]) -> str:
    return f"json:{json.dumps(node)}"


@contextlib.contextmanager
def _password(lun: Lun) -> Iterator[tuple[tuple[str, ...], tuple[int, ...]]]:
    """Arguments, and the descriptor that they name: nothing of it is on a disk, whatever ends us."""
    if not lun.place.user:
        yield (), ()
        return
    with open(os.memfd_create(_SECRET), "wb", buffering=0) as file:
        file.write(lun.password.encode())
        yield ("--object", f"secret,id={_SECRET},file=/dev/fd/{file.fileno()}"), (file.fileno(),)


async def _tool(lun: Lun, verb: str, *arguments: str, within: float, **options: Any) -> bytes:
    """Run QEMU's image tool on it. Raises Unreachable and NoInitiator."""
    try:
        with _password(lun) as (secret, kept):
            return await tools.qemu_img(verb, *secret, *arguments, within=within, pass_fds=kept, **options)
    except process.Failed as error:
        await asyncio.to_thread(sockets.end_orphans, lun.place.address)
        if "iscsi" in error.output and "Unknown driver" in error.output:
            raise NoInitiator from error
        raise _unreachable(lun, error.output.rpartition(": ")[2] or error.output) from error
    except errors.TimedOut as error:
        await asyncio.to_thread(sockets.end_orphans, lun.place.address)
        raise _unreachable(lun, f"no answer within {within:.0f} s") from error
    except asyncio.CancelledError:
        sockets.end_orphans(lun.place.address)
        raise


def _unreachable(lun: Lun, reason: str) -> Unreachable:
    said = " ".join(reason.split())[:200]
    return Unreachable(lun=lun.place.lun, target=lun.place.target, portal=lun.place.portal, reason=said)
