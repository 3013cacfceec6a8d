"""Images: what new disks are made from, and CDs."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Body
from starlette.responses import Response

from bocage import errors
from bocage.api import answers, calls, describing, etags, examples, facts, paging, problems, routing
from bocage.model import base, ground, requests
from bocage.model.work import Task
from bocage.planner import usage
from bocage.store import resources
from bocage.words import N_

router = routing.router("image", routing.IN_PROJECT + "/images")

Reading = Annotated[calls.Call, calls.may("image:read")]
Adding = Annotated[calls.Call, calls.may("image:add")]


class OnlyLocally(problems.Error, errors.Forbidden):
    """Over the network a path would be a way to read the host's files."""

    type = "path-only-locally"
    text = N_("a file of the host is taken only from its own command line")
    hint = N_("upload it (/api/v1/uploads), or give a URL")


class PathElsewhere(problems.Error, errors.Conflict):
    type = "path-elsewhere"
    text = N_("{path} is a file of this host, and {storage} is reached by others alone")
    hint = N_("upload it (/api/v1/uploads), or ask there")
    path: str
    storage: str


@router.get("", name="list", response_model=answers.Listed[ground.Image], responses=routing.problem_responses(404, 410))
async def list_(
    project: calls.Project, call: Reading, limit: paging.Limit = 100, after: paging.After = None
) -> Response:
    """The images of a project."""
    return await call.api.views.page(ground.Image, project, limit=limit, after=after)


@router.post("", name="add", status_code=202, response_model=Task, responses=routing.problem_responses(404, 409))
async def add(
    project: calls.Project,
    request: Annotated[requests.ImageAdd, Body(openapi_examples=examples.IMAGE_ADD)],
    call: Adding,
) -> Response:
    """Take in an image from a URL, an upload, or (locally) a file. It is inspected before QEMU sees it."""
    if request.path is not None and not call.asker.local:
        raise OnlyLocally
    if request.path is not None:
        storage = await facts.storage_named(call, request.storage)
        if call.api.reaching(storage) != (await call.api.this_host()).uid:
            raise PathElsewhere(path=request.path, storage=storage.name)
    params = request.model_dump(mode="json", exclude={"storage"})
    return await _accept(call, project, "image.add", request.name, request.storage, params)


@router.post(
    "/build", name="build", status_code=202, response_model=Task, responses=routing.problem_responses(404, 409)
)
async def build(project: calls.Project, request: requests.ImageBuild, call: Adding) -> Response:
    """Build an image from the distribution's packages."""
    params = request.model_dump(mode="json", exclude={"storage"})
    return await _accept(call, project, "image.build", request.name, request.storage, params)


@router.get("/{name}", name="get", response_model=ground.Image, responses=routing.problem_responses(404))
async def get(project: calls.Project, name: calls.Name, call: Reading) -> Response:
    """One image."""
    return answers.one(await call.resources.find(ground.Image, project, name))


@router.patch("/{name}", name="change", response_model=ground.Image, responses=routing.problem_responses(404, 409, 412))
async def change(
    project: calls.Project,
    name: calls.Name,
    patch: requests.Description,
    call: Annotated[calls.Call, calls.may("image:change")],
    if_match: etags.IfMatch = None,
) -> Response:
    """Change its title, notes or tags (RFC 7396)."""
    return await describing.describe(call, ground.Image, project, name, patch, if_match)


@router.delete(
    "/{name}", name="delete", status_code=202, response_model=Task, responses=routing.problem_responses(404, 409, 412)
)
async def delete(
    project: calls.Project,
    name: calls.Name,
    call: Annotated[calls.Call, calls.may("image:delete")],
    if_match: etags.IfMatch = None,
) -> Response:
    """Delete an image that nothing is linked to."""
    image = await call.resources.find(ground.Image, project, name)
    etags.check(if_match, image)
    if users := (await call.api.index.fresh()).users_of_image(image):
        raise usage.ImageInUse(name=image.name, users=users[:10])
    storage = await call.resources.get(ground.Storage, None, image.spec.storage)
    return await call.accept(call.task("image.delete", subject=image.ref, host=call.api.reaching(storage)))


async def _accept(
    call: calls.Call, project: str, action: str, name: str, storage_name: str, params: dict[str, Any]
) -> Response:
    """The task that makes an image: its uid is chosen now, the image itself comes with its content."""
    storage = await facts.storage_named(call, storage_name)
    await _check_name_is_free(call, project, name)
    subject = base.Ref(kind=ground.Image.kind, uid=base.new_uid(), project=project, name=name)
    task = call.task(action, subject=subject, host=call.api.reaching(storage), **params, storage=storage.uid)
    return await call.accept(task, location=f"{routing.BASE}/projects/{project}/images/{name}")


async def _check_name_is_free(call: calls.Call, project: str, name: str) -> None:
    """Raises resources.NameTaken."""
    try:
        await call.resources.find(ground.Image, project, name)
    except resources.Missing:
        return
    raise resources.NameTaken(kind=ground.Image.kind, name=name)
