"""What a VM's process uses: read from /proc, which costs microseconds, and from what QEMU and the guest tell."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from typing import Any

from bocage.engine import base, uses
from bocage.engine.qemu import balloon, link, processes
from bocage.model import sample

_PROC = "/proc"
_BOUND = 2.0  # seconds for an answer: others wait to be asked
_TICK = 1 / os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_NANO = 1e-9
_VCPU = "CPU "  # how QEMU names the threads of vCPUs, `CPU 0/KVM`, with `debug-threads=on`
_GUEST_TELLS_EVERY = 10  # seconds between two answers of the balloon's driver


class Meter:
    """The meter of one QEMU."""

    def __init__(self, name: str, identity: processes.Identity, monitor: link.Link, guest: balloon.Balloon) -> None:
        self._name, self._identity, self._link, self._guest = name, identity, monitor, guest
        self._vcpus: tuple[str, ...] | None = None  # what tells of their threads
        self.traffic: Mapping[str, sample.NicUse] = {}

    def process(self) -> uses.ProcessUse:
        if self._vcpus is None:
            self._find_vcpus()
        try:
            cpu, memory = _process(self._identity)
        except processes.Gone as error:
            raise base.NotRunning(name=self._name) from error
        return uses.ProcessUse(cpu, self._waited(), memory)

    async def disks(self) -> dict[str, sample.DiskUse]:
        self._find_vcpus()  # now and then, since they come and go
        return disks(await self._link.execute("query-blockstats", within=_BOUND))

    async def guest_memory(self) -> sample.GuestMemory | None:
        return await self._guest.guest_memory(every=_GUEST_TELLS_EVERY)

    def _find_vcpus(self) -> None:
        tasks = f"{_PROC}/{self._identity.pid}/task"
        found = []
        with contextlib.suppress(OSError):
            for name in os.listdir(tasks):
                with contextlib.suppress(OSError):
                    if _read(f"{tasks}/{name}/comm").startswith(_VCPU):
                        found.append(f"{tasks}/{name}/schedstat")
        self._vcpus = tuple(found)

    def _waited(self) -> float | None:
        """Seconds (kernel's sched-stats, run delay); None where nobody counts."""
        waited: float | None = None
        for path in self._vcpus or ():
            with contextlib.suppress(OSError, ValueError, IndexError):
                waited = (waited or 0.0) + int(_read(path).split()[1]) * _NANO
        return waited


def _process(identity: processes.Identity) -> tuple[float, int]:
    """Seconds of CPU, and bytes in memory (proc(5), stat). Raises processes.Gone."""
    try:
        line = _read(f"{_PROC}/{identity.pid}/stat")
    except OSError as error:
        raise processes.Gone(pid=identity.pid) from error
    fields = line[line.rindex(")") + 2 :].split()
    if int(fields[19]) != identity.start_time:
        raise processes.Gone(pid=identity.pid)
    return (int(fields[11]) + int(fields[12])) * _TICK, int(fields[21]) * _PAGE


def disks(answer: Iterable[dict[str, Any]]) -> dict[str, sample.DiskUse]:
    """By device, from QEMU's `query-blockstats`; what belongs to the board is left out."""
    found = {}
    for one in answer:
        # the device's id; of virtio's disks a path, such as /machine/peripheral/disk0/virtio-backend
        called = str(one.get("qdev") or "")
        name = called.removeprefix("/machine/peripheral/").partition("/")[0]
        if name and not name.startswith("board."):
            stats = one["stats"]
            found[name] = sample.DiskUse(
                reads=stats["rd_operations"],
                writes=stats["wr_operations"],
                read_bytes=stats["rd_bytes"],
                written_bytes=stats["wr_bytes"],
                read_seconds=stats["rd_total_time_ns"] * _NANO,
                write_seconds=stats["wr_total_time_ns"] * _NANO,
            )
    return found


def _read(path: str) -> str:
    # Not Path.read_text: this is done for each VM every few seconds, and that takes three times as long.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 4096).decode(errors="replace")
    finally:
        os.close(descriptor)
