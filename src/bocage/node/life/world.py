"""What one VM looks like just now: all that the next step is decided by."""

from __future__ import annotations

import pathlib

from bocage import reach
from bocage.engine import base as engine
from bocage.model import vm
from bocage.node import clock, tasks
from bocage.node.life.standing import Standing
from bocage.node.place import directory
from bocage.node.place.preparation import Preparation
from bocage.planner import lifecycle
from bocage.planner.lifecycle import Process

_PROCESS = {
    engine.Run.RUNNING: Process.RUNNING,
    engine.Run.PAUSED: Process.PAUSED,
    engine.Run.STORAGE_FULL: Process.FULL,
    engine.Run.STORAGE_FAILED: Process.FAILED_STORAGE,
    engine.Run.SHUT_DOWN: Process.SHUT_DOWN,
    engine.Run.PANICKED: Process.PANICKED,
    engine.Run.UNKNOWN: Process.SILENT,
}


def process_of(standing: Standing) -> Process:
    """What there is of its process."""
    return _PROCESS[standing.machine.run] if standing.machine else Process.NONE


async def look(standing: Standing, preparation: Preparation, machine: vm.VM) -> lifecycle.World:
    """Look at its directory and its process. Raises storage's Gone when nothing can be said of what does not run.

    What runs is not looked at on its storage, which may hang: its plug can be pulled all the same.
    """
    status, process = machine.status, process_of(standing)
    if process is not Process.SILENT:
        standing.silent = None
    elif standing.silent is None:
        standing.silent = clock.boottime()
    if process is Process.NONE and status.ready:
        await preparation.check_storage(machine)
    saved = trashed = False
    if process is Process.NONE:
        saved, trashed = await _lies(await preparation.place(machine), await preparation.trash(machine))
    failed = standing.failed
    if failed is None and status.state is vm.State.CRASHED:
        failed = clock.since(status.since)
    reboots = standing.asked("vm.reboot")
    return lifecycle.World(
        power=machine.spec.power,
        now=clock.boottime(),
        process=process,
        saved=saved,
        ready=status.ready,
        deleted=machine.metadata.deleted is not None,
        trashed=trashed,
        purge=standing.expired or any(run.params.get("purge") for run in standing.asked("vm.delete")),
        kill=bool(standing.asked("vm.kill", "vm.snapshot-revert")),
        asked_to_start=bool(standing.asked("vm.start")),
        asked_to_resume=bool(standing.asked("vm.resume")),
        ended=standing.ended is not None,
        orderly=standing.ended is not None and standing.ended.orderly,
        policy=machine.spec.restart,
        stop=_stop_policy(standing, machine),
        restarts=status.restarts,
        started=standing.started,
        failed=failed,
        reboot=bool(reboots) and not standing.has_rebooted and not _is_replaced(standing, reboots),
        guest_reboots=standing.guest_reboots,
        stopping=standing.stopping,
        pressed=standing.pressed,
        presses=standing.presses,
        room=process is not Process.FULL or await preparation.has_room(machine),
        resumed=standing.resumed,
        stalls=standing.stalls,
        leaving=standing.ground.leaves(machine),
        unplugged=_is_unplugged(standing, machine),
        rescue=machine.spec.rescue is not None,
        adapts=standing.adapts(machine),
    )


async def _lies(place: directory.Directory, bin_: pathlib.Path) -> tuple[bool, bool]:
    """Whether its memory is saved, and whether it lies in the trash."""

    def found() -> tuple[bool, bool]:
        return place.saved.exists(), not place.exists() and bin_.exists()

    return await reach.Way(bin_.parent.parent).call(found)


def _is_replaced(standing: Standing, reboots: list[tasks.Run]) -> bool:
    """Whether another process runs by now than the one that somebody wanted to restart."""
    old = [run.remembered["pid"] for run in reboots if "pid" in run.remembered]
    return standing.machine is not None and bool(old) and standing.machine.pid not in old


def _stop_policy(standing: Standing, machine: vm.VM) -> vm.StopPolicy:
    policy, stands = machine.spec.stop, standing.ground.standstill
    if stands is not None and standing.ground.stands(machine):
        policy = vm.StopPolicy(within=stands.within or policy.within, then=policy.then)
    for run in standing.asked("vm.stop"):
        policy = vm.StopPolicy(
            within=run.params.get("within") or policy.within,
            then="kill" if run.params.get("kill") else policy.then,
        )
    return policy


def _is_unplugged(standing: Standing, machine: vm.VM) -> bool:
    """Whether the plug of one that leaves is pulled when its time is over: its host will not wait, a cluster does."""
    stands = standing.ground.standstill
    return stands is None or stands.kill or not standing.ground.stands(machine)
