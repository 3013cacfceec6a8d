"""A simulated host: its clocks, its kernel, and the processes that drive the state machines as the real ones do."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bocage.protocol import beating, fencing, guarding, records
from tests.protocol import daemons, profile

if TYPE_CHECKING:
    from tests.protocol.world import World


@dataclasses.dataclass
class Machine:
    """A QEMU process and what its host's kernel holds for it."""

    name: str  # of the VM
    client: str  # of the process
    generation: int  # under which it has opened its disk
    runs: bool  # its vCPUs
    alive: bool = True
    frozen: bool = False
    killed: bool = False  # it dies as soon as it is not frozen, and not stuck in the kernel
    opened: bool = False
    migrating: object = None  # the migration that it is the source of
    completed: bool = False  # QEMU has reported that it is
    memory: int = 0  # grows with what it has done; a copy of it that is older than the disk is poison
    socket: list[int] = dataclasses.field(default_factory=list)  # writes the kernel still has to send


class Clock:
    """CLOCK_BOOTTIME and CLOCK_MONOTONIC of one boot."""

    def __init__(self, world: World) -> None:
        self._time = world.time
        self.offset = world.time.random.uniform(1, 1000)
        self.rate = world.time.random.uniform(0.996, 1.004)
        self.stood = 0.0  # that CLOCK_MONOTONIC stood still

    def boottime(self) -> float:
        return self.offset + self._time.now * self.rate

    def monotonic(self) -> float:
        return self.boottime() - self.stood


