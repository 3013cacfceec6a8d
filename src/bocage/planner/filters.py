"""Why a host may not have a VM, whoever else stands there: its state, its reach, its hardware, its tags."""

from __future__ import annotations

from collections.abc import Iterator

from bocage import words
from bocage.model import plan
from bocage.words import N_


class Refused(words.Message):
    """Why a host does not take a VM."""


class NotReady(Refused):
    type = "host-takes-no-vms"
    text = N_("{host} is {state}")
    hint = N_("wait until it is ready, or bring it back")
    host: str
    state: str


class StorageElsewhere(Refused):
    type = "host-lacks-storage"
    text = N_("{host} does not reach the storage {storage}")
    host: str
    storage: str


class NetworkElsewhere(Refused):
    type = "host-lacks-network"
    text = N_("{host} is not on the network {network}")
    host: str
    network: str


class TagLacking(Refused):
    type = "host-lacks-tag"
    text = N_("{host} has no tag {tag}")
    host: str
    tag: str


class MachineLacking(Refused):
    type = "host-lacks-machine"
    text = N_("the QEMU of {host} builds no {machine}")
    hint = N_("install the same QEMU on all hosts")
    host: str
    machine: str


class CpuLacking(Refused):
    type = "host-lacks-cpu"
    text = N_("the CPU of {host} is no {model}")
    hint = N_("give the VM a model that all hosts have: 'bocage vm set NAME --cpu-model baseline'")
    host: str
    model: str


class FirmwareLacking(Refused):
    type = "host-lacks-firmware"
    text = N_("{host} has no firmware {firmware}")
    host: str
    firmware: str


class TpmLacking(Refused):
    type = "host-lacks-tpm"
    text = N_("{host} has no swtpm: its VMs have no TPM")
    host: str


def refusals(vm: plan.PlanVM, host: plan.PlanHost) -> Iterator[Refused]:
    """Every reason, whoever else stands there; what is not known of a host speaks against nothing."""
    name = host.name
    if host.state != "ready":
        yield NotReady(host=name, state=host.state)
    for storage in vm.storages:
        if storage not in host.storages:
            yield StorageElsewhere(host=name, storage=storage)
    for network in vm.networks:
        if network not in host.networks:
            yield NetworkElsewhere(host=name, network=network)
    for tag in vm.host_tags:
        if tag not in host.tags:
            yield TagLacking(host=name, tag=tag)
    board = vm.hardware
    if board.machine and host.machines and board.machine not in host.machines:
        yield MachineLacking(host=name, machine=board.machine)
    if board.cpu_model not in ("", "host") and host.cpu_models and board.cpu_model not in host.cpu_models:
        yield CpuLacking(host=name, model=board.cpu_model)
    if board.firmware and host.firmware and board.firmware not in host.firmware:
        yield FirmwareLacking(host=name, firmware=board.firmware)
    if board.tpm and not host.tpm:
        yield TpmLacking(host=name)


def wishes(vm: plan.PlanVM) -> tuple[object, ...]:
    """What `refusals` looks at: VMs with the same are refused by the same hosts."""
    board = vm.hardware
    return (vm.storages, vm.networks, vm.host_tags, board.machine, board.cpu_model, board.firmware, board.tpm)


def moves_live(vm: plan.PlanVM, origin: plan.PlanHost, to: plan.PlanHost) -> bool:
    """Whether a guest can go over while it runs: the CPU that it sees stays."""
    return not vm.running or vm.hardware.cpu_model != "host" or origin.cpu_kind == to.cpu_kind
