"""Sending files to the API, with a bar on a terminal."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator

from bocage.cli import output
from bocage.client import rest, streams

Watch = Callable[[int, int], None]


def upload(api: rest.Client, path: str, *, storage: str | None) -> str:
    """Send a file to a storage; the key to name it by. The same file goes on where an earlier try ended."""
    found = os.stat(path)
    known = f"{os.path.realpath(path)}\0{found.st_size}\0{found.st_mtime_ns}"
    key = hashlib.sha256(known.encode()).hexdigest()[:32]
    with bar(f"sending {os.path.basename(path)}") as show:
        streams.upload(api, key, path, storage=storage, on_progress=show)
    return key


@contextlib.contextmanager
def bar(what: str) -> Iterator[Watch]:
    """A bar of bytes on a terminal; nothing elsewhere. Told bytes done and in all (0: not known)."""
    if not output.interactive():
        yield lambda done, total: None
        return
    from rich import console, progress

    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(bar_width=20),
        progress.DownloadColumn(binary_units=True),
        progress.TransferSpeedColumn(),
    )
    with progress.Progress(*columns, console=console.Console(stderr=True), transient=True) as bars:
        one = bars.add_task(what[:36], total=None)
        yield lambda done, total: bars.update(one, completed=done, total=total or None)
