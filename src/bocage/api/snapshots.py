"""Snapshots of a VM: made, looked at, gone back to, copied from, deleted."""

from __future__ import annotations

from typing import Annotated

from fastapi import Body, Path
from starlette.responses import Response

from bocage import errors
from bocage.api import answers, calls, etags, facts, machines, problems, routing
from bocage.model import base, ground, requests, snapshot, vm
from bocage.model.work import Task
from bocage.planner import definition, layers, reverting
from bocage.store import resources
from bocage.words import N_

router = routing.router("snapshot", routing.IN_PROJECT + "/vms/{name}/snapshots")

Reading = Annotated[calls.Call, calls.may("vm:read")]
Changing = Annotated[calls.Call, calls.may("vm:change")]
Label = Annotated[
    str, Path(alias="snapshot", description="The snapshot's name, or its uid.", examples=["before-upgrade"])
]
_PROBLEMS = routing.problem_responses(404, 409)


class NameTaken(problems.Error, errors.Conflict):
    type = "snapshot-name-taken"
    text = N_("{name} has a snapshot named {snapshot} already")
    hint = N_("choose another name; 'bocage vm snapshot list {name}' shows those that are taken")
    name: str
    snapshot: str


class Missing(problems.Error, errors.NotFound):
    type = "snapshot-not-found"
    text = N_("{name} has no snapshot named {snapshot}")
    hint = N_("'bocage vm snapshot list {name}' shows what there is")
    name: str
    snapshot: str


class NotReady(problems.Error, errors.Conflict):
    type = "snapshot-not-there-yet"
    text = N_("the snapshot {snapshot} of {name} is {state}")
    hint = N_("'bocage task list' shows how far that is")
    name: str
    snapshot: str
    state: str


class WouldLose(problems.Error, errors.Conflict):
    type = "snapshot-revert-would-lose"
    text = N_("{name} is {state}: going back would throw away what it does now")
    hint = N_("'bocage vm stop {name}' first, or say '--force'; 'bocage vm snapshot create {name} NAME' keeps it")
    name: str
    state: str


class Protected(problems.Error, errors.Conflict):
    type = "snapshot-protected"
    text = N_("the snapshot {snapshot} of {name} is protected from being deleted")
    name: str
    snapshot: str


@router.get("", name="list", response_model=answers.Listed[snapshot.Snapshot], responses=routing.problem_responses(404))
async def list_(project: calls.Project, name: calls.Name, call: Reading) -> Response:
    """A VM's snapshots, the oldest first; each names the one that it came from."""
    machine = await machines.find(call, project, name, in_trash=True)
    listing, found = await _of(call, machine)
    items = ",".join(one.model_dump_json(context=base.WORDS) for one in found)
    return answers.json(f'{{"items":[{items}],"revision":{listing.revision},"after":null}}')


@router.post("", name="create", status_code=202, response_model=Task, responses=_PROBLEMS)
async def create(
    project: calls.Project, name: calls.Name, request: requests.SnapshotCreate, call: Changing
) -> Response:
    """Keep this moment of a VM: its disks, all at one instant, and with `memory` what runs."""
    async with call.api.index.claim:
        machine = await machines.find(call, project, name)
        machines.check_not_in_trash(machine)
        _, known = await _of(call, machine)
        if any(one.name == request.name for one in known):
            raise NameTaken(name=machine.name, snapshot=request.name)
        layers.check_depth(machine, await _volumes(call, machine))
        made = snapshot.Snapshot(
            metadata=base.Metadata(name=request.name, project=project, title=request.title, notes=request.notes),
            spec=snapshot.SnapshotSpec(vm=machine.uid, memory=request.memory, machine=machine.spec),
        )
        transaction = resources.Transaction()
        transaction.create(made)
        task = call.task(
            "vm.snapshot-create",
            subject=machine.ref,
            host=await machines.host_of(call, machine),
            snapshot=made.uid,
            name=made.name,
        )
        return await call.accept(task, transaction=transaction, location=_path(machine, made))


@router.get("/{snapshot}", name="get", response_model=snapshot.Snapshot, responses=routing.problem_responses(404))
async def get(project: calls.Project, name: calls.Name, label: Label, call: Reading) -> Response:
    """One snapshot."""
    return answers.one(await _find(call, await machines.find(call, project, name, in_trash=True), label))


@router.patch(
    "/{snapshot}", name="change", response_model=snapshot.Snapshot, responses=routing.problem_responses(404, 409, 412)
)
async def change(
    project: calls.Project,
    name: calls.Name,
    label: Label,
    patch: requests.Description,
    call: Changing,
    if_match: etags.IfMatch = None,
) -> Response:
    """Change its title, notes or tags (RFC 7396)."""
    found = await _find(call, await machines.find(call, project, name), label)
    about = {field: value for field in patch.model_fields_set if (value := getattr(patch, field)) is not None}
    changed = await call.resources.change(
        snapshot.Snapshot,
        project,
        found.uid,
        lambda present: resources.with_metadata(present, **about),
        expected=etags.expected(if_match),
    )
    return answers.one(changed)


