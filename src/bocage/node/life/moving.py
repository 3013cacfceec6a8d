"""Carries a whole VM to another storage of its host, while it runs or not."""

from __future__ import annotations

import asyncio
import pathlib
from typing import Any

from bocage import files, words
from bocage.model import ground, vm
from bocage.node import tasks
from bocage.node.life import filling, relocating
from bocage.node.life.standing import Standing
from bocage.node.place.preparation import Preparation
from bocage.words import N_


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
        if standing.machine:
            await relocating.carry(standing, preparation, machine, target, run)
        else:
            await _carry(standing, preparation, machine, target, run)
    if (old := run.remembered.get("old")) is not None:  # also that of an attempt which ended just before this
        await asyncio.to_thread(files.remove_tree, pathlib.Path(old))
        await preparation.link(await standing.read())
    await standing.tell(machine, Moved(name=machine.name, storage=target.name))
    return {"storage": target.name}


async def _carry(
    standing: Standing, preparation: Preparation, machine: vm.VM, target: ground.Storage, run: tasks.Run
) -> None:
    with preparation.disks.copied([machine]):
        at = await filling.ways(preparation, machine, target, run)
        try:
            await filling.fill(standing.ground, preparation, machine, target, at, run)
            await run.remember(old=str(at.old.path), new=str(at.new.path))
            await asyncio.to_thread(files.rename_durably, at.making.path, at.new.path)
        finally:
            await asyncio.to_thread(files.remove_tree, at.making.path)
        try:
            await filling.commit(standing, preparation, target)
        except BaseException:
            if (await standing.read()).spec.storage != target.uid:
                await asyncio.to_thread(files.remove_tree, at.new.path)
            raise
