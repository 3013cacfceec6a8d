"""Templates: sealed VMs that others are made from."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query
from starlette.responses import Response

from bocage import errors
from bocage.api import answers, calls, describing, etags, machines, paging, problems, routing, snapshots
from bocage.model import base, ground, requests, template, vm
from bocage.model.work import Task
from bocage.planner import templates as planner
from bocage.store import resources
from bocage.words import N_

router = routing.router("template", routing.IN_PROJECT + "/templates")

Reading = Annotated[calls.Call, calls.may("template:read")]


class OtherStorage(problems.Error, errors.Conflict):
    type = "template-on-other-storage"
    text = N_("the template {name} lies on another storage than {vm}")
    hint = N_("'bocage vm migrate {vm} --storage S' first, or choose another name")
    name: str
    vm: str


@router.get(
    "", name="list", response_model=answers.Listed[template.Template], responses=routing.problem_responses(404, 410)
)
async def list_(
    project: calls.Project, call: Reading, limit: paging.Limit = 100, after: paging.After = None
) -> Response:
    """The templates of a project."""
    return await call.api.views.page(template.Template, project, limit=limit, after=after)


@router.post("", name="create", status_code=202, response_model=Task, responses=routing.problem_responses(404, 409))
async def create(
    project: calls.Project,
    request: requests.TemplateCreate,
    call: Annotated[calls.Call, calls.may("template:create")],
) -> Response:
    """Seal a VM that is off, or a snapshot of one: as a new template, or as a new version of one that is there."""
    machine = await machines.find(call, project, request.vm)
    moment = None
    if request.snapshot is None:
        machines.check_down(machine)
    else:
        moment = await snapshots.ready(call, machine, request.snapshot)
    uid = base.new_uid()
    try:
        present = await call.resources.find(template.Template, project, request.name)
    except resources.Missing:
        pass
    else:
        uid = present.uid
        if present.spec.storage != machine.spec.storage:
            raise OtherStorage(name=present.name, vm=machine.name)
    subject = base.Ref(kind=template.Template.kind, uid=uid, project=project, name=request.name)
    task = call.task(
        "template.create",
        subject=subject,
        host=await machines.host_of(call, machine),
        request=request.model_dump(mode="json"),
        vm=machine.uid,
        snapshot=moment.uid if moment else None,
    )
    return await call.accept(task, location=f"{routing.BASE}/projects/{project}/templates/{request.name}")


@router.get("/{name}", name="get", response_model=template.Template, responses=routing.problem_responses(404))
async def get(project: calls.Project, name: calls.Name, call: Reading) -> Response:
    """One template with its versions."""
    return answers.one(await call.resources.find(template.Template, project, name))


@router.patch(
    "/{name}", name="change", response_model=template.Template, responses=routing.problem_responses(404, 409, 412)
)
async def change(
    project: calls.Project,
    name: calls.Name,
    patch: requests.Description,
    call: Annotated[calls.Call, calls.may("template:change")],
    if_match: etags.IfMatch = None,
) -> Response:
    """Change its title, notes or tags (RFC 7396)."""
    return await describing.describe(call, template.Template, project, name, patch, if_match)


@router.delete(
    "/{name}", name="delete", status_code=202, response_model=Task, responses=routing.problem_responses(404, 409)
)
async def delete(
    project: calls.Project,
    name: calls.Name,
    call: Annotated[calls.Call, calls.may("template:delete")],
    version: Annotated[int | None, Query(ge=1, description="Only this one of its versions.")] = None,
) -> Response:
    """Delete a template, or one version of it, that no VM is linked to."""
    held = await call.resources.find(template.Template, project, name)
    if version is not None:
        planner.version(held, version)
    numbers = {one.number for one in held.spec.versions if version in (None, one.number)}
    volumes = (await call.resources.list(ground.Volume, project)).items
    if users := planner.users(held, numbers, volumes, (await call.resources.list(vm.VM, project, trash=True)).items):
        raise planner.InUse(name=held.name, users=users[:10])
    storage = await call.resources.get(ground.Storage, None, held.spec.storage)
    return await call.accept(
        call.task("template.delete", subject=held.ref, host=call.api.reaching(storage), version=version)
    )
