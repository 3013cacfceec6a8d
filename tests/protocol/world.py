"""A simulated cluster, what befalls it, and what must hold all the while."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from bocage.protocol import beating, guarding, moving, owning, records, ruling, silence
from tests.protocol import ground, host, migration, profile

MACHINES = ("erp", "mail", "web")
FAULTS, QUIET = 60.0, 35.0  # seconds of trouble, and of peace after it
LAST = 180.0  # when at the latest every VM must run


_Answered = Callable[..., list[beating.Word]]


@dataclasses.dataclass
class Kinds:
    """The parts that a world is made of: a mutant changes one of them."""

    guard: type[guarding.Guard] = guarding.Guard
    beating: type[beating.Beating] = beating.Beating
    ruling: type[ruling.Ruling] = ruling.Ruling
    silence: type[silence.Silence] = silence.Silence
    owning: type[owning.Owning] = owning.Owning
    source: type[moving.Source] = moving.Source
    target: type[moving.Target] = moving.Target
    clock: Callable[[host.Clock], float] = host.Clock.boottime
    alone: Callable[..., guarding.Guard] = lambda *about: guarding.Guard.alone(*about)
    answered: _Answered = lambda beat, number, answer, now: beat.answered(number, answer)
    narrow: Callable[[guarding.Guard, records.Bounds], None] = guarding.Guard.narrow
    change: Callable[[host.Host, records.Bounds], None] = lambda victim, bounds: _change(victim, bounds)
    whole: bool = True  # a fence covers the clients that are born after it


class World:
    """Three to five hosts with one store and one array. `run` raises Violation, with the story that led to it.

    `only`: a calmer world, in which nothing but these troubles happens, and each has time to come to its end.
    """

    def __init__(self, seed: int, kinds: Kinds | None = None, *, only: Sequence[str] = ()) -> None:
        self._troubles = {name: TROUBLES[name] for name in only or TROUBLES}
        self._pause = 9.0 if only else 2.5  # seconds from one to the next, in the mean
        self.kinds = kinds or Kinds()
        self.time = ground.Time(seed)
        self.store = ground.Store(self.time, self._check)
        self.array = ground.Array(self.time)
        self.names = MACHINES
        self.hosts: dict[str, host.Host] = {}
        for number in range(self.time.random.choice((3, 3, 4, 5))):
            self.hosts[f"h{number + 1}"] = host.Host(self, f"h{number + 1}")
        for name in self.names:
            self.store.entries[records.owner_of(name)] = records.Entry(records.Owner(), 1)
        self.slow: set[str] = set()  # hosts whose writes as the leader lie about for a while
        self._ran: dict[str, int] = {}  # what each VM's guest has done, by the newest instance
        self._leaders: dict[int, tuple[str, records.Transaction]] = {}  # who made it as the leader

    def run(self) -> None:
        try:
            for each in self.hosts.values():
                self.time.after(self.time.random.uniform(0, 1), each.power_on)
            self.time.after(10, self._befalls)
            self.time.after(5, self._copies)
            self.time.run(10 + FAULTS)
            self._peace()
            self.time.run(10 + FAULTS + QUIET)
            while self._amiss() and self.time.now < LAST:
                self.time.run(self.time.now + 1)  # even in peace every answer may be late, now and then
            if amiss := self._amiss():
                raise ground.Violation(f"in the end {amiss}")
        except ground.Violation as violation:
            raise ground.Violation("\n".join([*self.time.story[-60:], f"{self.time.now:8.3f}  {violation}"])) from None

    # What the parts ask of it

    def place(self, machine: str, fit: Sequence[str]) -> str | None:
        return fit[(len(machine) + self.names.index(machine)) % len(fit)]

    def by_leader(self, leader: host.Host, transaction: records.Transaction) -> None:
        self._leaders[id(transaction)] = (leader.name, transaction)
        if leader.name in self.slow:
            self.store.slow[id(transaction)] = transaction
        leader.ask(transaction, lambda answer: None)

    def begins(self, machine: host.Machine) -> None:
        self._ran[machine.name] = 0

    def wrote(self, machine: host.Machine) -> None:
        if machine.generation == self.array.disks[machine.name].opened:
            self._ran[machine.name] = machine.memory

    def continues(self, machine: host.Machine) -> None:
        if machine.memory < self._ran.get(machine.name, 0):
            raise ground.Violation(f"{machine.client} goes on with a memory older than its disk")

    # What befalls it

    def _befalls(self) -> None:
        if self.time.now > 10 + FAULTS:
            return
        weights = [weight for weight, _ in self._troubles.values()]
        self.time.random.choices([event for _, event in self._troubles.values()], weights)[0](self)
        self.time.after(self.time.random.expovariate(1 / self._pause), self._befalls)

    def _copies(self) -> None:
        self.store.copy()
        if self.time.now < FAULTS:
            self.time.after(self.time.random.uniform(3, 15), self._copies)

    def _peace(self) -> None:
        self.time.tell("peace")
        self.store.set_up(True)
        for each in self.hosts.values():
            each.linked = each.storage_linked = each.bmc_works = each.heard = True
            each.answers_stick = each.starts_slowly = False
            each.freeze_works = each.drop_works = each.kill_works = True
        self._power_on()

    def _power_on(self) -> None:
        for each in self.hosts.values():
            self.time.after(self.time.random.uniform(2.8, 7), each.power_on)
        self.time.after(8, self._power_on)

    # What must hold

    def _check(self, transaction: records.Transaction, store: ground.Store) -> None:
        """What no transaction may do, whatever it compared."""
        leader = store.view().get(records.Leader, records.LEADER)
        author = self._leaders.get(id(transaction), (None, None))[0]
        if author is not None and records.LEADER not in transaction.puts and (leader is None or leader.host != author):
            raise ground.Violation(f"{author} writes as the leader, and is not: {transaction.puts}")
        for key, record in transaction.puts.items():
            kind, _, name = key.partition("/")
            if kind == "beat" and not self._lives(name):
                raise ground.Violation(f"a beat of {name} is confirmed in an epoch that was raised")
            settles = not records.settled(store.view())
            owner = record.host if isinstance(record, records.Owner) and not settles else None
            if owner is not None and not self._lives(owner):
                raise ground.Violation(f"{owner} comes to own {name} in an epoch that was raised")
            if kind == "epoch" and isinstance(record, records.Epoch) and not record.lives:
                quiet = self.time.now - max(store.watched.get(records.beat_of(name), 0), store.up_since)
                self.time.tell(f"{author} raises the epoch of {name} to {record.number}, quiet for {quiet:.2f} s")
                victim = self.hosts[name]
                beats = victim.beat is not None and self.time.now - victim.beats_since > profile.PROFILE.silence
                heard = victim.on and victim.linked and victim.heard and beats
                well = heard and self.time.now >= victim.hangs_until
                if author is not None and well and quiet < profile.PROFILE.silence / 2:
                    raise ground.Violation(f"{author} fences {name}, which beats, or could not have ({quiet:.2f} s)")

    def _lives(self, name: str) -> bool:
        epoch = self.store.view().get(records.Epoch, records.epoch_of(name))
        return epoch is not None and epoch.lives

    def _amiss(self) -> str:
        """A VM that does not run exactly once, if there is one."""
        for name in self.names:
            running = [
                machine.client
                for each in self.hosts.values()
                for machine in each.machines.values()
                if machine.name == name and machine.alive and machine.runs and not machine.frozen
                if len(machine.socket) < 10  # else what it writes does not land
            ]
            if len(running) != 1:
                return f"{name} runs {len(running)} times: {running}"
        return ""


def _some(world: World) -> host.Host:
    return world.time.random.choice(list(world.hosts.values()))


def _seconds(world: World, most: float) -> float:
    return world.time.random.uniform(0.2, most)


def _power_cut(world: World) -> None:
    victim = _some(world)
    victim.power_off("its power was cut")
    if world.time.chance(0.6):
        world.time.after(_seconds(world, 25) + 2.8, victim.power_on)


def _hang(world: World) -> None:
    victim = _some(world)
    if victim.on:
        victim.hang(_seconds(world, 12), suspended=False)


def _suspend(world: World) -> None:
    victim = _some(world)
    for _ in range(world.time.random.choice((1, 1, 4))):
        world.time.after(_seconds(world, 10), lambda: victim.hang(2.0, suspended=True) if victim.on else None)


def _set(name: str, most: float) -> Callable[[World], None]:
    """Something of a host does not work for a while."""

    def befalls(world: World) -> None:
        victim, seconds = _some(world), _seconds(world, most)
        world.time.tell(f"{victim.name}: not {name} for {seconds:.1f} s")
        setattr(victim, name, False)

        def heals() -> None:
            setattr(victim, name, True)
            victim.flush()

        world.time.after(seconds, heals)

    return befalls


def _stuck(world: World) -> None:
    """A host that is cut off, and on which the freeze or the drop, or the kill, does not work either."""
    victim, seconds = _some(world), world.time.random.uniform(*world.time.random.choice(((1.0, 14), (1.8, 3.3))))
    names = world.time.random.choice((("freeze_works",), ("drop_works",), ("freeze_works", "drop_works", "kill_works")))
    world.time.tell(f"{victim.name}: not linked for {seconds:.1f} s, not {names}")
    for name in ("linked", *names):
        setattr(victim, name, False)
    boot = victim.boot

    def heals() -> None:
        victim.linked = True

    def works() -> None:
        if victim.boot == boot:
            for name in names:
                setattr(victim, name, True)

    world.time.after(seconds, heals)
    world.time.after(seconds + 15, works)


def _stuck_for_long(world: World) -> None:
    victim = _some(world)
    world.time.tell(f"{victim.name}: not linked for 16 s, and nothing of it can be stopped")
    victim.freeze_works = victim.drop_works = victim.kill_works = False
    boot = victim.boot

    def works() -> None:
        if victim.boot == boot:
            victim.freeze_works = victim.drop_works = victim.kill_works = True

    _cut(victim, 16)
    world.time.after(25, works)


def _guard_dies_unconfirmed(world: World) -> None:
    victim, seconds = _some(world), world.time.random.uniform(8, 14)
    world.time.tell(f"{victim.name}: not linked for {seconds:.1f} s, its guard is killed again and again")
    victim.linked = False

    def heals() -> None:
        victim.linked = True

    world.time.after(seconds, heals)
    for at in (2.0, 4.5, 7.0):
        world.time.after(at, lambda: victim.new_guard() if victim.on and victim.guard is not None else None)


def _lost_history(world: World) -> None:
    """A host is cut off and its VMs are started elsewhere; then the store forgets that."""
    victim = _some(world)
    world.time.tell(f"{victim.name}: not linked for 15 s, and the store will forget what happens meanwhile")
    world.store.copy()
    copies = list(world.store.copies)
    victim.linked = False

    def forgets() -> None:
        world.time.tell("the store is restored from an older copy")
        world.store.copies = copies
        world.store.restore(latest=True)

    def heals() -> None:
        victim.linked = True

    world.time.after(14, forgets)
    world.time.after(15, heals)


def _leader_hangs(world: World) -> None:
    """A host dies, and the leader hangs while what it wrote is still under way."""
    leader = world.store.view().get(records.Leader, records.LEADER)
    victim = _some(world)
    if leader is None or leader.host == victim.name:
        return
    victim.power_off("its power was cut")
    world.slow.add(leader.host)
    chief = world.hosts[leader.host]
    at = world.time.random.uniform(1.7, 2.6)
    world.time.after(at, lambda: chief.hang(world.time.random.uniform(2, 4), suspended=False) if chief.on else None)
    world.time.after(10, lambda: world.slow.discard(leader.host))


def _answers_stick(world: World) -> None:
    """What a host is told sticks somewhere while it is not heard; it comes when the host has long been given up."""
    victim = _some(world)
    world.time.tell(f"{victim.name}: what it is told now comes late, and it is not heard for 17 s")
    victim.answers_stick = True

    def cut() -> None:
        victim.answers_stick = victim.heard = False

    def heals() -> None:
        victim.heard = True

    world.time.after(1, cut)
    world.time.after(18, heals)


def _slow_claims(world: World) -> None:
    """A host whose VMs are killed starts them anew, and is cut off while what it asks of the store lies about."""
    victim = _some(world)
    if not victim.on or not victim.machines:
        return
    world.time.tell(f"{victim.name}: its VMs are killed, what it writes lies about, and it is cut off")
    world.store.slow_hosts.add(victim.name)
    for machine in list(victim.machines.values()):
        machine.killed = True
        victim._dies(machine)

    def cut() -> None:
        victim.linked = False
        world.store.slow_hosts.discard(victim.name)

    def heals() -> None:
        victim.linked = True

    world.time.after(world.time.random.uniform(2.7, 3.8), cut)
    world.time.after(world.time.random.uniform(5, 11), heals)


def _late_grants(world: World) -> None:
    """A host whose VMs are killed claims them anew, and is granted that; it hears so in its next life."""
    victim = _some(world)
    if not victim.on or not victim.machines:
        return
    world.time.tell(f"{victim.name}: its VMs are killed, what it is told comes late, and it is cut off")
    for machine in list(victim.machines.values()):
        machine.killed = True
        victim._dies(machine)

    victim.grants_stick = True

    def cut() -> None:
        victim.grants_stick = False
        _cut(victim, world.time.random.uniform(3, 5))

    world.time.after(world.time.random.uniform(2.7, 3.4), cut)


def _array_slow(world: World) -> None:
    """What was sent to the array lies there for as long as it may."""

    def recovers() -> None:
        world.array.slow = False

    world.array.slow = True
    world.time.after(_seconds(world, 30), recovers)


def _cut(victim: host.Host, seconds: float) -> None:
    def heals() -> None:
        victim.linked = True

    victim.linked = False
    victim.time.after(seconds, heals)


def _slow_starts(world: World) -> None:
    """A host starts VMs anew, and is cut off between the claim and the process."""
    victim = _some(world)
    if not victim.on or not victim.machines:
        return
    world.time.tell(f"{victim.name}: its VMs are killed, start slowly, and it is cut off")
    victim.starts_slowly = True
    for machine in list(victim.machines.values()):
        machine.killed = True
        victim._dies(machine)

    def cut() -> None:
        victim.starts_slowly = False
        _cut(victim, world.time.random.uniform(3, 10))

    world.time.after(world.time.random.uniform(3.2, 4.0), cut)


def _suspended_while_cut_off(world: World) -> None:
    victim = _some(world)
    world.time.tell(f"{victim.name}: not linked for 16 s, and suspended again and again")
    _cut(victim, 16)
    for at in (1.0, 3.4, 5.8, 8.2, 10.6):
        world.time.after(at, lambda: victim.hang(2.0, suspended=True) if victim.on else None)


def _bounds_then_cut(world: World) -> None:
    victim = _some(world)
    _bounds(world, victim, 8)
    world.time.after(1.5, lambda: _cut(victim, 16))


def _outage(world: World) -> None:
    seconds = _seconds(world, 8)
    world.time.tell(f"the store is away for {seconds:.1f} s")
    world.store.set_up(False)
    world.time.after(seconds, lambda: world.store.set_up(True))


def _restore(world: World) -> None:
    if not world.store.copies:
        return
    world.time.tell("the store is restored from an older copy")
    world.store.set_up(False)
    world.store.restore()
    world.time.after(_seconds(world, 3), lambda: world.store.set_up(True))


def _kill_guest(world: World) -> None:
    running = [(each, machine) for each in world.hosts.values() for machine in each.machines.values() if machine.alive]
    if running:
        victim, machine = world.time.random.choice(running)
        world.time.tell(machine.client, "is killed")
        machine.killed = True
        victim._dies(machine)


def _on(event: Callable[[host.Host], None]) -> Callable[[World], None]:
    def befalls(world: World) -> None:
        victim = _some(world)
        if victim.on and victim.daemon is not None and victim.guard is not None:
            event(victim)

    return befalls


def _bounds(world: World, victim: host.Host, times: int) -> None:
    if victim.daemon is None or victim.guard is None or not victim.bounds.self_fence:
        return
    bounds = dataclasses.replace(victim.bounds, guard=profile.PROFILE.guard * times)
    world.time.tell(f"{victim.name}: T_guard is to be {bounds.guard}")
    victim.bounds = bounds
    world.kinds.change(victim, bounds)


def _some_bounds(world: World) -> None:
    _bounds(world, _some(world), world.time.random.choice((1, 2, 4)))


def _change(victim: host.Host, bounds: records.Bounds) -> None:
    if victim.daemon is not None:
        victim.daemon.returning.change(bounds)


def _planned_stop(world: World) -> None:
    """A host is stopped by a person, and started again a while later."""
    victim = _some(world)
    if victim.daemon is None or victim.daemon.returning.life is None:
        return
    world.time.tell(victim.name, "is to be stopped")
    victim.daemon.returning.stop()
    boot = victim.boot
    world.time.after(8, lambda: victim.power_off("it was stopped") if victim.boot == boot else None)
    world.time.after(_seconds(world, 15) + 12, victim.power_on)


def _migrate(world: World) -> None:
    """A VM is to move, while it runs, to another host."""
    running = [
        (each, machine)
        for each in world.hosts.values()
        for machine in each.machines.values()
        if machine.alive and machine.opened and each.daemon is not None and machine.name not in each.daemon.sources
    ]
    if not running:
        return
    source, machine = world.time.random.choice(running)
    target = _some(world)
    if target is not source and target.on and target.daemon is not None:
        migration.begin(world, source, target, machine)


TROUBLES: dict[str, tuple[float, Callable[[World], None]]] = {
    "power cut": (3, _power_cut),
    "hang": (2, _hang),
    "suspended": (1, _suspend),
    "network": (3, _set("linked", 14)),
    "storage network": (2, _set("storage_linked", 14)),
    "network, one way": (2, _set("heard", 14)),
    "guard dies unconfirmed": (1, _guard_dies_unconfirmed),
    "lost history": (0.5, _lost_history),
    "answers stick": (1.5, _answers_stick),
    "slow claims": (1, _slow_claims),
    "late grants": (1, _late_grants),
    "leader hangs": (2, _leader_hangs),
    "BMC": (1, _set("bmc_works", 30)),
    "stuck": (3, _stuck),
    "stuck for long": (1, _stuck_for_long),
    "store": (1, _outage),
    "restore": (0.4, _restore),
    "guest killed": (1, _kill_guest),
    "daemon killed": (1, _on(host.Host.restart_daemon)),
    "beat killed": (1, _on(host.Host.restart_beat)),
    "guard killed": (2, _on(host.Host.new_guard)),
    "planned stop": (1, _planned_stop),
    "array slow": (1, _array_slow),
    "bounds": (1, _some_bounds),
    "bounds, then the network": (1, _bounds_then_cut),
    "suspended while cut off": (1, _suspended_while_cut_off),
    "slow starts": (1, _slow_starts),
    "migration": (4, _migrate),
}
