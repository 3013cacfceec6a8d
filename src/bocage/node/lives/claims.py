"""What the guard holds, as the daemon knows it, and a start that was granted, on its way past the guard."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import signal
from collections.abc import Callable

from bocage.engine.qemu import processes
from bocage.node import rights, spoken
from bocage.protocol import guarding, owning, records

PATIENCE = 15.0  # seconds that a start waits for the store, and for what the one before has left
_ADMISSION = 5.0  # seconds that the guard has to answer

Say = Callable[..., bool]


class Guarded:
    """The guard's standing, by its own words."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[spoken.Document]] = {}
        self._held: dict[str, tuple[int, bool]] = {}  # generation, and whether a process of it lives
        self._told = asyncio.Event()  # its standing was told anew
        self.known = False
        self.life: records.Life | None = None
        self.bounds = records.Bounds()
        self.gone: float | None = None
        self.admits = False  # whether it lets anything run just now
        self.mortal = 0  # processes that it holds which are no VM's
        self.takes_mortal = False
        self.ends = False  # whether it has ended what it held, and was given no other life since

    def held(self) -> list[str]:
        """The VMs of which it holds anything: a process, or what one has left."""
        return list(self._held)

    def running(self) -> dict[str, int]:
        """The generations of those whose processes live."""
        return {vm: generation for vm, (generation, runs) in self._held.items() if runs}

    def heed(self, told: spoken.Document) -> list[str]:
        """Take in its standing; the VMs that have ended since the one before."""
        before = self.running()
        self._held = {vm: (int(one["generation"]), one["runs"] > 0) for vm, one in told["held"].items()}
        self.mortal = int(told.get("mortal", 0))
        self.takes_mortal = "mortal" in told  # not one of an older version
        self.life, self.bounds = spoken.life(told["life"]), spoken.bounds(told["bounds"])
        self.gone, self.admits, self.known = told["gone"], bool(told["admits"]), True
        self.ends = told["phase"] in (guarding.Phase.ENDING.name, guarding.Phase.OVER.name) and self.life is not None
        self._told.set()
        return [vm for vm in before if vm not in self.running()]

    async def take(self, life: records.Life, bounds: records.Bounds, *, within: float) -> bool:
        """Give it a life; whether it has it."""
        self.gone = None
        self._say("taken", life=life, bounds=bounds)
        return await self._until(lambda: self.life == life, within=within)

    async def narrow(self, bounds: records.Bounds, *, within: float) -> bool:
        """Have the tighter of its bounds and these hold; whether they do."""
        if not self._say("narrow", bounds=bounds):
            return False
        return await self._until(lambda: _holds(self.bounds, bounds), within=within)

    async def _until(self, holds: Callable[[], bool], *, within: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                while not holds():
                    self._told.clear()
                    await self._told.wait()
        return holds()

    async def admit(self, place: spoken.Document, pid: int, start_time: int) -> None:
        """Have it take charge of a process. Raises rights.NotAdmitted."""
        if place.get("mortal") and not self.takes_mortal:
            raise rights.NotAdmitted(reason="it is of an older version, and is replaced when no VM runs here")
        number = next(self._numbers)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            if not self._say("admit", id=number, place=place, pid=pid, start=start_time):
                raise rights.NotAdmitted(reason="there is no guard just now")
            async with asyncio.timeout(_ADMISSION):
                told = await answer
        except TimeoutError as error:
            raise rights.NotAdmitted(reason="it does not answer") from error
        finally:
            del self._asked[number]
        if not told["admitted"]:
            raise rights.NotAdmitted(reason=str(told["reason"]))

    def answered(self, told: spoken.Document) -> None:
        """It has said whether a process may run."""
        waiting = self._asked.get(int(told["id"]))
        if waiting is not None and not waiting.done():
            waiting.set_result(told)


@dataclasses.dataclass(frozen=True, slots=True)
class Granted:
    """The store has made this host's claim the newest."""

    vm: str
    generation: int
    attempt: int


class Claim:
    """A granted start; see rights.Claim."""

    def __init__(
        self,
        own: owning.Owning,
        granted: Granted,
        guarded: Guarded,
        storage: str,
        perform: Callable[[owning.Owning, list[owning.Act]], None],
        life: Callable[[], records.Life | None],
    ) -> None:
        self.generation = granted.generation
        self._own, self._granted, self._guarded = own, granted, guarded
        self._storage, self._perform, self._life = storage, perform, life

    async def admit(self, pid: int, start_time: int, *, unified: str | None = None, legacy: str | None = None) -> None:
        self._check()
        place = {"vm": self._granted.vm, "generation": self.generation, "storage": self._storage}
        await self._guarded.admit({**place, "unified": unified, "legacy": legacy}, pid, start_time)
        self._check()  # nothing is awaited from here to the process's first instruction
        if self._own.phase is owning.Phase.STARTING:
            self._perform(self._own, self._own.started(self._granted.attempt, running=True))

    def settle(self) -> None:
        self._perform(self._own, self._own.started(self._granted.attempt, running=False))

    def _check(self) -> None:
        """Whether that start is still wanted; with one process of it admitted it counts as running."""
        same = self._own.phase is owning.Phase.RUNNING and self._own.generation >= self.generation
        if not (self._own.still(self._granted.attempt, self._life()) or same):
            raise rights.NotAdmitted(reason="the VM was given to another host meanwhile, or its process has ended")


class Coming:
    """A VM that comes from another host, see clustered.Coming: it stands in the guard before it has any memory."""

    def __init__(
        self,
        own: owning.Owning,
        generation: int,
        guarded: Guarded,
        storage: str,
        perform: Callable[[owning.Owning, list[owning.Act]], None],
        life: Callable[[], records.Life | None],
    ) -> None:
        self.generation = generation
        self._own, self._guarded, self._storage = own, guarded, storage
        self._perform, self._life, self._begun = perform, life, life()

    async def admit(self, pid: int, start_time: int, *, unified: str | None = None, legacy: str | None = None) -> None:
        self._check()
        place = {"vm": self._own.machine, "generation": self.generation, "storage": self._storage}
        await self._guarded.admit({**place, "unified": unified, "legacy": legacy}, pid, start_time)
        self._check()  # nothing is awaited from here to the process's first instruction

    def arrived(self, generation: int) -> None:
        self._own.arrived(generation)

    def settle(self) -> None:
        if self._own.phase is owning.Phase.COMING:
            self._perform(self._own, self._own.died())

    def _check(self) -> None:
        if self._own.phase is not owning.Phase.COMING or self._begun is None or self._life() != self._begun:
            raise rights.NotAdmitted(reason="this host's life in the cluster has ended meanwhile")


class Found:
    """A VM that was found running: the guard takes charge of it as soon as it can."""

    generation = None

    def __init__(self, vm: str, storage: str) -> None:
        self.vm = vm
        self._storage = storage
        self._processes: list[tuple[int, int, spoken.Document]] = []

    async def admit(self, pid: int, start_time: int, *, unified: str | None = None, legacy: str | None = None) -> None:
        self._processes.append((pid, start_time, {"unified": unified, "legacy": legacy}))

    def settle(self) -> None:
        return

    @property
    def lives(self) -> bool:
        return any(processes.alive(each) for each in self._identities())

    def kill(self) -> None:
        for each in self._identities():
            with contextlib.suppress(processes.Gone):
                processes.send(each, signal.SIGKILL)

    async def hand_over(self, guarded: Guarded, generation: int) -> None:
        """Raises rights.NotAdmitted."""
        place = {"vm": self.vm, "generation": generation, "storage": self._storage}
        for pid, start_time, group in self._processes:
            await guarded.admit({**place, **group}, pid, start_time)

    def _identities(self) -> list[processes.Identity]:
        return [processes.Identity(pid, start_time) for pid, start_time, _ in self._processes]


def _holds(kept: records.Bounds, wanted: records.Bounds) -> bool:
    """Whether bounds are as tight as those that were wanted."""
    watchdogs = wanted.watchdog is None or (kept.watchdog is not None and kept.watchdog <= wanted.watchdog)
    return kept.self_fence >= wanted.self_fence and watchdogs and (not wanted.self_fence or kept.guard <= wanted.guard)
