"""Holds one QEMU to its share: by its control group, its threads' affinity, and the filters over its disks."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable

from bocage.engine import base
from bocage.engine.qemu import affinity, cgroup, link, throttling
from bocage.model import share
from bocage.words import N_


class NoGroup(base.CannotHold):
    type = "share-without-group"
    text = N_("{what} needs a control group, and this daemon may make none")
    hint = N_("run it as root ('bocage install'), or have control groups delegated to its user (systemd: Delegate=yes)")
    what: str


class NoController(base.CannotHold):
    type = "share-without-controller"
    text = N_("{what} cannot be bounded on this host: {reason}")
    what: str
    reason: str


class NoSuchCpus(base.CannotHold):
    type = "share-without-cpus"
    text = N_("the host has none of the CPUs {cpus}")
    hint = N_("'bocage host show' says how many it has, counted from 0")
    cpus: str


class NoSuchNode(base.CannotHold):
    type = "share-without-node"
    text = N_("the host has no NUMA node {node} with CPUs")
    hint = N_("'ls /sys/devices/system/node' shows those that there are")
    node: int


class TooMuchNow(base.Error):
    """It waits until the process has less."""

    type = "share-memory-in-use"
    text = N_("QEMU has more memory than {most:size} now")
    hint = N_("give it more beside the guest's memory ('--memory-overhead'), or start the VM anew")
    most: int


class Holding:
    """What one machine is held to; `note` keeps its memory's bound for whoever asks how it ended."""

    def __init__(
        self, at: link.Link, pid: int, group: cgroup.Group | None, *, note: Callable[[int | None], Awaitable[None]]
    ) -> None:
        self._at, self._pid, self._group, self._note = at, pid, group, note

    async def cpu(self, wanted: share.Cpu) -> None:
        await asyncio.to_thread(self._pin, wanted)
        if self._group is None:
            if wanted.weight != share.WEIGHT or wanted.cap is not None:
                raise NoGroup(what="a CPU weight or cap")
            return
        try:
            await self._group.weigh(wanted.weight)
            await asyncio.to_thread(self._group.cap, wanted.cap)
        except cgroup.Lacks as error:
            raise NoController(what="CPU time", reason=error.said) from error

    async def memory(self, most: int | None) -> None:
        if self._group is None:
            if most is not None:
                raise NoGroup(what="a bound of memory")
            return
        try:
            await asyncio.to_thread(self._group.bound_memory, most)
        except cgroup.Lacks as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EBUSY and most is not None:
                raise TooMuchNow(most=most) from error
            raise NoController(what="memory", reason=error.said) from error
        await self._note(most)

    async def disk(self, name: str, own: share.Io, together: share.Io) -> None:
        await throttling.limit(self._at, name, own, together)

    def _pin(self, wanted: share.Cpu) -> None:
        cpus = share.cpu_set(wanted.pin) if wanted.pin is not None else affinity.allowed()
        if wanted.node is not None:
            within = affinity.of_node(wanted.node)
            if not within:
                raise NoSuchNode(node=wanted.node)
            cpus = cpus & within
        try:
            affinity.pin(self._pid, cpus)
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno != errno.EINVAL:
                raise
            raise NoSuchCpus(cpus=wanted.pin or "") from error
