"""Volumes: disks of VMs, and those that lie by themselves."""

from __future__ import annotations

from typing import Annotated

from starlette.responses import Response

from bocage import errors
from bocage.api import answers, calls, describing, etags, facts, index, paging, problems, routing
from bocage.model import base, ground, requests
from bocage.model.units import Size
from bocage.model.work import Task
from bocage.planner import parts, usage
from bocage.store import resources
from bocage.words import N_

router = routing.router("volume", routing.IN_PROJECT + "/volumes")

Reading = Annotated[calls.Call, calls.may("volume:read")]


class OnlyGrows(problems.Error, errors.Invalid):
    type = "volume-only-grows"
    text = N_("{name} has {present:size}; {asked:size} is not more")
    hint = N_("a smaller disk would cut off what the guest has written")
    name: str
    present: int
    asked: int


class DiskOf(problems.Error, errors.Conflict):
    type = "volume-is-a-disk"
    text = N_("{name} is a disk of {vm}")
    hint = N_("grow it there: 'bocage vm disk grow'")
    name: str
    vm: str


@router.get(
    "", name="list", response_model=answers.Listed[ground.Volume], responses=routing.problem_responses(404, 410)
)
async def list_(
    project: calls.Project, call: Reading, limit: paging.Limit = 100, after: paging.After = None
) -> Response:
    """The volumes of a project."""
    return await call.api.views.page(ground.Volume, project, limit=limit, after=after)


@router.post("", name="create", status_code=202, response_model=Task, responses=routing.problem_responses(404, 409))
async def create(
    project: calls.Project, request: requests.VolumeCreate, call: Annotated[calls.Call, calls.may("volume:create")]
) -> Response:
    """Make a blank volume."""
    storage = await facts.storage_named(call, request.storage)
    values = request.model_dump(exclude={"name", "storage"})
    spec = parts.validated(ground.VolumeSpec, {**values, "storage": storage.uid}, "")
    volume = ground.Volume(metadata=base.Metadata(name=request.name, project=project), spec=spec)
    transaction = resources.Transaction()
    transaction.create(volume)
    task = call.task("volume.create", subject=volume.ref, host=call.api.reaching(storage))
    return await call.accept(task, transaction=transaction, location=answers.path(volume))


@router.get("/{name}", name="get", response_model=ground.Volume, responses=routing.problem_responses(404))
async def get(project: calls.Project, name: calls.Name, call: Reading) -> Response:
    """One volume."""
    return answers.one(await call.resources.find(ground.Volume, project, name))


@router.patch(
    "/{name}", name="change", response_model=ground.Volume, responses=routing.problem_responses(404, 409, 412)
)
async def change(
    project: calls.Project,
    name: calls.Name,
    patch: requests.Description,
    call: Annotated[calls.Call, calls.may("volume:change")],
    if_match: etags.IfMatch = None,
) -> Response:
    """Change its title, notes or tags (RFC 7396)."""
    return await describing.describe(call, ground.Volume, project, name, patch, if_match)


@router.delete(
    "/{name}", name="delete", status_code=202, response_model=Task, responses=routing.problem_responses(404, 409, 412)
)
async def delete(
    project: calls.Project,
    name: calls.Name,
    call: Annotated[calls.Call, calls.may("volume:delete")],
    if_match: etags.IfMatch = None,
) -> Response:
    """Delete a volume that is no VM's disk, with what is on it."""
    volume = await call.resources.find(ground.Volume, project, name)
    etags.check(if_match, volume)
    held = await call.api.index.fresh()
    if by := held.users.get(volume.uid):
        raise parts.VolumeInUse(name=volume.name, by=by)
    _check_kept_by_none(held, volume)
    return await call.accept(call.task("volume.delete", subject=volume.ref, host=await _host(call, volume)))


@router.post(
    "/{name}/grow", name="grow", status_code=202, response_model=Task, responses=routing.problem_responses(404, 409)
)
async def grow(
    project: calls.Project,
    name: calls.Name,
    request: requests.Grow,
    call: Annotated[calls.Call, calls.may("volume:change")],
) -> Response:
    """Make a volume larger that is no VM's disk."""
    volume = await call.resources.find(ground.Volume, project, name)
    held = await call.api.index.fresh()
    if by := held.users.get(volume.uid):
        raise DiskOf(name=volume.name, vm=by)
    _check_kept_by_none(held, volume)
    size = larger(volume, request.size)
    host = await _host(call, volume)
    return await call.accept(call.task("volume.grow", subject=volume.ref, host=host, size=str(size)))


def larger(volume: ground.Volume, size: Size) -> Size:
    """The size that a volume grows to. Raises OnlyGrows and errors.InvalidFields."""
    if size <= volume.spec.size:
        raise OnlyGrows(name=volume.name, present=volume.spec.size, asked=size)
    return parts.validated(ground.VolumeSpec, {**dict(volume.spec), "size": size}, "").size


def _check_kept_by_none(held: index.Index, volume: ground.Volume) -> None:
    if keeper := held.keeper(volume.uid):
        raise usage.VolumeKept(name=volume.name, vm=keeper)


async def _host(call: calls.Call, volume: ground.Volume) -> str | None:
    return call.api.reaching(await call.resources.get(ground.Storage, None, volume.spec.storage))
