"""QEMU's part in a simulated migration: until it has reported `completed` a source resumes by itself on any error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bocage.protocol import returning
from tests.protocol import profile

if TYPE_CHECKING:
    from tests.protocol import host
    from tests.protocol.world import World


def begin(world: World, source: host.Host, target: host.Host, machine: host.Machine) -> None:
    """Start the target's process, copy the memory, and let both machines do the rest."""
    ours, theirs = source.daemon, target.daemon
    if ours is None or theirs is None:
        return
    here, there = ours.returning, theirs.returning
    if here.life is None or there.life is None:
        return
    if here.phase is not returning.Phase.LIVE or there.phase is not returning.Phase.LIVE or there.waits or here.waits:
        return
    if not theirs.owning[machine.name].comes():
        return
    generation = ours.owning[machine.name].generation
    incoming = target.start(machine.name, machine.generation, paused=True)
    if incoming is None:
        theirs.owning[machine.name].died()
        return
    incoming.runs = False
    world.time.tell(machine.client, "migrates to", incoming.client)
    outgoing = world.kinds.source(machine.name, there.life, generation, profile.PROFILE)
    arriving = world.kinds.target(machine.name, there.life, generation)
    ours.sources[machine.name] = (outgoing, machine)
    theirs.targets[machine.name] = (arriving, incoming)
    random = world.time.random
    boots = (source.boot, target.boot)

    def both() -> bool:
        return machine.alive and incoming.alive and (source.boot, target.boot) == boots and source.on and target.on

    machine.migrating = outgoing

    def goes_on() -> bool:
        return machine.alive and machine.migrating is outgoing

    def fails(why: str) -> None:
        world.time.tell(machine.client, "resumes by itself:", why)
        cancel(machine)
        outgoing.failed()
        ours.sources.pop(machine.name, None)
        if incoming.alive:
            incoming.killed = True
            target.awake(boots[1], lambda: target._dies(incoming))

    def stops() -> None:
        if not goes_on():
            return
        if not both() or random.random() < 0.1:
            fails("while memory was copied")
            return
        machine.runs = False
        incoming.memory = machine.memory
        target.awake(boots[1], receives)
        source.time.after(random.uniform(0.0, 0.6), lambda: source.awake(boots[0], completes))

    def receives() -> None:
        if incoming.alive and theirs is target.daemon:
            arriving.received()

    def completes() -> None:
        if not goes_on():
            return
        if not both() or random.random() < 0.15:
            fails("before it had completed")
            return
        if machine.socket or world.array.holds(machine.client):
            source.time.after(0.2, lambda: source.awake(boots[0], completes))  # it waits for its writes first
            return
        machine.completed = True

    source.time.after(random.uniform(0.2, 2.0), lambda: source.awake(boots[0], stops))


def cancel(machine: host.Machine) -> None:
    """A migration that has not completed ends, and the source runs."""
    machine.migrating = None
    if machine.alive and not machine.killed:
        machine.runs = True
