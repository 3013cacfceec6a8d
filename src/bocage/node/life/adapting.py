"""Has a running machine take what it can of a changed definition, and says of each change what became of it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator, Mapping

from bocage import errors, words
from bocage.engine import base as engine
from bocage.model import base, vm
from bocage.model import memory as memories
from bocage.node import started, tasks
from bocage.node.life import attaching, outcomes, plugging, resizing, sharing
from bocage.node.life.standing import Standing
from bocage.node.place import edits, usb
from bocage.node.place.preparation import Preparation
from bocage.planner import adaptation, shares
from bocage.planner.adaptation import Built, Change


async def adapt(standing: Standing, preparation: Preparation, machine: vm.VM) -> None:
    """Try each change that a running machine can take. Each can be cut off and tried again."""
    try:
        await _adapt(standing, preparation, machine)
    finally:
        standing.resizes = False


async def _adapt(standing: Standing, preparation: Preparation, machine: vm.VM) -> None:
    runtime = standing.ground.home.vm_runtime(machine.uid)
    noted = await asyncio.to_thread(started.read_whole, runtime)
    running = standing.machine
    if noted is None or running is None:
        return
    built = await _as_found(runtime, machine, running)
    became = [_outcome(path, "done", said) for path, said in resizing.came_unsaid(noted, built, machine.spec)]
    again = not standing.held
    for change in list(adaptation.changes(built, machine.spec, again=again, kvm=running.accelerator == "kvm")):
        if isinstance(change, shares.HoldNic) and not _is_there(built, change.nic):
            continue  # it waits for a cold start, and so does its rate
        if _is_done_elsewhere(change, standing):
            continue
        try:
            outcome, fields = await _try(change, built, running, machine, preparation, standing)
            built = await _noted(runtime, built, fields)
        except engine.NotRunning:
            raise
        except engine.CannotHold as error:  # no cold start would change that, so nothing waits for one
            outcome = _outcome(change.path, "impossible", error)
            if isinstance(change, shares.Hold):
                built = await _noted(runtime, built, shares.held(built.spec, change))
        except (errors.Problem, OSError) as error:
            outcome = _outcome(
                change.path, "pending", error if isinstance(error, errors.Problem) else tasks.from_os(error)
            )
        became.append(outcome)
    built = await _as_found(runtime, machine, running)
    became += _left(built, machine, {one.path for one in became})
    preparation.admission.note(machine.uid, built.spec)  # whatever the guest gave way to
    await sharing.settle(running, built)
    standing.held = True
    standing.adapted = standing.told = machine.metadata.generation
    standing.pending = None
    await standing.show(outcomes=tuple(became))
    for one in became:
        if one.how in ("done", "partly") and not again:
            told = one.saying.model_dump(mode="json")
            await standing.tell(machine, outcomes.Adapted(name=machine.name, outcome=told))


async def _as_found(runtime: pathlib.Path, machine: vm.VM, running: engine.Machine) -> Built:
    """What it is made of, with what may have come to it and is to go again."""
    built = await resizing.as_found(runtime, machine, running)
    spec = await asyncio.to_thread(started.with_left, runtime, built.spec, machine.spec)
    return dataclasses.replace(built, spec=spec)


async def _try(
    change: Change,
    built: Built,
    running: engine.Machine,
    machine: vm.VM,
    preparation: Preparation,
    standing: Standing,
) -> tuple[vm.Outcome, dict[str, object]]:
    """Carry out one change: what became of it, and the fields of the spec that the machine now has."""
    if isinstance(change, (adaptation.PlugCpus, adaptation.ResizeMemory, shares.HoldCpu)):
        await preparation.admission.claim(machine, _grown(built.spec, change))
    match change:
        case adaptation.PlugCpus(cpus):
            taken = await running.growing.plug_cpus(cpus.count)
            if taken == cpus.count:
                return _outcome(change.path, "done", outcomes.CpusAre(count=taken)), {"cpus": cpus}
            few = outcomes.CpusNotTaken(name=machine.name, count=cpus.count, taken=taken)
            return _outcome(change.path, "partly", few), {"cpus": cpus}
        case adaptation.UnplugCpus(cpus):
            await running.growing.unplug_cpus(cpus.count)
            return _outcome(change.path, "done", outcomes.CpusAre(count=cpus.count)), {"cpus": cpus}
        case adaptation.ResizeMemory(memory):
            standing.resizes = True
            present, how, told = await resizing.resize(change, built, running, machine)
            standing.gives = change.dynamic is None and present > memory
            dynamic = memories.within(change.dynamic, present)
            return _outcome(change.path, how, told), {"memory": present, "dynamic_memory": dynamic}
        case adaptation.UnplugDisk(disk):
            freed = await attaching.unplug(disk, running, machine, preparation, standing)
            gone = outcomes.DiskGone(disk=disk.name, volume=freed)
            return _outcome(change.path, "done", gone), {"disks": _disks_without(built, disk)}
        case adaptation.PlugDisk(disk):
            await attaching.plug(disk, running, machine, preparation, standing)
            plugged = outcomes.DiskThere(disk=disk.name)
            return _outcome(change.path, "done", plugged), {"disks": (*_disks_without(built, disk), disk)}
        case adaptation.UnplugNic(nic):
            await running.nics.unplug(nic.name)
            await preparation.unplug_nic(machine, nic)
            return _outcome(change.path, "done", outcomes.NicGone(nic=nic.name)), {"nics": _without(built, nic)}
        case adaptation.PlugNic(nic) | adaptation.RewireNic(nic):
            await _wire(nic, running, machine, preparation)
            there = outcomes.NicThere(nic=nic.name, network=await preparation.network_name(machine, nic))
            return _outcome(change.path, "done", there), {"nics": (*_without(built, nic), _as_held(built, nic))}
        case adaptation.FenceNic(nic):
            await preparation.fence_nic(machine, nic)
            fenced = outcomes.NicFenced(nic=nic.name)
            return _outcome(change.path, "done", fenced), {"nics": (*_without(built, nic), _as_held(built, nic))}
        case adaptation.SetLink(nic):
            await running.nics.set_link(nic.name, connected=nic.connected)
            cable: words.Message = outcomes.CableIn(nic=nic.name) if nic.connected else outcomes.CableOut(nic=nic.name)
            return _outcome(change.path, "done", cable), {"nics": (*_without(built, nic), _as_held(built, nic))}
        case adaptation.UnplugUsb(device) | adaptation.PlugUsb(device):
            without = tuple(one for one in built.spec.usb if one.name != device.name)
            wanted = without if isinstance(change, adaptation.UnplugUsb) else (*without, device)
            standing.usb = wanted
            if isinstance(change, adaptation.PlugUsb):  # first: who comes after a crash knows what to look for
                await asyncio.to_thread(started.change, standing.ground.home.vm_runtime(machine.uid), usb=wanted)
            return await _usb(change, running, preparation, standing), {"usb": wanted}
        case adaptation.ChangeMedium(drive):
            there_is = await change_medium(drive, running, machine, preparation)
            return _outcome(change.path, "done", there_is), {"cds": media(built.spec, drive)}
        case adaptation.OrderBoot(boot):
            await running.order_boot(built.spec.model_copy(update={"boot": boot}))
            order = outcomes.BootsFrom(order=list(boot.order)) if boot.order else outcomes.BootsAsUsual()
            return _outcome(change.path, "done", order), {"boot": boot}
        case _:
            held = await sharing.hold(change, built, running, machine, preparation)
            return _outcome(change.path, "done", held), shares.held(built.spec, change)


async def _usb(
    change: adaptation.UnplugUsb | adaptation.PlugUsb,
    running: engine.Machine,
    preparation: Preparation,
    standing: Standing,
) -> vm.Outcome:
    """What is not there yet, or cannot be handed over, comes later by itself."""
    device = change.device
    shown = await plugging.settle(standing, preparation.usb, running)
    if isinstance(change, adaptation.UnplugUsb):
        return _outcome(change.path, "done", outcomes.UsbGone(usb=device.name))
    there = next((one for one in shown if one.name == device.name), None)
    if there and there.reason:
        return vm.Outcome(path=change.path, how="partly", saying=there.reason)
    return _outcome(change.path, "done", outcomes.UsbThere(usb=device.name, device=usb.describe(device)))


async def change_medium(
    drive: vm.Cd, running: engine.Machine, machine: vm.VM, preparation: Preparation
) -> words.Message:
    """Have in a drive of a running machine what the spec says."""
    path = await preparation.image_path(machine, drive.image)
    await running.disks.change_cd(drive.name, path)
    if drive.image is None:
        return outcomes.MediumOut(drive=drive.name)
    return outcomes.MediumIn(drive=drive.name, image=await preparation.image_name(machine, drive.image))


def media(spec: vm.VMSpec, drive: vm.Cd) -> tuple[vm.Cd, ...]:
    """The drives of a machine when this is one of them."""
    return tuple(drive if one.name == drive.name else one for one in spec.cds)


async def _wire(nic: vm.Nic, running: engine.Machine, machine: vm.VM, preparation: Preparation) -> None:
    """Have a NIC be there and carried by its network: a new one, or one that was on another."""
    running.nics.require(await preparation.carrier_of(machine, nic))  # before anything is changed
    plugged = await running.nics.there(nic.name)
    backend, other_kind = await preparation.plug_nic(machine, nic)
    if plugged and not other_kind:
        await running.nics.recarry(nic, backend)
        return
    if plugged:
        await running.nics.unplug(nic.name)
    await running.nics.plug(nic, backend)


async def hold(
    standing: Standing, preparation: Preparation, machine: vm.VM, running: engine.Machine, built: Built
) -> None:
    """Before its vCPUs run, hold a machine to its share. What cannot be held is said in its outcomes, later."""
    is_held = built
    for change in list(shares.changes(built.spec, shares.with_share_of(built.spec, machine.spec))):
        with contextlib.suppress(errors.Problem, OSError):
            await sharing.hold(change, is_held, running, machine, preparation)
            spec = is_held.spec.model_copy(update=shares.held(is_held.spec, change))
            is_held = dataclasses.replace(is_held, spec=spec)
    if is_held is not built:
        await asyncio.to_thread(started.note, standing.ground.home.vm_runtime(machine.uid), is_held)


async def _noted(runtime: pathlib.Path, built: Built, fields: Mapping[str, object]) -> Built:
    """The machine as it is made now, written down."""
    await asyncio.to_thread(started.change, runtime, **fields)
    return dataclasses.replace(built, spec=built.spec.model_copy(update=fields))


def _is_done_elsewhere(change: Change, standing: Standing) -> bool:
    """Whether a task was asked for that does it, once."""
    match change:
        case adaptation.ChangeMedium():
            return bool(standing.asked("vm.cd-change"))
        case adaptation.PlugDisk(disk):
            runs = (*standing.asked("vm.disk-attach"), *standing.asked("vm.disk-detach"))
            return any(run.params.get("disk") == disk.name for run in runs)
        case _:
            return False


def _is_there(built: Built, nic: vm.Nic) -> bool:
    return any((one.name, one.mac) == (nic.name, nic.mac) for one in built.spec.nics)


def _as_held(built: Built, nic: vm.Nic) -> vm.Nic:
    """A NIC at the rate that it is held to by now: none on a network that it has just come to."""
    held = [one.rate for one in built.spec.nics if (one.name, one.network) == (nic.name, nic.network)]
    return nic.model_copy(update={"rate": held[0] if held else None})


def _grown(spec: vm.VMSpec, change: adaptation.PlugCpus | adaptation.ResizeMemory | shares.HoldCpu) -> vm.VMSpec:
    """What a machine is to be that asks for more of its host, or for less."""
    match change:
        case adaptation.PlugCpus(cpus):
            return spec.model_copy(update={"cpus": cpus})
        case adaptation.ResizeMemory(memory, dynamic=dynamic):
            return spec.model_copy(update={"memory": memory, "dynamic_memory": dynamic})
        case shares.HoldCpu():
            return spec.model_copy(update=shares.held(spec, change))


def _disks_without(built: Built, disk: vm.Disk) -> tuple[vm.Disk, ...]:
    return tuple(one for one in built.spec.disks if one.name != disk.name)


def _without(built: Built, nic: vm.Nic) -> tuple[vm.Nic, ...]:
    return tuple(one for one in built.spec.nics if one.name != nic.name)


def _left(built: Built, machine: vm.VM, told: set[str]) -> Iterator[vm.Outcome]:
    """What waits for a cold start, each device or field once."""
    paths = dict.fromkeys(edits.device_of(one["path"]) for one in edits.pending(built.spec, machine))
    for path in paths:
        if path not in told:
            yield _outcome(path, "pending", resizing.why_it_waits(path, built, machine))


def _outcome(path: str, how: str, said: words.Message) -> vm.Outcome:
    return vm.Outcome.model_validate({"path": path, "how": how, "saying": base.Saying.of(said)})
