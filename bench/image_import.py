"""Image import: MiB of disk a second; beside `qemu-img convert` of the same file.

The disk has 1 GiB: half of it random bytes, a quarter zeros that were written, a quarter holes, mixed in
pieces of 4 MiB. Ours also inspects the file, takes its SHA-256 and syncs what it wrote, which qemu-img does
not: its time with a sync at the end is printed, too. The source lies in the page cache on both sides. VMDK
comes in over the API, as does a raw file, which is kept as it is; raw → qcow2 is asked of the library, since
only programs ask for it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import os
import pathlib
import subprocess
import time
from collections.abc import Callable, Mapping

from bench import measure, ours, session
from bocage.storage import images

SIZE = 1 << 30  # bytes
_PIECE = 4 << 20
_OF_CONVERT = 0.9
_PATTERN = ("random", "zeros", "random", "hole")


def run(bench: session.Session) -> measure.Result:
    """The figure."""
    place = bench.place("image-import")
    raw, vmdk = place / "disk.raw", place / "disk.vmdk"
    _make(raw)
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "vmdk", str(raw), str(vmdk)], check=True)
    found: dict[str, list[float]] = {}
    with contextlib.ExitStack() as undo:
        home = undo.enter_context(ours.running(bench.place("image-import-home")))
        cases = [
            _Case("raw → qcow2", raw, "qcow2", lambda: _library(raw, place)),
            _Case("vmdk → qcow2", vmdk, "qcow2", lambda: _api(home, vmdk)),
            _Case("raw, kept raw", raw, "raw", lambda: _api(home, raw)),
        ]
        for case in cases:
            found |= measure.alternate(bench.runs, _sides(case, place))
    rows = [row for case in cases for row in _rows(found, case)]
    return measure.Result(rows)


@dataclasses.dataclass(frozen=True, slots=True)
class _Case:
    """One way in; `take` imports the source, and gives what undoes it."""

    name: str
    source: pathlib.Path
    into: str
    take: Callable[[], Callable[[], None]]


def _sides(case: _Case, place: pathlib.Path) -> dict[str, Callable[[], Mapping[str, float]]]:
    target = place / "converted"
    return {
        "ours": lambda: {f"{case.name}, ours": _rate(case.take)},
        "peer": lambda: {f"{case.name}, peer": _rate(lambda: _convert(case, target))},
        "synced": lambda: {f"{case.name}, synced": _rate(lambda: _convert(case, target, sync=True))},
        "hashed": lambda: {f"{case.name}, hashed": _rate(lambda: _convert(case, target, sync=True, digest=True))},
    }


def _rows(found: Mapping[str, list[float]], case: _Case) -> list[measure.Row]:
    return [
        _row(found, case, "peer", "qemu-img convert, which does not sync"),
        _row(found, case, "synced", "qemu-img convert and sync"),
        _row(found, case, "hashed", "qemu-img convert and sync, with sha256 beside it"),
    ]


def _row(found: Mapping[str, list[float]], case: _Case, side: str, words: str) -> measure.Row:
    peer = measure.median(found[f"{case.name}, {side}"])
    asked = case.into == "qcow2" and side == "peer"
    return measure.Row(
        figure="image-import", what=f"image import, {case.name}", unit="MiB/s",
        ours=measure.median(found[f"{case.name}, ours"]), peer=peer, peer_is=words,
        must=f"≥ {_OF_CONVERT:g} {measure.TIMES}" if asked else "", limit=_OF_CONVERT * peer if asked else None,
        at_least=True, runs=found,
    )  # fmt: skip


def _make(path: pathlib.Path) -> None:
    with path.open("wb") as file:
        for number in range(SIZE // _PIECE):
            kind = _PATTERN[number % len(_PATTERN)]
            if kind == "hole":
                file.seek(_PIECE, os.SEEK_CUR)
            else:
                file.write(os.urandom(_PIECE) if kind == "random" else bytes(_PIECE))
        file.truncate(SIZE)
        os.fsync(file.fileno())
    path.chmod(0o644)


def _rate(take: Callable[[], Callable[[], None]]) -> float:
    """MiB of disk a second; it is undone, and the disk rests before the next."""
    os.sync()
    begun = time.monotonic()
    undo = take()
    took = time.monotonic() - begun
    undo()
    os.sync()
    return SIZE / measure.MIB / took


def _library(source: pathlib.Path, place: pathlib.Path) -> Callable[[], None]:
    root = place / "library"
    for name in ("images", "incoming"):
        (root / name).mkdir(parents=True, exist_ok=True)

    async def take() -> Callable[[], None]:
        library = images.Library(root)
        taken = await library.add(source, images.Wanted(file_name=source.name, origin="bench", into="qcow2"))
        return lambda: asyncio.run(library.remove(taken.digest))

    return asyncio.run(take())


def _api(home: ours.Ours, source: pathlib.Path) -> Callable[[], None]:
    home.done(home.api.images.create({"name": "bench", "path": str(source), "file_name": source.name}))

    def undo() -> None:
        home.done(home.api.images.delete("bench"))

    return undo


def _convert(case: _Case, target: pathlib.Path, *, sync: bool = False, digest: bool = False) -> Callable[[], None]:
    given = case.source.suffix.removeprefix(".")
    line = ["qemu-img", "convert", "-f", given, "-O", case.into, str(case.source), str(target)]
    with concurrent.futures.ThreadPoolExecutor(1) as beside:
        if digest:
            hashing = beside.submit(_digest, case.source)
        subprocess.run(line, check=True)
        if sync:
            with target.open("rb") as file:
                os.fsync(file.fileno())
        if digest:
            hashing.result()
    return target.unlink


def _digest(path: pathlib.Path) -> str:
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
