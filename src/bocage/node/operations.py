"""What is done to a VM at somebody's word and is no state to be kept: reset, reboot, its disks and CDs.

They run one after another, when the VM is as it should be; a pulled plug or a cancelled task ends them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from bocage import errors
from bocage.engine import base as engine
from bocage.model import ground, requests, vm
from bocage.node import clock, moving, notes, tasks
from bocage.node.preparation import Preparation
from bocage.node.standing import Standing
from bocage.planner import lifecycle
from bocage.store import resources
from bocage.words import N_

Handler = Callable[[Standing, Preparation, vm.VM, tasks.Run], Awaitable[dict[str, Any] | None]]


class Error(errors.Problem):
    """An operation on a VM could not be done."""


class DidNotReboot(Error, errors.TimedOut):
    type = "vm-did-not-reboot"
    text = N_("the guest of {name} did not switch off within {bound:seconds}; it was left running")
    hint = N_("'bocage vm reset {name}' presses the reset button")
    name: str


def _running(standing: Standing, machine: vm.VM) -> engine.Machine:
    if standing.machine is None:
        raise engine.NotRunning(name=machine.name)
    return standing.machine


async def reset(standing: Standing, preparation: Preparation, machine: vm.VM, run: tasks.Run) -> None:
    """Press the reset button."""
    await _running(standing, machine).reset()
    await standing.tell(machine, notes.Reset(name=machine.name))


async def reboot(standing: Standing, preparation: Preparation, machine: vm.VM, run: tasks.Run) -> None:
    """Restart in an orderly way: by the guest itself when it has an agent and no change waits, else off and on."""
    running = _running(standing, machine)
    bound = machine.spec.stop.within
    changes_wait = running.started_generation != machine.metadata.generation
    restarted = asyncio.Event()

    def heard(happened: engine.Happened) -> None:
        if happened.what == "reset":
            restarted.set()

    standing.listeners.append(heard)
    try:
        async with asyncio.timeout(bound):
            if not changes_wait and await running.ask_agent_to_shut_down(reboot=True):
                run.report(notes.AskingGuest(way="guest agent"))
                await restarted.wait()
                await standing.tell(machine, notes.Rebooted(name=machine.name))
                return
            await _switch_off(standing, running, run)
    except TimeoutError as error:
        raise DidNotReboot(what=machine.name, bound=bound, name=machine.name) from error
    finally:
        standing.listeners.remove(heard)
    await preparation.disconnect(machine)
    standing.ended = None  # it was meant to end: the next look finds it off, and starts it
    standing.failed = None


async def _switch_off(standing: Standing, running: engine.Machine, run: tasks.Run) -> None:
    for pause in (lifecycle.SECOND_PRESS, *[lifecycle.FURTHER_PRESSES] * 1000):
        await running.press_power_button()
        run.report(notes.AskingGuest(way="power button"))
        due = clock.boottime() + pause
        while (left := due - clock.boottime()) > 0:
            if standing.machine is None or running.run is engine.Run.SHUT_DOWN:
                if standing.machine is not None:
                    await running.quit()
                    await standing.until_ended()
                return
            await _something_happens(standing, left)


async def _something_happens(standing: Standing, within: float) -> None:
    happened = asyncio.Event()
    listener = lambda _: happened.set()  # noqa: E731 - needs a name to be taken out again
    standing.listeners.append(listener)
    ending = asyncio.create_task(standing.until_ended())
    hearing = asyncio.create_task(happened.wait())
    try:
        await asyncio.wait([ending, hearing], timeout=within, return_when=asyncio.FIRST_COMPLETED)
    finally:
        standing.listeners.remove(listener)
        ending.cancel()
        hearing.cancel()


async def attach_disk(
    standing: Standing, preparation: Preparation, machine: vm.VM, run: tasks.Run
) -> dict[str, Any] | None:
    """Plug in a disk that the spec has and the running machine has not."""
    name = str(run.params["disk"])
    disk = _disk(machine, name)
    await preparation.make(machine)
    if standing.machine:
        chain = (await preparation.plan(machine, connect=False)).chains[name]
        await standing.machine.attach_disk(disk, chain)
    return {"disk": name, "now": standing.machine is not None}


async def detach_disk(
    standing: Standing, preparation: Preparation, machine: vm.VM, run: tasks.Run
) -> dict[str, Any] | None:
    """Unplug a disk, then take it out of the spec; its volume stays."""
    name = str(run.params["disk"])
    _disk(machine, name)
    if standing.machine:
        await standing.machine.detach_disk(name)
    await standing.change(
        lambda spec: {
            "disks": tuple(disk for disk in spec.disks if disk.name != name),
            "boot": vm.Boot(order=tuple(one for one in spec.boot.order if one != name)),
        }
    )
    return {"disk": name}


async def grow_disk(
    standing: Standing, preparation: Preparation, machine: vm.VM, run: tasks.Run
) -> dict[str, Any] | None:
    """Make a disk larger, while it runs or not."""
    name, size = str(run.params["disk"]), requests.Grow.model_validate({"size": run.params["size"]}).size
    disk = _disk(machine, name)
    volume = await standing.ground.resources.get(ground.Volume, standing.project, disk.volume)
    await preparation.grow(volume, size, running=standing.machine, disk=name)
    return {"disk": name, "size": str(size)}


async def change_cd(
    standing: Standing, preparation: Preparation, machine: vm.VM, run: tasks.Run
) -> dict[str, Any] | None:
    """Put what the spec says into the running machine's tray."""
    name = str(run.params["cd"])
    cd = next((one for one in machine.spec.cds if one.name == name), None)
    if cd is None:
        raise resources.Missing(kind="cd", name=name)
    if standing.machine:
        await standing.machine.change_cd(name, await preparation.image_path(machine, cd.image))
    return {"cd": name}


def _disk(machine: vm.VM, name: str) -> vm.Disk:
    disk = next((one for one in machine.spec.disks if one.name == name), None)
    if disk is None:
        raise resources.Missing(kind="disk", name=name)
    return disk


HANDLERS: dict[str, Handler] = {
    "vm.reset": reset,
    "vm.reboot": reboot,
    "vm.disk-attach": attach_disk,
    "vm.disk-detach": detach_disk,
    "vm.disk-grow": grow_disk,
    "vm.cd-change": change_cd,
    "vm.move": moving.move,
}
