"""What several routes do with a VM: find it, tell its state, write it with its volumes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from starlette.responses import Response

from bocage import errors, words
from bocage.api import calls, etags, nodes, problems
from bocage.api import index as indexes
from bocage.model import base, ground, keys, requests, vm, work
from bocage.model.firewall import FirewallGroup
from bocage.planner import definition, references, replicas, why
from bocage.store import resources
from bocage.words import N_

T = TypeVar("T")
R = TypeVar("R", bound=base.Resource[Any, Any])

_UP = (vm.State.STARTING, vm.State.RUNNING, vm.State.PAUSED, vm.State.STOPPING)
_TRIES = 20
_TASKS_LOOKED_AT = 200


class InTrash(problems.Error, errors.Conflict):
    type = "vm-in-trash"
    text = N_("{name} is in the trash")
    hint = N_("'bocage vm undelete {name}' brings it back")
    name: str


class MissingButInTrash(resources.Missing):
    """Its name is that of one that was deleted."""

    type = "vm-not-found-but-in-trash"
    text = N_("there is no {kind:kind} named {name}, but one in the trash")
    hint = N_("'bocage vm undelete {name}' brings it back; 'bocage vm list --trash' shows until when")


class NotInTrash(problems.Error, errors.Conflict):
    type = "vm-not-in-trash"
    text = N_("{name} is not in the trash")
    hint = N_("'bocage vm list --trash' shows what is")
    name: str


class NotUp(problems.Error, errors.Conflict):
    type = "vm-not-up"
    text = N_("{name} is {state}")
    hint = N_("'bocage vm start {name}' first")
    name: str
    state: str


class NotDown(problems.Error, errors.Conflict):
    type = "vm-not-down"
    text = N_("{name} is {state}; its disks are in use")
    hint = N_("'bocage vm stop {name}' first")
    name: str
    state: str


class SavedMemory(problems.Error, errors.Conflict):
    """An orderly stop needs a guest that runs."""

    type = "vm-has-saved-memory"
    text = N_("the memory of {name} is saved: there is no guest to ask to stop")
    hint = N_("'bocage vm start {name}' goes on from there; 'bocage vm kill {name}' throws the memory away")
    name: str


async def find(call: calls.Call, project: str, name: str, *, in_trash: bool = False) -> vm.VM:
    """A VM by name or uid; with `in_trash`, also the newest of that name in the trash. Raises resources.Missing."""
    try:
        return await call.resources.find(vm.VM, project, name)
    except resources.Missing as missing:
        held = (await call.api.index.fresh()).vms
        if not any(one.deleted and one.name == name for one in held.values()):
            raise
        listing = await call.resources.list(vm.VM, project, trash=True)
        gone = [one for one in listing.items if one.metadata.deleted and one.name == name]
        if not gone:
            raise
        if not in_trash:
            raise MissingButInTrash(kind=vm.VM.kind, name=name) from missing
    return max(gone, key=lambda one: one.metadata.deleted or one.metadata.created)


async def uid_of(call: calls.Call, project: str, name: str) -> str:
    """A VM's uid by its name, or as it was given. Raises resources.Missing."""
    entry = await call.resources.store.get(keys.name(vm.VM.kind, project, name))
    return entry.value.decode() if entry else (await find(call, project, name)).uid


async def host_of(call: calls.Call, machine: vm.VM) -> str | None:
    """The uid of the host that does what is asked of a VM: its owner, else the one that reaches its storage."""
    if machine.status.host:
        return machine.status.host
    storage = call.api.index.ground.get(ground.Storage, None, machine.spec.storage)
    return call.api.reaching(storage or await call.resources.get(ground.Storage, None, machine.spec.storage))


async def node_of(call: calls.Call, machine: vm.VM) -> nodes.Node:
    """The node that has a VM. Raises ways.HostSilent."""
    return await call.api.nodes.of(await host_of(call, machine))


async def carrier(call: calls.Call, machine: vm.VM) -> ground.Host | None:
    """The host that `host_of` names, as it was seen last."""
    uid = await host_of(call, machine)
    return call.api.index.ground.get(ground.Host, None, uid) if uid else None


