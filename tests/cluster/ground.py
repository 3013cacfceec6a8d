"""Several leaders over one store, with a clock that the test turns: hosts beat, fall silent, lose their power."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import functools
from collections.abc import Callable
from typing import Any

from bocage import ledger
from bocage.cluster.chronicle import Chronicle
from bocage.cluster.foresight import Foresight
from bocage.cluster.halting import Halting
from bocage.cluster.means import Means
from bocage.cluster.mirror import Mirror
from bocage.cluster.places import Places
from bocage.cluster.ruler import Ruler
from bocage.cluster.telling import Telling
from bocage.model import base, failover, ground, vm, work
from bocage.physical import base as physical
from bocage.protocol import records, timing
from bocage.store import contract, resources
from tests.planner import things
from tests.store import reference

PROFILE = timing.Timing(beat=0.2, answer=0.5, silence=1.5, outage=1.0, guard=4.0, drain=2.0)
BEGIN = datetime.datetime(2026, 1, 31, 3, 0, tzinfo=datetime.UTC)
STORAGE = base.new_uid()


@dataclasses.dataclass
class Life:
    """A `ruler.Living`."""

    life: records.Life | None = None
    confirmed: float | None = None


class Book:
    """The ledger, with the test's clock."""

    def __init__(self, world: World) -> None:
        self._world, self.ledger = world, ledger.Ledger(world.store, "first")

    async def read(self) -> ledger.Seen:
        sent = self._world.now
        return dataclasses.replace(await self.ledger.read(), sent=sent)

    async def write(self, transaction: records.Transaction) -> records.Answer:
        return await self.ledger.write(transaction)


class Power:
    """All BMCs, as any leader reaches them."""

    def __init__(self) -> None:
        self.off_: set[str] = set()
        self.dead: set[str] = set()  # BMCs that do not answer
        self.mad: dict[str, int] = {}  # and those that so many times answer what nobody understands
        self.orders: list[str] = []
        self.meanwhile: list[Callable[[], None]] = []  # what happens while a BMC is asked who it is

    async def off(self, host: str, still: Callable[[], bool]) -> None:
        self._reach(host)
        for each in self.meanwhile:
            each()
        if not still():
            raise physical.Unwanted
        self.orders.append(host)
        self.off_.add(host)

    async def is_off(self, host: str) -> bool:
        self._reach(host)
        return host in self.off_

    def _reach(self, host: str) -> None:
        if self.mad.get(host, 0) > 0:
            self.mad[host] -= 1
            raise KeyError("PowerState")
        if host in self.dead:
            raise physical.Unreachable(address="https://10.0.0.9", reason="No route to host")


class Host:
    """One host: its own life, and its part in leading."""

    def __init__(self, world: World, number: int) -> None:
        self.world, self.name, self.uid = world, f"host{number}", base.new_uid()
        self.alive = self.connected = self.daemon = True
        self.living = Life()
        self.count = 0

    async def enter(self, *, bmc: bool = True) -> None:
        """It is known, and has taken its first epoch."""
        spec: dict[str, Any] = {}
        status: dict[str, Any] = {"memory_bytes": 8 << 30, "cpus": 4, "smbios_uuid": self.uid}
        if bmc:
            address = "https://10.0.0.9"
            spec["bmc"] = {"kind": "redfish", "address": address}
            status["bmc"] = {"address": address, "uuid": self.uid, "own": True, "seen": BEGIN}
        await self.world.kept.create(
            ground.Host.model_validate(
                {"metadata": {"uid": self.uid, "name": self.name}, "spec": spec, "status": status}
            )
        )
        await self.live(1)

    async def live(self, epoch: int) -> None:
        """Take an epoch, with nothing left of those before."""
        key = records.epoch_of(self.uid)
        revision = await self.world.put({key: records.Epoch(epoch, epoch, epoch - 1)})
        self.living.life = records.Life(self.uid, "first", epoch, revision)

    async def beat(self) -> None:
        if not (self.alive and self.connected and self.living.life):
            return
        entry = await self.world.store.get(ledger.ROOT + records.epoch_of(self.uid))
        if entry is None or entry.revision != self.living.life.revision:
            self.living.life = None
            return
        self.count += 1
        await self.world.put({records.beat_of(self.uid): records.Beat(self.count)})
        self.living.confirmed = self.world.now

    async def begin(self) -> None:
        """Its daemon starts."""
        world = self.world
        self.mirror = Mirror(world.store)
        self.book = Book(world)
        self.places = Places(self.mirror, lambda: world.now)
        means = Means(self.mirror, lambda: None)
        self.chronicle = Chronicle(world.kept, self.mirror, self.places, means.stays, now=world.wall)
        self.foresight = Foresight(self.mirror, self.places)
        self.telling = Telling(
            world.kept,
            self.mirror,
            self.chronicle,
            unsurvived=lambda: self.foresight.unsurvived,
            now=world.wall,
        )
        self.halting = Halting(world.store, self.mirror, now=world.wall)
        self.ruler = Ruler(
            self.uid,
            book=self.book,
            living=self.living,
            means=means,
            place=self.places.place,
            power=world.power,
            witness=self.chronicle,
            ends_writes=means.ends_writes,
            stays=means.stays,
            stands=lambda: self.halting.stands,
            profile=PROFILE,
            clock=lambda: world.now,
            pause=world.pause,
        )
        self.following = [asyncio.create_task(self.mirror.run()), asyncio.create_task(self.book.ledger.run())]
        await self.mirror.whole.wait()

    async def end(self) -> None:
        """Its daemon is gone."""
        self.following += self.ruler._tasks
        for task in self.following:
            task.cancel()
        for task in self.following:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def look(self) -> None:
        """What its daemon does from time to time."""
        if not (self.alive and self.connected and self.daemon):
            return
        await self.mirror_is_fresh()
        await self.ruler.look()
        while self.ruler.busy:
            await asyncio.sleep(0)
        if self.ruler.leads and self.ruler.newest:
            await self.mirror_is_fresh()
            await self.foresight.look(frozenset(one.uid for one in self.world.hosts if self.ruler.fit(one.uid)))
            with contextlib.suppress(contract.Mismatch):
                await self.chronicle.write()
                await self.telling.write(self.ruler, *self.ruler.newest)
                silent = frozenset(self.ruler.silence.silent(self.world.now))
                leads = {ledger.ROOT + records.LEADER: self.ruler.ruling.leading.revision}
                await self.halting.look(leads, silent)

    async def mirror_is_fresh(self) -> None:
        newest = await self.world.newest_resource()
        while self.mirror.revision < newest:
            await asyncio.sleep(0)


