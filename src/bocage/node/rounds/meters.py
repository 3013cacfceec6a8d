"""What is known of one process, or of the host, between two measurements: counters, rates, and the open minute."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from bocage.engine import base as engine
from bocage.engine import uses
from bocage.model import sample
from bocage.node import history, host_use
from bocage.planner import rates, rollup

_STEP = rollup.SECONDS.step


class Meter:
    """Anything that has a history."""

    def __init__(self) -> None:
        self.rates: dict[str, float | None] = {}
        self.points: dict[int, rollup.Point] = {}  # of the open minute, by when their step began
        self._read_at: float | None = None  # monotonic

    def take(self, uid: str, minute: int) -> history.Minute | None:
        """The minute as a piece, and it begins anew; None when nothing was measured in it."""
        points, self.points = self.points, {}
        own = [points.get(minute + step * _STEP) for step in range(rollup.SECONDS.steps)]
        return history.Minute(uid, minute, rollup.piece(rollup.SECONDS, own)) if any(own) else None

    def _passed(self) -> float:
        """Seconds since the last reading; 0 at the first."""
        before, self._read_at = self._read_at, time.monotonic()
        return self._read_at - before if before is not None else 0.0

    def _note(self, step: int, span: float) -> None:
        """Let the rates be those of the span that ends with a step."""
        row = rates.row(self.rates)
        point = rollup.Point(row, row)
        for back in range(max(1, round(span / _STEP))):
            if (start := step - back * _STEP) >= rollup.SECONDS.begins(step):
                self.points[start] = point


class VMMeter(Meter):
    """One process of one VM."""

    def __init__(self, machine: engine.Machine) -> None:
        super().__init__()
        self.machine = machine
        self.ended = False
        self.taps: dict[str, str] | None = None  # the NICs' names by their taps; None: they have to be looked up
        self.macs: dict[str, str] = {}  # and by their MACs
        self._process: uses.ProcessUse | None = None
        self._disks: tuple[float, dict[str, sample.DiskUse]] = (0.0, {})  # as told last, and when (monotonic)
        self._counted: tuple[float, dict[str, sample.DiskUse]] = (0.0, {})  # what the rates go up to
        self._nics: dict[str, sample.NicUse] = {}
        self._told: Mapping[str, sample.NicUse] = {}
        self._nics_at = 0.0  # monotonic
        self._memory: sample.GuestMemory | None = None
        self.dynamic: sample.Dynamic | None = None  # what is known of its dynamic memory

    def read(self, step: int, interfaces: Mapping[str, sample.NicUse]) -> None:
        """Read what is cheap, at the end of a step. Raises engine.NotRunning."""
        found, before, span = self.machine.meter.process(), self._process, self._passed()
        self._process = found
        self._count_nics(interfaces)
        self._count_disks()
        if before is None:
            return  # there is no rate yet
        self.rates["cpu"] = rates.each_second(before.cpu_seconds, found.cpu_seconds, span)
        if found.wait_seconds is not None and before.wait_seconds is not None:
            self.rates["wait"] = rates.each_second(before.wait_seconds, found.wait_seconds, span)
        self.rates["memory"] = found.memory
        self.rates["memory_guest"] = self._memory.used if self._memory else None
        self.rates["memory_has"] = self.dynamic.has if self.dynamic else None
        self._note(step, span)

    async def ask(self) -> None:
        """Ask QEMU and the guest; until the next time their rates hold. Raises errors.Problem."""
        found = await self.machine.meter.disks()
        self._disks = (time.monotonic(), found)
        self._memory = await self.machine.meter.guest_memory()

    def use(self) -> sample.Use:
        """As it is shown."""
        process = self._process or uses.ProcessUse(0.0, None, 0)
        return sample.Use(
            cpu_seconds=process.cpu_seconds,
            wait_seconds=process.wait_seconds,
            memory=process.memory,
            guest_memory=self._memory,
            dynamic=self.dynamic,
            disks=self._disks[1],
            nics=self._nics,
            now=self.rates,
        )

    def _count_disks(self) -> None:
        """From what was told at the last step to what was told by now, so that nothing in between is lost."""
        (then, before), (at, found) = self._counted, self._disks
        if then:
            self.rates |= rates.disks(before, found, at - then)
        self._counted = self._disks

    def _count_nics(self, interfaces: Mapping[str, sample.NicUse]) -> None:
        """By their taps; those without one as the guest tells, as often as it does."""
        told = self.machine.meter.traffic
        found = {name: interfaces[tap] for tap, name in (self.taps or {}).items() if tap in interfaces}
        if not found and told is self._told:
            return
        self._told = told
        found |= {name: told[mac] for mac, name in self.macs.items() if mac in told and name not in found}
        at = time.monotonic()
        if self._nics:
            self.rates |= rates.nics(self._nics, found, at - self._nics_at)
        self._nics, self._nics_at = found, at


class HostMeter(Meter):
    """The host itself, and the sums of its VMs."""

    def __init__(self) -> None:
        super().__init__()
        self._reading: host_use.Reading | None = None

    def read(self, step: int, vms: Iterable[VMMeter]) -> None:
        """Read the machine's own counters, once the VMs' were. Raises OSError."""
        found, before, span = host_use.read(), self._reading, self._passed()
        self._reading = found
        if before is not None:
            self.rates = rates.total(one.rates for one in vms)
            self.rates["cpu"] = rates.each_second(before.busy, found.busy, span)
            self.rates["wait"] = rates.each_second(before.stolen, found.stolen, span)
            self.rates["memory_guest"] = float(found.memory_used)
            self._note(step, span)

    def use(self, cpus: int) -> sample.HostUse:
        """As it is shown. Raises OSError."""
        found = self._reading or host_use.read()
        return sample.HostUse(
            cpus=cpus,
            memory_total=found.memory_total,
            memory_used=found.memory_used,
            pressure=host_use.pressure(),
            ksm=host_use.ksm(),
            now=self.rates,
        )