async def until_unchanged(
    call: calls.Call, machine: vm.VM, once: Callable[[vm.VM], Awaitable[T]], *, if_match: str | None = None
) -> T:
    """What reads a VM and writes it, repeated when others were in between.

    Raises what `once` raises, and what `etags.check` does.
    """
    for _ in range(_TRIES):
        etags.check(if_match, machine)
        try:
            return await once(machine)
        except resources.Changed:
            machine = await call.resources.get(vm.VM, machine.metadata.project, machine.uid)
    raise errors.TimedOut(what=f"vm {machine.name}", bound=0.0)


async def ask(
    call: calls.Call,
    machine: vm.VM,
    action: str,
    wanted: Callable[[vm.VM], resources.Transaction],
    *,
    if_match: str | None = None,
    **params: Any,
) -> Response:
    """Write what a VM should be, and the task, in one transaction."""
    host = await host_of(call, machine)

    async def once(present: vm.VM) -> Response:
        transaction = wanted(present)
        return await call.accept(call.task(action, subject=present.ref, host=host, **params), transaction=transaction)

    return await until_unchanged(call, machine, once, if_match=if_match)


def update(machine: vm.VM, **fields: Any) -> resources.Transaction:
    """A transaction that writes fields of its spec, when they are others than now."""
    transaction = resources.Transaction()
    changed = resources.with_spec(machine, **fields)
    if changed.spec != machine.spec:
        transaction.update(resources.bumped(machine, changed))
    return transaction


def creation(made: definition.Definition) -> resources.Transaction:
    """A transaction that enters a VM and its volumes.

    Their uids are fresh and their status is the default one, so that neither has to be compared or written:
    even 32 disks fit into one transaction.
    """
    transaction = resources.Transaction()
    made_now: list[base.Resource[Any, Any]] = [made.vm, *made.volumes]
    for resource in made_now:
        transaction.create(resource)
        stem = f"{resource.kind}/{resource.metadata.project}/{resource.uid}/"
        for key in [key for key in transaction.puts if key.endswith(stem + "status")]:
            del transaction.puts[key]
        for key in [key for key in transaction.compare if key.endswith(stem + "spec")]:
            del transaction.compare[key]
    return transaction


def is_up(machine: vm.VM) -> bool:
    """Whether it has a process, or is about to."""
    return machine.status.state in _UP or (
        machine.status.state is vm.State.CRASHED and machine.status.next_try is not None
    )


def check_up(machine: vm.VM) -> None:
    """Raises NotUp unless it runs, pauses, or is meant to."""
    check_not_in_trash(machine)
    if not is_up(machine) and machine.spec.power not in (vm.Power.RUNNING, vm.Power.PAUSED):
        raise NotUp(name=machine.name, state=machine.status.state)


def check_down(machine: vm.VM) -> None:
    """Raises NotDown unless nothing uses its disks and nothing is about to."""
    check_not_in_trash(machine)
    meant = machine.spec.power in (vm.Power.RUNNING, vm.Power.PAUSED)
    if is_up(machine) or machine.status.state in (vm.State.SAVED, vm.State.UNKNOWN) or meant:
        state = machine.status.state if machine.status.state is not vm.State.STOPPED else vm.State.STARTING
        raise NotDown(name=machine.name, state=state)


def check_not_in_trash(machine: vm.VM) -> None:
    """Raises InTrash."""
    if machine.metadata.deleted:
        raise InTrash(name=machine.name)


async def change(call: calls.Call, machine: vm.VM, how: Callable[[vm.VM], vm.VM], if_match: str | None) -> vm.VM:
    """Write what `how` makes of it. Raises InTrash, resources.Changed, and what `how` raises."""

    def wanted(present: vm.VM) -> vm.VM:
        check_not_in_trash(present)
        return how(present)

    expected = etags.expected(if_match)
    return await call.resources.change(vm.VM, machine.metadata.project, machine.uid, wanted, expected=expected)