class World:
    def __init__(self) -> None:
        self.now, self.step = 1000.0, asyncio.Event()
        self.store = reference.MemoryStore()
        self.kept = resources.Resources(self.store)
        self.power = Power()
        self.hosts: list[Host] = []

    def wall(self) -> datetime.datetime:
        return BEGIN + datetime.timedelta(seconds=self.now - 1000.0)

    async def pause(self, span: float) -> None:
        end = self.now + span
        while self.now < end:
            await self.step.wait()

    async def put(self, puts: dict[str, object]) -> int:
        """Write records of the protocol as whoever it is."""
        return await self.store.apply(puts={ledger.ROOT + key: ledger.encoded(one) for key, one in puts.items()})

    async def newest_resource(self) -> int:
        page = await self.store.list("/bocage/1/")
        return max((entry.revision for entry in page.entries), default=0)

    async def build(self, count: int, *, bmc: bool = True) -> None:
        await self.put({records.CLUSTER: records.Cluster("first")})
        shared = {"metadata": {"uid": STORAGE, "name": "array"}, "spec": {"kind": "shared", "path": "/array"}}
        self.hosts = [Host(self, number + 1) for number in range(count)]
        reach = {"hosts": {host.uid: {"state": "ready"} for host in self.hosts}, "state": "ready"}
        await self.kept.create(ground.Storage.model_validate({**shared, "status": reach}))
        for host in self.hosts:
            await host.enter(bmc=bmc)
        for host in self.hosts:
            await host.begin()

    async def close(self) -> None:
        for host in self.hosts:
            await host.end()

    async def machine(self, name: str, host: Host, *, power: str = "running", **fields: Any) -> vm.VM:
        """A VM that lives there."""
        made = things.machine(uid=base.new_uid(), name=name, power=power, **{"storage": STORAGE, **fields})
        transaction = resources.Transaction()
        transaction.create(made)
        transaction.set_owner(made, vm.Owner(host=host.uid, generation=1), expected=0)
        await self.kept.commit(transaction)
        if power == "running":
            await self.runs(made)
        return made

    async def local(self, host: Host) -> str:
        """The uid of a storage that this host alone reaches."""
        spec = {"metadata": {"name": "local"}, "spec": {"host": host.uid, "path": "/local"}}
        made = ground.Storage.model_validate(spec)
        await self.kept.create(made)
        return made.uid

    async def runs(self, machine: vm.VM) -> None:
        """Its host says that it runs."""
        running = vm.VMStatus(state=vm.State.STARTING)
        for state in (vm.State.STARTING, vm.State.RUNNING):
            status = running.model_copy(update={"state": state})
            await self.kept.change_status(vm.VM, "default", machine.uid, functools.partial(_always, status))

    async def read(self, machine: vm.VM) -> vm.VM:
        return await self.kept.get(vm.VM, "default", machine.uid)

    async def owner(self, machine: vm.VM) -> str | None:
        """The name of the host that has it."""
        owner, _ = await self.kept.owner(machine)
        assert owner is not None
        return next((host.name for host in self.hosts if host.uid == owner.host), None)

    async def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while self.now < end:
            self.now += PROFILE.beat / 2
            self.step.set()
            self.step = asyncio.Event()
            for host in self.hosts:
                await host.beat()
            for host in self.hosts:
                await host.look()

    def leader(self) -> Host | None:
        led = [host for host in self.hosts if host.alive and host.connected and host.daemon and host.ruler.leads]
        return led[0] if len(led) == 1 else None

    async def failovers(self) -> list[failover.Failover]:
        return (await self.kept.list(failover.Failover)).items

    async def alarms(self) -> dict[str, work.Alarm]:
        return {alarm.name: alarm for alarm in (await self.kept.list(work.Alarm)).items}


def _always(status: vm.VMStatus, _: vm.VM) -> vm.VMStatus:
    return status
