"""Gives a running machine more memory, or takes some, and knows by its own word what it has."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator

from bocage import words
from bocage.engine import base as engine
from bocage.model import vm
from bocage.model.units import Size
from bocage.node import started
from bocage.node.life import outcomes
from bocage.node.place import saved
from bocage.planner.adaptation import DIMM_BLOCK, Built, ResizeMemory


async def resize(
    change: ResizeMemory, built: Built, running: engine.Machine, machine: vm.VM
) -> tuple[Size, str, words.Message]:
    """What the guest has then, or with dynamic memory what it can have at most; how that went, and what is said."""
    first, added, taken, how = built.first, 0, True, "done"
    whole = first.whole + (change.added if change.dimm else 0)
    if change.dimm:
        with contextlib.suppress(engine.NoBalloon):  # a guest needs free memory to take more
            await running.balloon.settle(first.whole)
        taken = await running.growing.plug_dimm(len(first.dimms), change.added)
    elif built.spec.memory > first.whole or change.added:
        added = await running.growing.resize_memory(change.added)
    if change.dynamic is not None:  # its balloon follows what it needs
        present = Size(min(whole, change.memory) + added)
    elif change.balloon:
        present = Size(await running.balloon.settle(min(whole, change.memory) + added))
    else:
        present = Size(whole + added)
    said: words.Message = outcomes.MemoryIs(size=present)
    if present != change.memory:
        how, said = "partly", outcomes.MemoryInPart(size=present, wanted=change.memory)
    elif not taken:
        how, said = "partly", outcomes.DimmNotTaken(name=machine.name, size=change.added)
    elif change.dynamic is not None:
        said = outcomes.MemoryFollows(minimum=change.dynamic.minimum, maximum=present)
    elif change.dimm:
        said = outcomes.DimmThere(size=present, dimm=change.added)
    return present, how, said


def why_it_waits(path: str, built: Built, machine: vm.VM) -> words.Message:
    """Why a change that was not tried waits for a cold start."""
    first, wanted, name = built.first, machine.spec, machine.name
    if path == "dynamic_memory" and built.spec.dynamic_memory is None:
        return outcomes.FixedUntilColdStart(name=name)
    if path == "memory" and first.slots and first.whole < wanted.memory <= (built.spec.hardware.max_memory or 0):
        return outcomes.DimmsAreWhole(name=name, left=first.slots - len(first.dimms), block=DIMM_BLOCK)
    return outcomes.WaitsForColdStart(name=name)


def came_unsaid(noted: Built, found: Built, wanted: vm.VMSpec) -> Iterator[tuple[str, words.Message]]:
    """What was wanted and somebody did who was cut off before it was said."""
    if noted.spec.cpus != found.spec.cpus == wanted.cpus:
        yield "cpus", outcomes.CpusAre(count=wanted.cpus.count)
    if noted.spec.memory != found.spec.memory == wanted.memory:
        yield "memory", outcomes.MemoryIs(size=wanted.memory)


async def as_found(runtime: pathlib.Path, machine: vm.VM, running: engine.Machine) -> Built:
    """What a running machine is made of by its own word, and noted so: who changed it last may not have got to it."""
    built = await asyncio.to_thread(saved.built, runtime, machine)
    cpus = await running.growing.cpus()
    found = built.as_found(cpus, await running.growing.dimms() if built.first.slots else ())
    if found.spec.cpus.count != cpus:  # a core of which a thread is missing can be neither noted nor saved
        await running.growing.plug_cpus(found.spec.cpus.count)
    if found != built:
        await asyncio.to_thread(started.note, runtime, found)
    return found


async def to_be_saved(runtime: pathlib.Path, machine: vm.VM, running: engine.Machine) -> Built:
    """The machine that its memory fits, with the disks too that came to it and nobody noted."""
    built = await as_found(runtime, machine, running)
    names = {disk.name for disk in built.spec.disks}
    coming = [disk for disk in await asyncio.to_thread(started.coming, runtime) if disk.name not in names]
    came = [disk for disk in coming if await running.disks.there(disk.name)]
    return dataclasses.replace(built, spec=built.spec.model_copy(update={"disks": (*built.spec.disks, *came)}))