async def take(call: calls.Call, machine: vm.VM, document: requests.Document, *, expected: int | None) -> vm.VM:
    """Write what a document says. Raises errors.InvalidFields, resources.Changed and the planner's errors."""
    check_not_in_trash(machine)
    async with call.api.index.claim:
        hosts = (await call.api.index.fresh()).ground.every(ground.Host)
        wanted = definition.replace(machine, document, host=await carrier(call, machine), hosts=hosts)
        references.check(wanted.spec, await _known(call, machine, wanted.spec))
        replicas.check_change(machine, wanted)
        return await call.resources.change(
            vm.VM,
            machine.metadata.project,
            machine.uid,
            lambda _: wanted,
            expected=machine.metadata.revision if expected is None else expected,
        )


async def causes(call: calls.Call, machine: vm.VM) -> list[words.Message]:
    """Why it is as it is."""
    storage = await _there(call, ground.Storage, None, machine.spec.storage)
    volumes = [await _there(call, ground.Volume, machine.metadata.project, disk.volume) for disk in machine.spec.disks]
    networks = [await _there(call, ground.Network, machine.metadata.project, nic.network) for nic in machine.spec.nics]
    tasks = await call.api.views.newest(work.Task, machine.metadata.project, limit=_TASKS_LOOKED_AT)
    host = machine.status.host and await _there(call, ground.Host, None, machine.status.host)
    return why.why(
        machine,
        host=host or None,
        storage=storage,
        volumes=[volume for volume in volumes if volume],
        networks=[network for network in networks if network],
        tasks=[task for task in tasks if task.spec.subject and task.spec.subject.uid == machine.uid],
    )


async def _known(call: calls.Call, machine: vm.VM, spec: vm.VMSpec) -> references.Known:
    project, index = machine.metadata.project, await call.api.index.fresh()
    images = {cd.image for cd in spec.cds if cd.image}
    networks = {nic.network for nic in spec.nics}
    return references.Known(
        volumes=index.volumes,
        images={uid for uid in images if await _there(call, ground.Image, project, uid)},
        networks={uid for uid in networks if await _there(call, ground.Network, project, uid)},
        groups={name for nic in spec.nics for name in nic.firewall if index.ground.named(FirewallGroup, project, name)},
        macs=references.of_others(index.macs, (nic.mac for nic in machine.spec.nics)),
        users=_others_volumes(index, machine, spec),
        smbios_uuids=references.of_others(index.smbios_uuids, [machine.spec.hardware.smbios.uuid]),
    )


def _others_volumes(index: indexes.Index, machine: vm.VM, spec: vm.VMSpec) -> dict[str, str]:
    """The volumes that other VMs have, or that lie with them still."""
    taken = references.of_others(index.users, (disk.volume for disk in machine.spec.disks))
    for disk in spec.disks:
        held = index.volumes.get(disk.volume)
        if held and held.vm != machine.uid and (keeper := index.keeper(disk.volume)):
            taken.setdefault(disk.volume, keeper)
    return taken


async def _there(call: calls.Call, cls: type[R], project: str | None, uid: str) -> R | None:
    try:
        return await call.resources.get(cls, project, uid)
    except resources.Missing:
        return None


def deletion(machine: vm.VM) -> resources.Transaction:
    """What sends a VM to the trash: its name is free at once."""
    transaction = resources.Transaction()
    if machine.metadata.deleted is None:
        transaction.release_name(machine)
        gone = resources.with_spec(machine, power=vm.Power.STOPPED)
        now = base.now()
        trashed = resources.with_metadata(gone, deleted=now, goes=now + vm.TRASH_KEPT)
        transaction.update(resources.bumped(machine, trashed))
    return transaction


def undeletion(machine: vm.VM) -> resources.Transaction:
    """What brings it back under its name, which must be free. Raises NotInTrash."""
    if machine.metadata.deleted is None:
        raise NotInTrash(name=machine.name)
    transaction = resources.Transaction()
    back = resources.with_metadata(machine, deleted=None, goes=None)
    transaction.update(back)
    transaction.take_name(back)
    return transaction
