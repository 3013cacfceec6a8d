"""Networks: what NICs are plugged into."""

from __future__ import annotations

from typing import Annotated

from starlette.responses import Response

from bocage.api import answers, calls, describing, etags, paging, routing
from bocage.model import base, ground, requests
from bocage.model.work import Task
from bocage.planner import usage
from bocage.store import resources

router = routing.router("network", routing.IN_PROJECT + "/networks")

Reading = Annotated[calls.Call, calls.may("network:read")]


@router.get(
    "", name="list", response_model=answers.Listed[ground.Network], responses=routing.problem_responses(404, 410)
)
async def list_(
    project: calls.Project, call: Reading, limit: paging.Limit = 100, after: paging.After = None
) -> Response:
    """The networks of a project."""
    return await call.api.views.page(ground.Network, project, limit=limit, after=after)


@router.post("", name="create", status_code=202, response_model=Task, responses=routing.problem_responses(404, 409))
async def create(
    project: calls.Project, request: requests.NetworkCreate, call: Annotated[calls.Call, calls.may("network:create")]
) -> Response:
    """Make a network; what the machine lacks for it is said by the task."""
    spec = ground.NetworkSpec.model_validate(request.model_dump(exclude={"name"}))
    network = ground.Network(metadata=base.Metadata(name=request.name, project=project), spec=spec)
    host = await call.api.this_host()
    transaction = resources.Transaction()
    transaction.create(network)
    task = call.task("network.create", subject=network.ref, host=host.uid)
    return await call.accept(task, transaction=transaction, location=answers.path(network))


@router.get("/{name}", name="get", response_model=ground.Network, responses=routing.problem_responses(404))
async def get(project: calls.Project, name: calls.Name, call: Reading) -> Response:
    """One network."""
    return answers.one(await call.resources.find(ground.Network, project, name))


@router.patch(
    "/{name}", name="change", response_model=ground.Network, responses=routing.problem_responses(404, 409, 412)
)
async def change(
    project: calls.Project,
    name: calls.Name,
    patch: requests.Description,
    call: Annotated[calls.Call, calls.may("network:change")],
    if_match: etags.IfMatch = None,
) -> Response:
    """Change its title, notes or tags (RFC 7396)."""
    return await describing.describe(call, ground.Network, project, name, patch, if_match)


@router.post(
    "/{name}/confirm", name="confirm", status_code=202, response_model=Task, responses=routing.problem_responses(404)
)
async def confirm(
    project: calls.Project, name: calls.Name, call: Annotated[calls.Call, calls.may("network:change")]
) -> Response:
    """Let a network stay on the host's NIC that it was put onto; without it all goes back after a minute."""
    network = await call.resources.find(ground.Network, project, name)
    host = await call.api.this_host()
    return await call.accept(call.task("network.confirm", subject=network.ref, host=host.uid))


@router.delete(
    "/{name}", name="delete", status_code=202, response_model=Task, responses=routing.problem_responses(404, 409, 412)
)
async def delete(
    project: calls.Project,
    name: calls.Name,
    call: Annotated[calls.Call, calls.may("network:delete")],
    if_match: etags.IfMatch = None,
) -> Response:
    """Take down a network that no VM has a NIC on."""
    network = await call.resources.find(ground.Network, project, name)
    etags.check(if_match, network)
    if users := (await call.api.index.fresh()).users_of_network(network.uid):
        raise usage.NetworkInUse(name=network.name, users=sorted(users)[:10])
    host = await call.api.this_host()
    return await call.accept(call.task("network.delete", subject=network.ref, host=host.uid))