class Host:
    """One server. Its daemon, beat and guard are driven by ticks; while it hangs nothing of it moves but the kernel."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.time, self.random = world.time, world.time.random
        self.clock = Clock(world)
        share = self.random.random
        self.means = fencing.Means(power=share() < 0.6, storage=share() < 0.4)
        fences = share() < 0.7
        self.bounds = records.Bounds(fences, profile.PROFILE.guard, profile.WATCHDOG if fences else None)
        self.bmc_works, self.bmc_slow = True, share() < 0.2
        self.on, self.boot = False, 0
        self.hangs_until = 0.0
        self.linked = self.storage_linked = True  # to the store, to the array
        self.answers_stick = self.grants_stick = self.starts_slowly = False
        self.heard = True  # what it sends to the store arrives; what it is sent may come all the same
        self.freeze_works = self.drop_works = self.kill_works = True
        self.machines: dict[str, Machine] = {}  # by client
        self.dropped = False
        self._fed: float | None = None
        self._clients = 0
        self.guard: guarding.Guard | None = None
        self.beat: beating.Beating | None = None
        self.beats_since = 0.0  # true time
        self.daemon: daemons.Daemon | None = None
        self.gone: float | None = None  # since when, by the guard, nothing runs here
        self.stored: tuple[records.Life | None, records.Bounds] = (None, self.bounds)  # in a file of its home
        self.guarded: records.Life | None = None  # the life that the guard was given last; a file too

    # Power

    def power_on(self) -> None:
        if self.on:
            return
        self.time.tell(self.name, "boots")
        self.on, self.boot = True, self.boot + 1
        self.clock = Clock(self.world)
        self.hangs_until = 0.0
        self.freeze_works = self.drop_works = self.kill_works = True
        self.dropped, self._fed, self.gone, self.guarded = False, None, self.now(), None
        self.stored = (None, self.stored[1])  # the file names the boot that the life belongs to
        self.guard = self.world.kinds.guard.first()
        self.beat, self.daemon = None, daemons.Daemon(self, fresh=True)
        boot = self.boot
        for period, event in (
            (0.1, self._guard_tick),
            (profile.PROFILE.beat / 2, self._beat_tick),
            (0.25, self._daemon_tick),
        ):
            self._every(boot, period, event)
        self._every(boot, 0.4, self._guests)

    def power_off(self, why: str) -> None:
        if not self.on:
            return
        self.time.tell(self.name, "is off:", why)
        self.on = False
        self.guard = self.beat = self.daemon = None
        for machine in self.machines.values():
            machine.alive = False
        self.machines.clear()  # the kernel's sockets go with it
        self._fed = None

    def _every(self, boot: int, period: float, event: Callable[[], None]) -> None:
        def again() -> None:
            if not self.on or self.boot != boot:
                return
            if self.time.now < self.hangs_until:
                self.time.after(self.hangs_until - self.time.now + self.random.uniform(0, 0.01), again)
                return
            event()
            self.time.after(period * self.random.uniform(0.8, 1.2), again)

        self.time.after(self.random.uniform(0, period), again)

    def awake(self, boot: int, event: Callable[[], None]) -> None:
        """Do `event` in this boot, as soon as the host does not hang."""
        if not self.on or self.boot != boot:
            return
        if self.time.now < self.hangs_until:
            self.time.after(
                self.hangs_until - self.time.now + self.random.uniform(0, 0.02), lambda: self.awake(boot, event)
            )
            return
        event()

    def hang(self, seconds: float, *, suspended: bool) -> None:
        self.time.tell(self.name, "is suspended for" if suspended else "hangs for", f"{seconds:.1f} s")
        self.hangs_until = self.time.now + seconds
        if suspended:
            self.clock.stood += seconds * self.clock.rate

    def now(self) -> float:
        return self.world.kinds.clock(self.clock)

    # The store

    def ask(self, transaction: records.Transaction | None, reply: Callable[[Any], None]) -> None:
        """Over the network, both ways with their delay; what is cut may come when the cable is back."""
        boot = self.boot
        self._carry(lambda: self.world.store.arrive(transaction, back), up=True)

        def back(said: object) -> None:
            delay = self.random.uniform(0.5, 12) if self.time.chance(0.03) else 0.0  # stuck in TCP
            delay = self.random.uniform(12.5, 16) if self.answers_stick else delay
            if self.grants_stick and transaction and any(key.startswith("owner/") for key in transaction.puts):
                delay = self.random.uniform(7, 11)
            self.time.after(delay, lambda: self._carry(lambda: self.awake(boot, lambda: reply(said))))

    def _carry(self, event: Callable[[], None], tries: int = 0, *, up: bool = False) -> None:
        if self.linked and (self.heard or not up):
            self.time.after(self.random.uniform(0.001, 0.02), event)
        elif tries < 40 and self.random.random() < 0.9:  # it is sent again by TCP
            self.time.after(0.5, lambda: self._carry(event, tries + 1, up=up))

    # Beat and guard

    def _beat_tick(self) -> None:
        if self.beat is None:
            return
        beat = self.beat
        if beat.ended:
            self.ask(None, lambda view: self._told(beat, beat.looked(view)))
            return
        for each in beat.tick(self.now()):
            self.ask(each.transaction, functools.partial(self._beaten, beat, each.attempt))

    def _beaten(self, beat: beating.Beating, number: int, answer: records.Answer) -> None:
        self._told(beat, self.world.kinds.answered(beat, number, answer, self.now()))

    def _told(self, beat: beating.Beating, words: list[beating.Word]) -> None:
        if self.beat is not beat:
            return  # that process was ended
        for word in words:
            if isinstance(word, beating.Confirmed):
                if self.daemon is not None:
                    self.daemon.confirmed(word.sent)
                if self.guard is not None:
                    self._do(self.guard.confirmed(word.life, word.sent, self.now()))
            elif isinstance(word, beating.Raised):
                if self.guard is not None:
                    self._do(self.guard.raised(word.life))
                if self.daemon is not None:
                    self.daemon.returning.raised()

    def _guard_tick(self) -> None:
        if self.guard is not None:
            self._do(self.guard.tick(self.now()))
        if self._fed is not None and self.time.now > self._fed + profile.WATCHDOG:
            self.reset()

    def reset(self) -> None:
        self.power_off("its watchdog")
        self.time.after(self.random.uniform(2.8, 6), self.power_on)

    def _feed(self) -> None:
        self._fed = self.time.now
        fed, boot = self._fed, self.boot

        def bites() -> None:
            if self.on and self.boot == boot and self._fed == fed and self.bounds_armed():
                self.reset()

        self.time.after(profile.WATCHDOG, bites)

    def bounds_armed(self) -> bool:
        return self.stored[1].self_fence

    def _do(self, acts: list[guarding.Act]) -> None:
        for act in acts:
            if self.guard is None:
                return
            self._act(act)

    def _act(self, act: guarding.Act) -> None:
        guard = self.guard
        assert guard is not None
        match act:
            case guarding.Act.FEED:
                self._feed()
            case guarding.Act.FREEZE:
                if self.freeze_works:
                    for machine in self.machines.values():
                        machine.frozen = True
                self._later(0.005, lambda: guard.held(frozen=all(each.frozen for each in self.machines.values())))
            case guarding.Act.DROP:
                self.dropped = self.dropped or self.drop_works
                self._later(0.005, lambda: guard.held(dropped=self.dropped))
            case guarding.Act.THAW:
                for machine in list(self.machines.values()):
                    machine.frozen = False
                    self._dies(machine)
            case guarding.Act.LET_PASS:
                self.dropped = False
                self.flush()
            case guarding.Act.KILL:
                for machine in list(self.machines.values()):
                    machine.killed = True
                    self._dies(machine)
            case guarding.Act.SEVER:
                for machine in self.machines.values():
                    if not machine.alive:
                        machine.socket.clear()
                self._later(0.005, guard.severed)
            case guarding.Act.GONE:
                self.time.tell(self.name, "has ended all that ran")
                self.gone = self.now()

    def _later(self, delay: float, event: Callable[[], list[guarding.Act]]) -> None:
        boot, guard = self.boot, self.guard
        self.time.after(delay, lambda: self.awake(boot, lambda: self._do(event()) if self.guard is guard else None))

    def _dies(self, machine: Machine) -> None:
        if not machine.killed or machine.frozen or not machine.alive:
            return
        if not self.kill_works:
            self.time.after(0.3, lambda: self._dies(machine))
            return
        machine.alive = machine.runs = False
        if self.guard is not None:
            self._do(self.guard.ended(machine.client))
        if self.daemon is not None:
            self.daemon.died(machine)

    def new_guard(self) -> None:
        """The guard was killed: another comes that has no predecessor."""
        self.time.tell(self.name, "guard is killed")
        self.guard = None
        boot = self.boot

        def comes() -> None:
            if self.guarded is None:
                self.guard = self.world.kinds.guard.first()
                return
            self.guard = self.world.kinds.alone(self.guarded, self.stored[1], self.now())
            found = [client for client, machine in self.machines.items() if machine.alive or machine.socket]
            self.guard.found(found, complete=True)

        self.time.after(self.random.uniform(0.05, 2.0), lambda: self.awake(boot, comes))

    # VMs

    def start(self, name: str, generation: int, *, paused: bool) -> Machine | None:
        """A process is made, given to the guard, and only then executed."""
        self._clients += 1
        client = f"{name}@{self.name}.{self.boot}.{self._clients}"
        if self.guard is None or not self.guard.admit(client, self.now()):
            return None
        machine = Machine(name, client, generation, runs=not paused)
        self.machines[client] = machine
        if not paused:
            self.world.begins(machine)
            self.open(machine)
        return machine

    def open(self, machine: Machine) -> None:
        machine.opened = machine.runs = True
        self.time.tell(machine.client, "opens its disk under", machine.generation)
        self.world.array.opens(machine.name, machine.generation, machine.client)

    def _guests(self) -> None:
        for machine in self.machines.values():
            if machine.alive and machine.runs and not machine.frozen:
                machine.memory += 1
                self.world.wrote(machine)
                machine.socket.append(machine.generation)
        self.flush()

    def flush(self) -> None:
        """What the kernel still has goes out, whether its process lives or not."""
        if not self.on or self.dropped or not self.storage_linked:
            return
        for machine in self.machines.values():
            if machine.socket and self.world.array.lets_in(self.name, machine.client):
                for generation in machine.socket:
                    self.world.array.takes(self.name, machine.client, machine.name, generation)
                machine.socket.clear()

    @property
    def empty(self) -> bool:
        return not any(machine.alive for machine in self.machines.values())

    def read_directories(self) -> dict[str, int]:
        """The generations that the VMs' definitions name, on the array beside their disks."""
        if not self.storage_linked or self.name in self.world.array.shut_out:
            return {}
        return {name: disk.opened for name, disk in self.world.array.disks.items()}

    def end(self, name: str) -> None:
        """Kill the VM's processes here and destroy what they left; the daemon is told when that is done."""
        left = [each for each in self.machines.values() if each.name == name]
        for machine in left:
            machine.killed, machine.frozen = True, False  # a frozen process dies when its cgroup is thawed
            self._dies(machine)
        if any(machine.alive for machine in left):
            return
        for machine in left:
            del self.machines[machine.client]
        if self.daemon is not None:
            self.daemon.owning[name].left(self.now())

    def _daemon_tick(self) -> None:
        if self.daemon is not None:
            self.daemon.tick()

    def restart_daemon(self) -> None:
        self.time.tell(self.name, "daemon is killed")
        self.daemon = None
        boot = self.boot

        def comes() -> None:
            self.daemon = daemons.Daemon(self, fresh=False)

        away = self.random.uniform(0.2, 2.0) if self.time.chance(0.8) else self.random.uniform(5, 20)
        self.time.after(away, lambda: self.awake(boot, comes))

    def begins_to_beat(self, beat: beating.Beating) -> None:
        self.beat, self.beats_since = beat, self.time.now

    def restart_beat(self) -> None:
        self.time.tell(self.name, "beat is killed")
        life, self.beat = (self.beat.life if self.beat else None), None
        boot = self.boot

        def comes() -> None:
            if self.beat is None and life is not None and self.stored[0] == life:
                self.begins_to_beat(beating.Beating(life, profile.PROFILE))

        self.time.after(self.random.uniform(0.1, 4.0), lambda: self.awake(boot, comes))
