"""Storage: where disks and images lie."""

from __future__ import annotations

import pathlib
from typing import Annotated

from fastapi import Body
from starlette.responses import Response

from bocage import errors
from bocage.api import answers, calls, describing, etags, examples, paging, problems, routing
from bocage.model import base, ground, requests
from bocage.model.lun import Lun, LunPlace
from bocage.model.work import Task
from bocage.planner import usage
from bocage.store import resources
from bocage.words import N_

router = routing.router("storage", "/storage")

Reading = Annotated[calls.Call, calls.may("storage:read")]


class Overlaps(problems.Error, errors.Conflict):
    """Two storages in one place would take each other's files for their own."""

    type = "storage-overlaps"
    text = N_("{path} lies within the storage {name} ({other}), or the other way round")
    hint = N_("choose a directory of its own")
    path: str
    name: str
    other: str


class LunTaken(problems.Error, errors.Conflict):
    """Two storages on one LUN would write over each other."""

    type = "storage-lun-taken"
    text = N_("the storage {name} lies on that LUN")
    name: str


class Climbs(problems.Error, errors.Invalid):
    type = "storage-path-climbs"
    text = N_("{path} is no plain path: it has '..' in it")
    hint = N_("write the path out")
    path: str


@router.get("", name="list", response_model=answers.Listed[ground.Storage], responses=routing.problem_responses(410))
async def list_(call: Reading, limit: paging.Limit = 100, after: paging.After = None) -> Response:
    """All storage."""
    return await call.api.views.page(ground.Storage, None, limit=limit, after=after)


@router.post("", name="create", status_code=202, response_model=Task, responses=routing.problem_responses(404, 409))
async def create(request: requests.StorageCreate, call: Annotated[calls.Call, calls.may("storage:create")]) -> Response:
    """Take a directory into use, or an empty disk, with a file system that is made on it; or an empty LUN."""
    host, shared = await call.api.this_host(), request.kind != "dir"
    metadata = base.Metadata(name=request.name)
    below = f"luns/{metadata.uid}" if request.lun else f"storage/{request.name}"
    path = request.path or f"{host.status.home}/{below}"
    if ".." in path.split("/"):
        raise Climbs(path=path)
    for other in (await call.resources.list(ground.Storage)).items:
        if (shared or other.concerns(host.uid)) and _overlap(path, other.spec.path):
            raise Overlaps(path=path, name=other.name, other=other.spec.path)
    only = None if shared else host.uid
    lun = await _lun(call, request, metadata.uid) if request.lun else None
    given = {**request.model_dump(exclude={"name", "lun"}), "path": path, "host": only, "lun": lun}
    given |= {"reserve_percent": 0} if lun else {}
    storage = ground.Storage(metadata=metadata, spec=ground.StorageSpec.model_validate(given))
    transaction = resources.Transaction()
    transaction.create(storage)
    task = call.task("storage.create", subject=storage.ref, host=host.uid)
    return await call.accept(task, transaction=transaction, location=answers.path(storage))


@router.get("/{name}", name="get", response_model=ground.Storage, responses=routing.problem_responses(404))
async def get(name: calls.Name, call: Reading) -> Response:
    """One storage."""
    return answers.one(await call.resources.find(ground.Storage, None, name))


@router.patch("/{name}", name="change", response_model=ground.Storage, responses=routing.problem_responses(404, 412))
async def change(
    name: calls.Name,
    patch: Annotated[requests.StoragePatch, Body(openapi_examples=examples.STORAGE_PATCH)],
    call: Annotated[calls.Call, calls.may("storage:change")],
    if_match: etags.IfMatch = None,
) -> Response:
    """Change some fields (RFC 7396). Room that is kept back, or may be promised, counts from the next start on."""
    return await describing.describe(call, ground.Storage, None, name, patch, if_match)


@router.post(
    "/{name}/repair",
    name="repair",
    status_code=202,
    response_model=Task,
    responses=routing.problem_responses(404, 409),
)
async def repair(
    name: calls.Name, request: requests.StorageRepair, call: Annotated[calls.Call, calls.may("storage:repair")]
) -> Response:
    """Put a disk into a mirror that lacks one: what the other holds is copied to it."""
    storage = await call.resources.find(ground.Storage, None, name)
    return await call.accept(
        call.task("storage.repair", subject=storage.ref, host=call.api.reaching(storage), disk=request.disk)
    )


@router.delete(
    "/{name}", name="delete", status_code=202, response_model=Task, responses=routing.problem_responses(404, 409, 412)
)
async def delete(
    name: calls.Name, call: Annotated[calls.Call, calls.may("storage:delete")], if_match: etags.IfMatch = None
) -> Response:
    """Forget a storage that holds nothing of ours; the directory stays."""
    storage = await call.resources.find(ground.Storage, None, name)
    etags.check(if_match, storage)
    users = (await call.api.index.fresh()).users_of_storage(storage.uid)
    on_it = [
        image.name for image in (await call.resources.list(ground.Image)).items if image.spec.storage == storage.uid
    ]
    if held := [*users, *on_it]:
        raise usage.StorageInUse(name=storage.name, users=sorted(held)[:10])
    return await call.accept(call.task("storage.delete", subject=storage.ref, host=call.api.reaching(storage)))


async def _lun(call: calls.Call, request: requests.StorageCreate, storage: str) -> Lun:
    """A LUN as it is kept. Raises LunTaken."""
    assert request.lun
    for other in (await call.resources.list(ground.Storage)).items:
        if other.spec.lun and _same(other.spec.lun, request.lun):
            raise LunTaken(name=other.name)
    asked = request.lun.model_dump_json().encode()
    return Lun.model_validate(await call.api.nodes.own.document("POST", f"/storage/{storage}/lun", content=asked))


def _same(one: LunPlace, other: LunPlace) -> bool:
    """One target may have several portals."""
    return (one.target, one.lun) == (other.target, other.lun)


def _overlap(one: str, other: str) -> bool:
    """Whether one lies within the other. Links are the node's to see through."""
    first, second = (pathlib.PurePosixPath("/", *path.split("/")) for path in (one, other))
    return first.is_relative_to(second) or second.is_relative_to(first)
