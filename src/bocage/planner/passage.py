"""Whether a VM can go to another host while it runs, and to which one: pure, so that it is known beforehand."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from bocage import errors, words
from bocage.model import base, board, ground, plan, vm
from bocage.planner import moves, occupancy, patience, placement
from bocage.words import N_


class Error(errors.Conflict):
    """It cannot go."""


class LiesThere(Error):
    type = "passage-lies-there"
    text = N_("{name} has things on the storage {storage}, which one host alone reaches")
    hint = N_("'bocage vm migrate {name} --storage SHARED' carries its disks to one that all reach, while it runs")
    name: str
    storage: str


class HasDevice(Error):
    type = "passage-has-device"
    text = N_("{name} has {device} of its host, which stays there")
    hint = N_("take it away first, or stop the VM: what does not run goes to any host")
    name: str
    device: str


class HasTpm(Error):
    type = "passage-has-tpm"
    text = N_("{name} has a TPM, whose state does not go over while it runs")
    hint = N_("'bocage vm stop {name}', then migrate it: what does not run goes to any host")
    name: str


class InRescue(Error):
    type = "passage-in-rescue"
    text = N_("{name} is in rescue, and stays where it is until that ends")
    hint = N_("'bocage vm rescue {name} --end'")
    name: str


class IsThere(Error):
    type = "passage-is-there"
    text = N_("{name} is on {host} already")
    name: str
    host: str


class Refused(Error):
    type = "passage-refused"
    text = N_("{name} cannot go to {host}: {reasons}")
    hint = N_("'bocage plan place {name}' says of each host what speaks against it")
    name: str
    host: str
    reasons: str


class Nowhere(Error):
    type = "passage-nowhere"
    text = N_("{name} can go to no other host: {reasons}")
    hint = N_("'bocage plan place {name}' says the same")
    name: str
    reasons: str


class OnLun(Error):
    type = "passage-on-lun"
    text = N_("{name} runs with its disks on the LUN of {storage}, and goes to no other host while it runs yet")
    hint = N_("stop it first; it starts on the other host from the same disks")
    name: str
    storage: str


class ConnectionsBreak(words.Message):
    type = "passage-breaks-connections"
    text = N_("{nic} of {name} is carried by its host itself: its connections break when the VM goes")
    hint = N_("a network of kind 'bridge' keeps them")
    name: str
    nic: str


def obstacles(machine: vm.VM, on: Collection[ground.Storage], *, running: bool) -> Iterator[Error]:
    """What keeps it on its host, whatever the others are like; `on` are the storages that it has things on."""
    name = machine.name
    for storage in on:
        if not storage.shared:
            yield LiesThere(name=name, storage=storage.name)
        if running and storage.spec.kind == "iscsi":
            yield OnLun(name=name, storage=storage.name)
    if machine.spec.rescue:
        yield InRescue(name=name)
    if not running:
        return
    if machine.spec.hardware.tpm is not board.Tpm.NONE:
        yield HasTpm(name=name)
    for device in machine.spec.usb:
        yield HasDevice(name=name, device=device.name)
    for port in machine.spec.ports:
        if port.to == "device":
            yield HasDevice(name=name, device=port.name)


def warnings(machine: vm.VM, networks: Collection[ground.Network]) -> Iterator[words.Message]:
    """What its going breaks."""
    kinds = {network.uid: network.spec.kind for network in networks}
    for nic in machine.spec.nics:
        if kinds.get(nic.network) in ("user", "nat", "isolated"):
            yield ConnectionsBreak(name=machine.name, nic=nic.name)


def choose(name: str, key: str, world: plan.World, to: str | None) -> str:
    """The host that a VM of a world goes to, by name. Raises Refused, Nowhere, IsThere."""
    index = next(number for number, one in enumerate(world.vms) if one.key == key)
    if to is not None and world.vms[index].host == to:
        raise IsThere(name=name, host=to)
    state = moves.State(occupancy.Occupancy(world), patience.endless)
    verdicts = placement.verdicts_of(state, index)
    if to is not None:
        verdicts = [one for one in verdicts if one.host == to]
    if good := [one for one in verdicts if not one.reasons]:
        return good[0].host
    if to is not None:
        raise Refused(name=name, host=to, reasons=_said(verdicts[0].reasons) if verdicts else "?")
    raise Nowhere(
        name=name, reasons="; ".join(_said(one.reasons) for one in verdicts) or words.say(placement.NoHosts())
    )


def _said(reasons: Collection[base.Saying]) -> str:
    return ", ".join(words.say(one.message) for one in reasons)
