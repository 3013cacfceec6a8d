"""A guest that stood still has a clock that is late by as long; its agent is asked to set it.

Nobody waits for that: a guest without an agent runs on all the same. Its board's clock (RTC) has gone on; the guest
takes it over with its next boot, or its time service steps it.
"""

from __future__ import annotations

from bocage import errors, words
from bocage.engine import base as engine
from bocage.model import vm
from bocage.node import clock, notes
from bocage.node.life.standing import Standing

_LATE = 2.0  # seconds; guests bear less without a word


def set_after_pause(standing: Standing, machine: vm.VM) -> None:
    """Set it when the VM has stood for longer than a moment."""
    stood = clock.since(machine.status.since) if machine.status.state is vm.State.PAUSED else None
    if stood is not None and clock.boottime() - stood > _LATE:
        set_(standing, machine)


def set_(standing: Standing, machine: vm.VM) -> None:
    """Set it, beside all else."""
    if standing.machine:
        standing.beside(_set(standing, machine, standing.machine))


async def _set(standing: Standing, machine: vm.VM, running: engine.Machine) -> None:
    try:
        why = await running.set_clock()
        note: notes.Note = notes.ClockSet(name=machine.name)
        if why is not None:
            note = notes.ClockLate(name=machine.name, reason=words.say(why))
        await standing.tell(machine, note)
    except errors.Problem:
        return  # it ended meanwhile
