"""VMs: made, read, changed, deleted."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Annotated, Any

from fastapi import Body, Query
from pydantic import BaseModel
from starlette.responses import Response

from bocage import errors
from bocage.api import (
    answers,
    calls,
    etags,
    examples,
    facts,
    failovers,
    machines,
    ordering,
    paging,
    problems,
    replicas,
    routing,
    views,
)
from bocage.guest import password
from bocage.model import base, ground, requests, snapshot, template, vm
from bocage.model.failover import Failover
from bocage.model.work import Task
from bocage.planner import definition, forewarned, machinetypes, profiles, surviving, templates
from bocage.planner import replicas as copying
from bocage.store import resources
from bocage.words import N_

router = routing.router("vm", routing.IN_PROJECT + "/vms")

Reading = Annotated[calls.Call, calls.may("vm:read")]
Changing = Annotated[calls.Call, calls.may("vm:change")]


class Protected(problems.Error, errors.Conflict):
    type = "vm-protected"
    text = N_("{name} is protected from being deleted")
    hint = N_("'bocage vm set {name} --unprotected' takes that away")
    name: str


class Running(problems.Error, errors.Conflict):
    type = "vm-running"
    text = N_("{name} is {state}")
    hint = N_("'bocage vm stop {name}' first; 'bocage vm delete {name} --force' pulls its plug")
    name: str
    state: str


class Reason(BaseModel):
    """One link of a chain of causes."""

    type: str
    params: dict[str, Any]
    text: str
    hint: str


class Why(BaseModel):
    chain: list[Reason]


@router.get("", name="list", response_model=answers.Listed[vm.VM], responses=routing.problem_responses(404, 410))
async def list_(
    project: calls.Project,
    call: Reading,
    limit: paging.Limit = 100,
    after: paging.After = None,
    name: Annotated[str | None, Query(max_length=63, description="Only the one of this name.")] = None,
    tag: Annotated[str | None, Query(max_length=63, description="Only those with this tag.")] = None,
    state: Annotated[vm.State | None, Query(description="Only those in this state.")] = None,
    trash: Annotated[bool, Query(description="Those in the trash, too.")] = False,
) -> Response:
    """The VMs of a project, by uid."""

    def keep(view: views.View) -> bool:
        return (
            (trash or not view.deleted)
            and (name is None or view.name == name)
            and (tag is None or tag in view.tags)
            and (state is None or view.state == state)
        )

    return await call.api.views.page(vm.VM, project, limit=limit, after=after, keep=keep)


@router.post("", name="create", status_code=202, response_model=Task, responses=routing.problem_responses(404, 409))
async def create(
    project: calls.Project,
    request: Annotated[requests.VMCreate, Body(openapi_examples=examples.VM_CREATE)],
    call: Annotated[calls.Call, calls.may("vm:create")],
) -> Response:
    """Define a VM and make it; with `start` it is started as soon as it is made."""
    hashed = None
    if request.seed and request.seed.password is not None:
        hashed = await asyncio.to_thread(password.hash_password, request.seed.password)
    autostart = await ordering.resolved(call, project, request.autostart, name=request.name)
    request = request.model_copy(update={"autostart": autostart}) if autostart != request.autostart else request
    async with call.api.index.claim if facts.only_one_may_have(request) else contextlib.nullcontext():
        known, told = await facts.for_vm(call, project, request)
        if request.template is not None:
            made = await _from_template(call, project, request)
        else:
            made = definition.define(request, known, project=project, password_hash=hashed)
        warnings = [
            *told,
            *(profiles.warnings(made.vm.spec, known.system) if known.system else ()),
            *([] if request.template else forewarned.of_boot(request, known.images.get(request.image or ""))),
            *await facts.warnings_of_room(call, made),
        ]
        task = call.task("vm.create", subject=made.vm.ref, host=known.host.uid, warnings=warnings)
        return await call.accept(task, transaction=machines.creation(made), location=answers.path(made.vm))


async def _from_template(call: calls.Call, project: str, request: requests.VMCreate) -> definition.Definition:
    name, number = templates.parse(request.template or "")
    held = await call.resources.find(template.Template, project, name)
    storage = await call.resources.get(ground.Storage, None, held.spec.storage)
    host, index = await facts.host_of(call, storage), await call.api.index.fresh()
    of = templates.version(held, number)
    return templates.define(request, held, of, host, project=project, macs=index.macs)


@router.get("/{name}", name="get", response_model=vm.VM, responses=routing.problem_responses(404))
async def get(project: calls.Project, name: calls.Name, call: Reading) -> Response:
    """One VM."""
    view = await call.api.views.one(vm.VM, project, await machines.uid_of(call, project, name))
    return answers.json(view.content, headers={"etag": etags.of(view.revision)})


@router.patch("/{name}", name="change", response_model=vm.VM, responses=routing.problem_responses(404, 409, 412))
async def change(
    project: calls.Project,
    name: calls.Name,
    patch: Annotated[requests.VMPatch, Body(openapi_examples=examples.VM_PATCH)],
    call: Changing,
    if_match: etags.IfMatch = None,
) -> Response:
    """Change some fields (RFC 7396). What a running VM cannot take waits for its next cold start."""
    uid, expected = await machines.uid_of(call, project, name), etags.expected(if_match)
    host, hosts = None, list[ground.Host]()
    if patch.memory is not None or patch.cpu_model is not None:
        hosts = (await call.api.index.fresh()).ground.every(ground.Host)
        host = await machines.carrier(call, await call.resources.get(vm.VM, project, uid))

    if patch.autostart is not None and patch.autostart.after:
        name = (await call.resources.get(vm.VM, project, uid)).name
        autostart = await ordering.resolved(call, project, patch.autostart, name=name, uid=uid)
        patch = patch.model_copy(update={"autostart": autostart})
    present = await call.resources.get(vm.VM, project, uid)
    replica = await replicas.wanted(call, present, patch)

    def wanted(present: vm.VM) -> vm.VM:
        changed = definition.change(present, patch, host=host, hosts=hosts)
        changed = resources.with_spec(changed, **replica) if replica else changed
        copying.check_change(present, changed)
        return changed

    changed = await call.resources.change(vm.VM, project, uid, wanted, expected=expected)
    return answers.one(changed)


@router.post(
    "/{name}/upgrade-hardware",
    name="upgrade_hardware",
    status_code=202,
    response_model=Task,
    responses=routing.problem_responses(404, 409, 412),
)
async def upgrade_hardware(
    project: calls.Project, name: calls.Name, call: Changing, if_match: etags.IfMatch = None
) -> Response:
    """Move it to the newest machine type of its host, after a copy of it ran so; it counts from a cold start on."""
    machine = await machines.find(call, project, name)
    host = await machines.carrier(call, machine) or await call.api.this_host()

    def wanted(present: vm.VM) -> resources.Transaction:
        machines.check_not_in_trash(present)
        machinetypes.upgraded(present, host)
        return resources.Transaction()

    return await machines.ask(call, machine, "vm.upgrade-hardware", wanted, if_match=if_match)


@router.put("/{name}", name="replace", response_model=vm.VM, responses=routing.problem_responses(404, 409, 412, 428))
async def replace(
    project: calls.Project,
    name: calls.Name,
    document: Annotated[requests.Document, Body(openapi_examples=examples.DOCUMENT)],
    call: Changing,
    if_match: etags.IfMatch = None,
) -> Response:
    """Take an edited definition. Needs the revision that it was made from: If-Match, or `metadata.revision`."""
    read = document.metadata.get("revision")
    expected = etags.expected(if_match)
    if expected is None and if_match is None:
        if type(read) is not int:
            raise etags.Needed
        expected = read
    machine = await machines.find(call, project, name)
    return answers.one(await machines.take(call, machine, document, expected=expected))


@router.delete(
    "/{name}", name="delete", status_code=202, response_model=Task, responses=routing.problem_responses(404, 409, 412)
)
async def delete(
    project: calls.Project,
    name: calls.Name,
    call: Annotated[calls.Call, calls.may("vm:delete")],
    force: Annotated[bool, Query(description="Also while it runs: the plug is pulled first.")] = False,
    purge: Annotated[bool, Query(description="At once, not by way of the trash.")] = False,
    if_match: etags.IfMatch = None,
) -> Response:
    """Move it to the trash, from where `undelete` brings it back; with `purge` for good."""

    def wanted(machine: vm.VM) -> resources.Transaction:
        if machine.metadata.protected:
            raise Protected(name=machine.name)
        if not force and machines.is_up(machine):
            raise Running(name=machine.name, state=machine.status.state)
        return machines.deletion(machine)

    machine = await machines.find(call, project, name, in_trash=purge)
    return await machines.ask(call, machine, "vm.delete", wanted, if_match=if_match, purge=purge)


@router.post("/{name}/rename", name="rename", response_model=vm.VM, responses=routing.problem_responses(404, 409))
async def rename(project: calls.Project, name: calls.Name, request: requests.Rename, call: Changing) -> Response:
    """Give it another name; its identity stays."""

    async def once(machine: vm.VM) -> Response:
        machines.check_not_in_trash(machine)
        transaction = resources.Transaction()
        transaction.rename(machine, request.name)
        revision = await call.resources.commit(transaction)
        return answers.one(resources.with_metadata(machine, name=request.name, revision=revision))

    return await machines.until_unchanged(call, await machines.find(call, project, name), once)


@router.get("/{name}/why", name="why", response_model=Why, responses=routing.problem_responses(404))
async def why(project: calls.Project, name: calls.Name, call: Reading) -> Response:
    """Why it is as it is, in the trash too: one chain of causes, each with what helps."""
    machine = await machines.find(call, project, name, in_trash=True)
    chain = [base.Saying.of(message) for message in await machines.causes(call, machine)]
    told = [Reason(type=one.type, params=one.params, text=one.text, hint=one.hint) for one in chain]
    return answers.json(Why(chain=told).model_dump_json())


class Survives(BaseModel):
    losses: list[surviving.Loss]


@router.get("/{name}/survives", name="survives", response_model=Survives, responses=routing.problem_responses(404))
async def survives(project: calls.Project, name: calls.Name, call: Reading) -> Response:
    """What becomes of it when its disk, its host, the site is lost, or somebody slips; and when that was shown."""
    machine = await machines.find(call, project, name, in_trash=True)
    held = (await call.api.index.fresh()).ground
    of = surviving.Facts(
        machine=machine,
        storages=await _lies_on(call, machine),
        hosts=held.every(ground.Host),
        homes=await failovers.homes_without(call, machine),
        by_time=await failovers.proven_by_time(call, machine.status.host),
        snapshots=[
            one
            for one in (await call.resources.list(snapshot.Snapshot, project, holding=machine.uid)).items
            if one.spec.vm == machine.uid
        ],
        failovers=(await call.resources.list(Failover)).items,
    )
    found = Survives(losses=surviving.losses(of))
    return answers.json(found.model_dump_json(context=base.WORDS))


async def _lies_on(call: calls.Call, machine: vm.VM) -> list[ground.Storage]:
    """The storages of its directory and its disks."""
    held = (await call.api.index.fresh()).ground
    volumes = (await call.resources.list(ground.Volume, machine.metadata.project)).items
    mine = {disk.volume for disk in machine.spec.disks}
    uids = {machine.spec.storage, *(one.spec.storage for one in volumes if one.uid in mine)}
    return [one for one in held.every(ground.Storage) if one.uid in uids]
