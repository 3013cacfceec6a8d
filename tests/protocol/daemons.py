"""A simulated daemon: what a host does with its machines, the leader's included."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from bocage.protocol import fencing, moving, owning, records, returning, ruling
from tests.protocol import migration, profile

if TYPE_CHECKING:
    from tests.protocol.host import Host, Machine


class Daemon:
    """What the daemon of a host does with its machines, the leader's included."""

    def __init__(self, host: Host, *, fresh: bool) -> None:
        self.host, self.world = host, host.world
        life, bounds = host.stored
        self.returning = returning.Returning(host.name, host.bounds, profile.PROFILE)
        if not fresh and life is not None:
            self.returning = returning.Returning.resumed(life, bounds, host.bounds, profile.PROFILE)
        self.ruling = self.world.kinds.ruling(
            host.name,
            {each: other.means for each, other in self.world.hosts.items()},
            profile.PROFILE,
            self.world.place,
        )
        self.silence = self.world.kinds.silence(host.name, profile.PROFILE, host.now())
        self.owning = {name: self.world.kinds.owning(name, host.name, profile.PROFILE) for name in self.world.names}
        self._heard_view = -1e9
        self.sources: dict[str, tuple[moving.Source, Machine]] = {}
        self.targets: dict[str, tuple[moving.Target, Machine]] = {}
        self.change: records.Bounds | None = None
        if not fresh:
            for machine in list(host.machines.values()):
                if machine.alive and machine.opened:
                    self.owning[machine.name].found(machine.generation)
                    if machine.completed and not machine.runs:
                        source = self.world.kinds.source.found(machine.name, machine.generation, profile.PROFILE)
                        self.sources[machine.name] = (source, machine)
                    elif machine.migrating is not None:
                        migration.cancel(machine)
                elif machine.alive:
                    self.owning[machine.name].comes()
                    self._perform_ending(self.owning[machine.name].died())
                else:
                    self.owning[machine.name].found(machine.generation)
                    self._perform_ending(self.owning[machine.name].died())

    def tick(self) -> None:
        host, sent = self.host, self.host.now()
        host.ask(None, lambda view: self._viewed(view, sent))
        for name, own in self.owning.items():
            if own.phase is owning.Phase.LEAVING:
                host.end(name)
        self._rule(self.ruling.tick(host.now()))

    def confirmed(self, sent: float) -> None:
        self._own_sent = sent

    @property
    def life(self) -> records.Life | None:
        """That something may be started in."""
        return self.returning.life if self.returning.phase is returning.Phase.LIVE else None

    _own_sent: float | None = None

    def _viewed(self, view: records.View, sent: float) -> None:
        if self.host.daemon is not self or sent < self._heard_view:
            return  # the process is another one, or this read was overtaken
        self._heard_view = sent
        host, now = self.host, self.host.now()
        if self._own_sent is not None:
            self.silence.confirmed(min(self._own_sent, sent), now)
        self.silence.seen(view, now)
        runs = {
            each.name: max(each.generation, self.owning[each.name].generation)
            for each in host.machines.values()
            if each.alive and each.opened
        }
        before = self.returning.life
        self._come_back(
            self.returning.seen(
                view, runs, host.read_directories(), gone=host.gone if host.empty else None, sent=sent, now=now
            )
        )
        self._lives(before)
        if self.returning.phase is returning.Phase.STRANGE:
            for source, _ in self.sources.values():
                source.strange()
        life = self.returning.life
        if life is None or self.returning.phase is not returning.Phase.LIVE:
            return
        self._rule(self.ruling.seen(view, self.silence, life, sent, now))
        if self.returning.waits:
            if records.settled(view, life.incarnation):
                self._end_what_is_not_ours(view)
            return
        if host.guard is not None and host.guard.life != life:
            host._do(host.guard.taken(life, self.returning.bounds))
            if host.guard.life == life:
                host.guarded, host.stored = life, (life, self.returning.bounds)
        self._hand_over(view, life, sent)
        for own in self.owning.values():
            self._perform(own, own.seen(view, life, sent, now))

    def _end_what_is_not_ours(self, view: records.View) -> None:
        ends = self.returning.to_end(view, {each.name for each in self.host.machines.values()})
        for name in ends:
            self.owning[name].died()
            self.host.end(name)
        if not ends:
            self.returning.ended(view)

    def _come_back(self, acts: list[returning.Act]) -> None:
        host = self.host
        for act in acts:
            if isinstance(act, records.Ask):
                host.ask(act.transaction, functools.partial(self._answered, act))
            elif isinstance(act, returning.EndLife) and host.guard is not None:
                host._do(host.guard.raised(act.life))
            elif isinstance(act, returning.Narrow) and host.guard is not None:
                self.world.kinds.narrow(host.guard, act.bounds)
                host.stored = (host.stored[0], host.guard.bounds)
                self.returning.narrowed(act.bounds)

    def _answered(self, act: records.Ask, answer: records.Answer) -> None:
        if self.host.daemon is self:
            before = self.returning.life
            self.returning.answered(act.attempt, answer)
            self._lives(before)

    def _lives(self, before: records.Life | None) -> None:
        """A life was taken: it is written down, and its beats begin."""
        life, host = self.returning.life, self.host
        if life is None or life == before:
            return
        host.time.tell(host.name, "has taken", life.epoch, "in", life.incarnation)
        host.stored = (life, host.stored[1])
        host.gone = None
        host.begins_to_beat(self.world.kinds.beating(life, profile.PROFILE))

    def died(self, machine: Machine) -> None:
        if self.sources.get(machine.name, (None, None))[1] is machine:
            del self.sources[machine.name]
        if self.targets.get(machine.name, (None, None))[1] is machine:
            del self.targets[machine.name]
        self._perform_ending(self.owning[machine.name].died())

    def _perform_ending(self, acts: list[owning.Act]) -> None:
        for act in acts:
            assert isinstance(act, owning.End)  # the next tick ends it

    def _perform(self, own: owning.Owning, acts: list[owning.Act]) -> None:
        host = self.host
        for act in acts:
            if isinstance(act, records.Ask):
                if host.name in self.world.store.slow_hosts:
                    self.world.store.slow[id(act.transaction)] = act.transaction
                host.ask(act.transaction, functools.partial(self._claimed, own, act.attempt))
            elif isinstance(act, owning.Start):
                self._start_soon(act, host.boot)

    def _start_soon(self, act: owning.Start, boot: int) -> None:
        host = self.host
        delay = host.random.uniform(0.01, 1.0) if host.time.chance(0.8) else host.random.uniform(1.0, 3.5)
        delay = host.random.uniform(2.0, 3.2) if host.starts_slowly else delay
        host.time.after(delay, lambda: host.awake(boot, lambda: self._start(act)))

    def _claimed(self, own: owning.Owning, attempt: int, answer: records.Answer) -> None:
        if self.host.daemon is self:
            self._perform(own, own.answered(attempt, answer, self.life))

    def _start(self, act: owning.Start) -> None:
        own = self.owning[act.machine]
        if self.host.daemon is not self:
            return
        wanted = own.still(act.attempt, self.life)
        started = self.host.start(act.machine, act.generation, paused=False) if wanted else None
        self._perform(own, own.started(act.attempt, running=started is not None))

    # The leader's

    def _rule(self, acts: list[ruling.Act]) -> None:
        for act in acts:
            if isinstance(act, ruling.Write):
                self.world.by_leader(self.host, act.transaction)
            elif isinstance(act, ruling.Lift):
                self.world.array.shut_out.discard(act.host)
                self.world.array.only_clients.pop(act.host, None)
                self.world.hosts[act.host].flush()
                self.ruling.lifted(act.host, act.number)
            else:
                self._outside(act)

    def _outside(self, act: ruling.Do) -> None:
        fence = self.ruling.fences.get(act.host)
        victim, array = self.world.hosts[act.host], self.world.array
        host, sent = self.host, self.host.now()
        boot = host.boot

        def reply(event: Callable[[], None]) -> None:
            def comes() -> None:
                if host.daemon is self:
                    event()
                    self.ruling.answered(act)
                    self._rule(self.ruling.tick(host.now()))

            host.time.after(host.random.uniform(0.01, 0.1), lambda: host.awake(boot, comes))

        match act.act:
            case fencing.Act.POWER_OFF if victim.bmc_works and fence is not None:
                reply(lambda: fence.ordered(host.now()))
                delay = host.random.uniform(1, 8) if victim.bmc_slow else 0.05
                host.time.after(delay, lambda: victim.power_off("its BMC was told so"))
            case fencing.Act.READ_POWER if victim.bmc_works:
                off = not victim.on
                reply(lambda: self.ruling.read_power(act.host, off=off, asked=sent))
            case fencing.Act.SHUT_OUT if fence is not None:
                if not self.world.kinds.whole:
                    array.only_clients[act.host] = set(victim.machines)
                else:
                    array.shut_out.add(act.host)
                array.end_sessions(act.host)
                reply(lambda: fence.shut_out(act.number))
            case fencing.Act.END_WRITES if fence is not None:
                array.end_sessions(act.host)
                reply(lambda: fence.writes_ended(act.number))
            case _:
                pass

    # Migration

    def _hand_over(self, view: records.View, life: records.Life, sent: float) -> None:
        for source, machine in list(self.sources.values()):
            if machine.completed:
                self.sourced(source, machine, source.completed(view, life, self.host.now()))
            self.sourced(source, machine, source.seen(view, life, sent, self.host.now()))
        for target, machine in list(self.targets.values()):
            for act in target.seen(view):
                self._targeted(target, machine, act)

    def sourced(self, source: moving.Source, machine: Machine, acts: list[records.Ask | moving.Act]) -> None:
        for act in acts:
            if isinstance(act, records.Ask):
                self.host.ask(act.transaction, functools.partial(self._handed, source, machine, act))
            elif act is moving.Act.CONTINUE and machine.alive:
                machine.generation, machine.completed, machine.migrating = source.generation, False, None
                self.host.open(machine)
            elif act is moving.Act.END:
                machine.runs = False
                machine.killed = True
                self.host._dies(machine)
        if source.phase in (moving.SourcePhase.STAYED, moving.SourcePhase.GONE):
            self.sources.pop(machine.name, None)

    def _handed(self, source: moving.Source, machine: Machine, act: records.Ask, answer: records.Answer) -> None:
        if self.host.daemon is self and machine.alive:
            self.sourced(source, machine, source.answered(act.attempt, answer))

    def _targeted(self, target: moving.Target, machine: Machine, act: moving.Act) -> None:
        del self.targets[machine.name]
        if act is moving.Act.CONTINUE and machine.alive:
            self.world.continues(machine)
            machine.generation = target.generation
            self.owning[machine.name].arrived(target.generation)
            self.host.open(machine)
        else:
            machine.killed = True
            self.host._dies(machine)
