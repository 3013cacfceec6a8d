"""How long a guest stands still, as seen from outside: by its serial line's log, on which it counts without a pause."""

from __future__ import annotations

import contextlib
import os
import pathlib
import threading
import time
from collections.abc import Iterable, Iterator

from bench import libvirt, measure, ours

COUNT = "n=0; while :; do n=$((n+1)); echo $n; done &"
FILL = "mkdir -p /m; mount -t tmpfs -o size={mib}m m /m; head -c 1m /dev/urandom >/m/p; "
FILL += "for i in $(seq {mib}); do cat /m/p; done >/m/f 2>/dev/null; rm /m/p; echo filled-$((1))"
_EVERY = 0.0003  # seconds between two looks
_REST = 1.0


class Gap:
    """The longest time without a new byte, in milliseconds."""

    longest = 0.0


@contextlib.contextmanager
def watched(*logs: pathlib.Path) -> Iterator[Gap]:
    """Look at a log, of which there may be a copy, from a moment before to a moment after what is done inside."""
    found, over = Gap(), threading.Event()

    def look() -> None:
        size, last = _size(logs), time.monotonic()
        while not over.is_set():
            time.sleep(_EVERY)
            now = time.monotonic()
            if (present := _size(logs)) != size:
                found.longest = max(found.longest, (now - last) * 1000)
                size, last = present, now

    looking = threading.Thread(target=look)
    looking.start()
    try:
        time.sleep(_REST)
        yield found
        time.sleep(_REST)
    finally:
        over.set()
        looking.join()


def _size(logs: Iterable[pathlib.Path]) -> int:
    size = 0
    for log in logs:
        with contextlib.suppress(FileNotFoundError):  # libvirt's is rotated
            size = max(size, os.stat(log).st_size)
    return size


def count_ours(home: ours.Ours, name: str, *, fill: int = 0) -> None:
    """Have a guest of ours fill so many MiB of its memory, then count."""
    if fill:
        home.api.vms.expect(name, "^filled-1", send=FILL.format(mib=fill), timeout=120)
    home.api.vms.expect(name, "^50$", send=COUNT, timeout=60)


def count_theirs(peer: libvirt.Libvirt, name: str, *, fill: int = 0) -> None:
    """The same of a guest of libvirt's."""
    log = peer.serial(name)
    if fill:
        _type(peer, name, FILL.format(mib=fill))
        measure.until(lambda: b"\nfilled-1" in log.read_bytes(), what="a filled guest", within=120)
    _type(peer, name, COUNT)
    measure.until(lambda: b"\n50\r" in log.read_bytes(), what="a guest that counts", within=60)


def _type(peer: libvirt.Libvirt, name: str, line: str) -> None:
    terminal = peer.virsh("ttyconsole", name).strip()
    descriptor = os.open(terminal, os.O_WRONLY | os.O_NOCTTY)
    try:
        os.write(descriptor, line.encode() + b"\r")
        time.sleep(_REST)  # QEMU looks now and then whether somebody is there
    finally:
        os.close(descriptor)
