"""Which drivers a guest is to use for its disks and NICs: virtio's, or those that its system came with."""

from __future__ import annotations

from typing import Literal

from bocage import errors
from bocage.model import vm as model
from bocage.planner import hardware
from bocage.words import N_

Kind = Literal["virtio", "inbox"]


class Error(errors.Problem):
    """The drivers of a VM cannot be others."""


class Already(Error, errors.Conflict):
    type = "drivers-already"
    text = N_("{name} has no disk and no NIC that would change: all are driven by {kind} drivers")
    name: str
    kind: str


class NoVirtio(Error, errors.Invalid):
    type = "drivers-no-virtio"
    text = N_("{name} has a board without PCI ({machine}): there is no virtio on it")
    name: str
    machine: str


def wait(vm: model.VM) -> model.VMSpec:
    """The VM as one that goes over to virtio once its guest drives that. Raises what `switch` does."""
    switch(vm, "virtio")
    return vm.spec.model_copy(update={"virtio_when_driven": True})


def switch(vm: model.VM, kind: Kind) -> model.VMSpec:
    """The VM with its disks and NICs on virtio, or back on what its board says that its system drives.

    With virtio the board gets a place for the guest agent, a balloon and entropy too; on the way back they stay,
    as devices that nobody drives. Raises Already, NoVirtio, hardware.NoAddress and hardware.NoUnit.
    """
    board = vm.spec.hardware
    if kind == "virtio" and hardware.is_isa(board):
        raise NoVirtio(name=vm.name, machine=board.machine)
    bus = model.Bus.VIRTIO if kind == "virtio" else board.disk_bus
    card = model.NicModel.VIRTIO if kind == "virtio" else board.nic_model
    disks = [disk for disk in vm.spec.disks if _moves(disk, bus, board)]
    nics = [nic for nic in vm.spec.nics if nic.model is not card]
    spec = vm.spec.model_copy(update={"virtio_when_driven": False})
    if not disks and not nics:
        if spec != vm.spec:
            return spec
        raise Already(name=vm.name, kind=kind)
    if kind == "virtio":
        board = hardware.refit(vm.spec, {}, paravirtual=True)
    spec = spec.model_copy(update={"hardware": board})
    for disk in disks:
        spec = _with(spec, disks=_placed(spec, disk, bus))
    for nic in nics:
        others = spec.model_copy(update={"nics": tuple(one for one in spec.nics if one.name != nic.name)})
        address = hardware.next_address(board, hardware.used_addresses(others), card)
        spec = _with(spec, nics=nic.model_copy(update={"model": card, "address": address}))
    hardware.check(spec)
    return spec


def _moves(disk: model.Disk, bus: model.Bus, board: model.Hardware) -> bool:
    """Between virtio and the board's own bus; what a person put on a third one stays there."""
    return disk.bus is not bus and (disk.bus is model.Bus.VIRTIO or disk.bus is board.disk_bus)


def _placed(spec: model.VMSpec, disk: model.Disk, bus: model.Bus) -> model.Disk:
    if bus is model.Bus.VIRTIO:
        address = hardware.next_address(spec.hardware, hardware.used_addresses(spec))
        return disk.model_copy(update={"bus": bus, "address": address, "unit": None})
    unit = hardware.next_unit(spec.hardware, bus, hardware.used_units(spec, bus))
    return disk.model_copy(update={"bus": bus, "address": None, "unit": unit})


def _with(spec: model.VMSpec, **changed: model.Disk | model.Nic) -> model.VMSpec:
    """The spec with one device in place of the one of its name."""
    ((field, device),) = changed.items()
    devices = tuple(device if one.name == device.name else one for one in getattr(spec, field))
    return spec.model_copy(update={field: devices})
