"""Carries a whole VM to another storage of its host, while it runs or not."""

from __future__ import annotations

import pathlib
from typing import Any

from bocage import files, reach, words
from bocage.model import ground, vm
from bocage.node import clock, tasks
from bocage.node.life import filling, overlaying, relocating
from bocage.node.life.standing import Standing
from bocage.node.place.preparation import Preparation
from bocage.words import N_

_UNTIL_IT_RUNS = 2.0  # seconds


class Moved(words.Message):
    type = "vm-moved"
    text = N_("{name} lies on storage {storage} now")
    name: str
    storage: str


async def move(standing: Standing, preparation: Preparation, machine: vm.VM, run: tasks.Run) -> dict[str, Any]:
    """Carry the directory to another storage of this host; the old one goes when the new one counts."""
    target = await standing.ground.resources.get(ground.Storage, None, str(run.params["storage"]))
    await relocating.settle(standing, preparation, run)
    machine = await standing.read()
    if target.uid != machine.spec.storage:
        await relocating.check_whole(standing, machine)
        if standing.machine:
            await relocating.carry(standing, preparation, machine, target, run)
        elif _starts_soon(machine):
            run.rests = clock.boottime() + _UNTIL_IT_RUNS
            raise overlaying.Later
        else:
            await _carry(standing, preparation, machine, target, run)
    machine = await standing.read()
    if (old := run.remembered.get("old")) is not None:  # also that of an attempt which ended just before this
        await preparation.link(machine)
        await reach.gone(pathlib.Path(old))
    await standing.tell(machine, Moved(name=machine.name, storage=target.name))
    return {"storage": target.name}


def _starts_soon(machine: vm.VM) -> bool:
    """Whether it should run and is about to: a copy of what does not run would keep it from that until its end."""
    wanted = machine.spec.power in (vm.Power.RUNNING, vm.Power.PAUSED)
    return wanted and machine.spec.restart.policy != "never" and machine.status.restarts < machine.spec.restart.limit


async def _carry(
    standing: Standing, preparation: Preparation, machine: vm.VM, target: ground.Storage, run: tasks.Run
) -> None:
    with preparation.in_use.copied([machine]):
        at = await filling.ways(preparation, machine, target, run)
        try:
            await filling.fill(standing.ground, preparation, machine, target, at, run)
            await run.remember(old=str(at.old.path), new=str(at.new.path))
            await at.way.call(at.check)  # it may have been taken out
            await at.way.call(files.rename_durably, at.making.path, at.new.path)
        finally:
            await at.way.discard(at.making.path)
    try:
        async with preparation.in_use.taken_away(machine):  # who copies from it now reads what then goes
            await filling.commit(standing, preparation, target)
    finally:
        await relocating.settle_off(standing, preparation, run)