@router.delete("/{snapshot}", name="delete", status_code=202, response_model=Task, responses=_PROBLEMS)
async def delete(project: calls.Project, name: calls.Name, label: Label, call: Changing) -> Response:
    """Delete a snapshot, while the VM runs or not; what came after it stays."""
    machine = await machines.find(call, project, name)
    machines.check_not_in_trash(machine)
    found = await _find(call, machine, label)
    if found.metadata.protected:
        raise Protected(name=machine.name, snapshot=found.name)
    host = await machines.host_of(call, machine)
    return await call.accept(
        call.task("vm.snapshot-delete", subject=machine.ref, host=host, snapshot=found.uid, name=found.name)
    )


@router.post("/{snapshot}/revert", name="revert", status_code=202, response_model=Task, responses=_PROBLEMS)
async def revert(
    project: calls.Project,
    name: calls.Name,
    label: Label,
    call: Changing,
    request: Annotated[requests.Revert | None, Body()] = None,
) -> Response:
    """Go back: disks and board as they were, and on from the memory where the snapshot has that."""
    asked, machine = request or requests.Revert(), await machines.find(call, project, name)
    found = await ready(call, machine, label)

    def wanted(present: vm.VM) -> resources.Transaction:
        machines.check_not_in_trash(present)
        busy = machines.is_up(present) or present.status.state in (vm.State.SAVED, vm.State.UNKNOWN)
        if busy and not asked.force:
            raise WouldLose(name=present.name, state=present.status.state)
        return machines.update(present, power=vm.Power.STOPPED)

    return await machines.ask(
        call, machine, "vm.snapshot-revert", wanted, snapshot=found.uid, name=found.name, start=asked.start
    )


@router.post("/{snapshot}/clone", name="clone", status_code=202, response_model=Task, responses=_PROBLEMS)
async def clone(
    project: calls.Project,
    name: calls.Name,
    label: Label,
    request: requests.Clone,
    call: Annotated[calls.Call, calls.may("vm:create")],
) -> Response:
    """Make a VM of its own of what a snapshot holds, in full; the VM may run meanwhile. Memory is not copied."""
    machine = await machines.find(call, project, name)
    found = await ready(call, machine, label)
    images = {image.uid for image in (await call.resources.list(ground.Image, project)).items}
    networks = {network.uid for network in (await call.resources.list(ground.Network, project)).items}
    here = reverting.Here(images=images, networks=networks)
    index = await call.api.index.fresh()
    made = definition.clone_of_moment(
        machine, found, await _volumes(call, machine), here, name=request.name, start=request.start, macs=index.macs
    )
    host = await machines.host_of(call, machine)
    task = call.task("vm.clone", subject=made.vm.ref, host=host, warnings=await facts.warnings_of_room(call, made))
    return await call.accept(task, transaction=machines.creation(made), location=answers.path(made.vm))


async def of(call: calls.Call, machine: vm.VM) -> list[snapshot.Snapshot]:
    """A VM's snapshots, the oldest first."""
    return (await _of(call, machine))[1]


async def _of(call: calls.Call, machine: vm.VM) -> tuple[resources.Listing[snapshot.Snapshot], list[snapshot.Snapshot]]:
    listing = await call.resources.list(snapshot.Snapshot, machine.metadata.project)
    found = [one for one in listing.items if one.spec.vm == machine.uid]
    return listing, sorted(found, key=lambda one: one.metadata.created)


async def _find(call: calls.Call, machine: vm.VM, label: str) -> snapshot.Snapshot:
    for one in (await _of(call, machine))[1]:
        if label in (one.name, one.uid):
            return one
    raise Missing(name=machine.name, snapshot=label[:80])


async def ready(call: calls.Call, machine: vm.VM, label: str) -> snapshot.Snapshot:
    """A snapshot that is whole, by name or uid. Raises Missing and NotReady."""
    found = await _find(call, machine, label)
    if found.status.state != "ready":
        raise NotReady(name=machine.name, snapshot=found.name, state=found.status.state)
    return found


async def _volumes(call: calls.Call, machine: vm.VM) -> dict[str, ground.Volume]:
    project = machine.metadata.project
    return {disk.volume: await call.resources.get(ground.Volume, project, disk.volume) for disk in machine.spec.disks}


def _path(machine: vm.VM, made: snapshot.Snapshot) -> str:
    return f"{answers.path(machine)}/snapshots/{made.name}"
