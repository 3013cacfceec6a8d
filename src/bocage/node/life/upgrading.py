"""Moves a VM's board to a newer machine type, after a rehearsal: a copy of the VM is started on that board.

The copy writes to throw-away overlays, reaches no network, and is gone before the board changes. Of a VM that
runs only the board is rehearsed, on blank disks and without a step of its vCPUs.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import pathlib
from typing import Any

from bocage import errors, files, words
from bocage.engine import base as engine
from bocage.engine import block
from bocage.model import ground, vm
from bocage.node import notes, tasks
from bocage.node.life.standing import Standing
from bocage.node.place.preparation import Preparation
from bocage.planner import machinetypes
from bocage.storage import half_made, qcow2, tools
from bocage.words import N_

_WATCHED = 30.0  # seconds that a copy must run well, or until its guest agent answers
_LOOK = 1.0
_MAKE = 60.0  # seconds for an overlay
_SCRATCH = f".rehearsal{half_made.SUFFIX}"
_IO_FILES = ("firmware-vars.fd", "tpm.state")


class Error(errors.Problem):
    """A board was not moved."""


class RehearsalFailed(Error, errors.Conflict):
    type = "hardware-rehearsal-failed"
    text = N_("a copy of {name} did not run as {machine}: {reason}")
    hint = N_("the VM was not touched, and stays as it is")
    name: str
    machine: str
    reason: str


class Upgraded(words.Message):
    type = "vm-hardware-upgraded"
    text = N_("{name} is {machine} from its next cold start on; a copy of it ran so")
    name: str
    machine: str


async def upgrade(standing: Standing, preparation: Preparation, machine: vm.VM, run: tasks.Run) -> dict[str, Any]:
    """Rehearse, then write the newer machine type down; it counts from the next cold start on."""
    host = await standing.ground.resources.get(ground.Host, None, standing.ground.uid)
    try:
        board = machinetypes.upgraded(machine, host)
    except machinetypes.AlreadyNewest:
        if run.remembered.get("machine") != machine.spec.hardware.machine:
            raise
        return {"machine": machine.spec.hardware.machine}  # done by an attempt that was cut off
    run.report(notes.Rehearsing(name=machine.name, machine=board.machine))
    answered = await _rehearse(standing, preparation, machine, board)
    await run.remember(machine=board.machine)
    newer = {"machine": board.machine}
    await standing.change(lambda spec: {"hardware": spec.hardware.model_copy(update=newer)})
    await standing.tell(machine, Upgraded(name=machine.name, machine=board.machine))
    return {**newer, "answered": answered}


async def _rehearse(standing: Standing, preparation: Preparation, machine: vm.VM, board: vm.Hardware) -> bool:
    """Whether the copy's guest agent answered. Raises RehearsalFailed; nothing of the copy is left."""
    here = standing.ground
    place = (await preparation.place(machine)).path / _SCRATCH
    runtime, cgroup = here.home.vm_runtime(f"{machine.uid}-new"), here.cgroup_of(f"{machine.uid}-new")
    left = await here.engine.find(f"{machine.uid}-new", machine.name, place, runtime, listener=_unheard, cgroup=cgroup)
    if left:  # of an attempt that was cut off
        await left.kill()
    await asyncio.to_thread(files.remove_tree, place)
    plan = await preparation.plan(machine, connect=False)
    is_up = standing.machine is not None
    async with contextlib.AsyncExitStack() as undo:
        await asyncio.to_thread(place.mkdir, mode=0o711)
        undo.push_async_callback(asyncio.to_thread, files.remove_tree, place)
        chains = {name: await _overlay(place / f"{name}.qcow2", chain, is_up) for name, chain in plan.chains.items()}
        await asyncio.to_thread(_copy, plan.directory, place)
        spec = plan.spec.model_copy(update={"hardware": board, "ports": ()})
        apart = dataclasses.replace(
            plan,
            uid=f"{machine.uid}-new",
            spec=spec,
            directory=place,
            runtime=runtime,
            chains=chains,
            nics={nic.name: engine.UserMode(apart=True) for nic in spec.nics},
            cgroup=cgroup,
        )
        undo.push_async_callback(here.engine.forget, runtime)
        try:
            copy = await here.engine.start(apart, generation=0, listener=_unheard, paused=is_up)
            undo.push_async_callback(copy.kill)
            return False if is_up else await _watch(copy)
        except (_Ended, engine.StartFailed) as error:
            reason = error.reason
            raise RehearsalFailed(name=machine.name, machine=board.machine, reason=reason) from error


class _Ended(Exception):
    def __init__(self, reason: str) -> None:
        self.reason = reason


async def _watch(copy: engine.Machine) -> bool:
    """Whether its agent answered within the time that it is watched for. Raises _Ended."""
    end = asyncio.create_task(copy.ended())
    try:
        async with asyncio.timeout(_WATCHED):
            while not await copy.guest_addresses():
                if await copy.look() is engine.Run.PANICKED:
                    raise _Ended("its guest panicked")
                await asyncio.wait([end], timeout=_LOOK)
                if end.done():
                    raise _Ended(words.say(end.result().reason))
            return True
    except TimeoutError:
        return False
    finally:
        end.cancel()


async def _overlay(path: pathlib.Path, chain: tuple[block.File, ...], blank: bool) -> tuple[block.File, ...]:
    """A throw-away disk over the VM's own; a blank one of the same size while that is in use."""
    header = await asyncio.to_thread(qcow2.read_header, chain[0].path) if chain[0].format == "qcow2" else None
    size = header.virtual_size if header else (await asyncio.to_thread(chain[0].path.stat)).st_size
    await tools.qemu_img("create", "-q", "-f", "qcow2", qcow2.plain(path), str(size), within=_MAKE)
    return (block.File(path, "qcow2"), *(() if blank else chain))


def _copy(source: pathlib.Path, to: pathlib.Path) -> None:
    for name in _IO_FILES:
        with contextlib.suppress(FileNotFoundError):
            (to / name).write_bytes((source / name).read_bytes())


def _unheard(_: engine.Happened) -> None:
    """Nobody needs to know what a copy does."""
