"""A VM's rescue: the rescue system's CD in a board that it drives, with the VM's own disks and NICs beside it."""

from __future__ import annotations

from bocage import errors
from bocage.model import ground
from bocage.model import memory as memories
from bocage.model import vm as model
from bocage.model.units import MiB, Size
from bocage.planner import hardware
from bocage.words import N_

CD = "rescue"
_LEAST = Size(256 * MiB)  # memory that a rescue system never has less than: it lives there


class Error(errors.Problem):
    """Something about a VM's rescue."""


class InRescue(Error, errors.Conflict):
    """Its disks belong to the rescue system until that has ended."""

    type = "vm-in-rescue"
    text = N_("{name} is in rescue: its disks are with the rescue system")
    hint = N_("'bocage vm rescue {name} --end' ends that; then it starts from its own disks")
    name: str


class NotInRescue(Error, errors.Conflict):
    type = "vm-not-in-rescue"
    text = N_("{name} is not in rescue")
    hint = N_("'bocage vm rescue {name}' begins that, when it is off")
    name: str


class SavedFirst(Error, errors.Conflict):
    """Saved memory knows the disks as they are."""

    type = "rescue-beside-saved-memory"
    text = N_("the memory of {name} is saved, and fits its disks only as they are now")
    hint = N_("'bocage vm start {name}' goes on from there; 'bocage vm kill {name}' throws the memory away")
    name: str


class NoMedium(Error, errors.Invalid):
    type = "rescue-is-no-cd"
    text = N_("the image {image} is no CD: it has the format {format}")
    hint = N_("'bocage image build rescue' makes one")
    image: str
    format: str


def check(vm: model.VM) -> None:
    """Raises InRescue."""
    if vm.spec.rescue:
        raise InRescue(name=vm.name)


def check_medium(image: ground.Image) -> None:
    """Raises NoMedium."""
    if image.spec.format != "iso":
        raise NoMedium(image=image.name, format=image.spec.format)


def machine(vm: model.VM, host: ground.HostStatus) -> model.VMSpec:
    """What a VM runs as in its rescue: nothing of it is kept.

    Its disks are all on one SCSI controller, its NICs are virtio with their addresses, whatever its own system
    drives; firmware, variables and TPM are not its own, so that a rescue leaves none of them changed.
    Raises hardware.NoMachine.
    """
    spec = vm.spec
    board = hardware.lay_out(alias="q35", machines=host.machines, cpu_model=host.cpu_model, smbios=spec.hardware.smbios)
    disks = tuple(
        disk.model_copy(update={"bus": model.Bus.SCSI, "address": None, "unit": number})
        for number, disk in enumerate(spec.disks, start=1)
    )
    places = hardware.places(board)
    nics = tuple(
        nic.model_copy(update={"model": model.NicModel.VIRTIO, "address": place})
        for nic, place in zip(spec.nics, places, strict=False)
    )
    return spec.model_copy(
        update={
            "hardware": board,
            "memory": max(spec.memory, _LEAST),
            "dynamic_memory": _enough(spec.dynamic_memory),
            "disks": disks,
            "cds": (model.Cd(name=CD, image=spec.rescue, bus=model.Bus.SCSI, unit=0),),
            "nics": nics,
            "ports": (),
            "boot": model.Boot(order=(CD,)),
        }
    )


def _enough(dynamic: memories.DynamicMemory | None) -> memories.DynamicMemory | None:
    if dynamic is None:
        return None
    least = {name: max(getattr(dynamic, name), _LEAST) for name in ("minimum", "startup")}
    return dynamic.model_copy(update=least)
