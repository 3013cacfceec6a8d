"""Gives a running machine more memory, or takes some, and knows by its own word what it has."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import pathlib

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


async def as_found(runtime: pathlib.Path, machine: vm.VM, running: engine.Machine) -> Built:
    """What a running machine is made of, with what it was given and nobody came to note: saved memory fits no other."""
    built = await asyncio.to_thread(saved.built, runtime, machine)
    found = await with_dimms(runtime, built, running)
    if await running.growing.plug_cpus(0) == machine.spec.cpus.count != built.spec.cpus.count:
        found = dataclasses.replace(found, spec=built.spec.model_copy(update={"cpus": machine.spec.cpus}))
    return found


async def with_dimms(runtime: pathlib.Path, built: Built, running: engine.Machine) -> Built:
    """What a running machine is made of, with the DIMMs that it really has."""
    if not built.first.slots or (dimms := await running.growing.dimms()) == built.first.dimms:
        return built
    found = dataclasses.replace(built, first=dataclasses.replace(built.first, dimms=dimms))
    await asyncio.to_thread(started.note, runtime, found)
    return found
