"""Groups of firewall rules, which NICs refer to."""

from __future__ import annotations

from typing import Annotated

from starlette.responses import Response

from bocage.api import answers, calls, etags, paging, routing
from bocage.model import base, firewall, requests
from bocage.model.work import Task
from bocage.planner import usage
from bocage.store import resources

router = routing.router("firewall", routing.IN_PROJECT + "/firewall-groups")

Reading = Annotated[calls.Call, calls.may("firewall:read")]
Group = firewall.FirewallGroup


@router.get("", name="list", response_model=answers.Listed[Group], responses=routing.problem_responses(404, 410))
async def list_(
    project: calls.Project, call: Reading, limit: paging.Limit = 100, after: paging.After = None
) -> Response:
    """The firewall groups of a project."""
    return await call.api.views.page(Group, project, limit=limit, after=after)


@router.post("", name="create", status_code=201, response_model=Group, responses=routing.problem_responses(404, 409))
async def create(
    project: calls.Project,
    request: requests.FirewallGroupCreate,
    call: Annotated[calls.Call, calls.may("firewall:create")],
) -> Response:
    """Make a group. A NIC that refers to it lets in what its rules allow, and no more."""
    group = Group(
        metadata=base.Metadata(name=request.name, title=request.title, project=project),
        spec=firewall.FirewallGroupSpec(rules=request.rules),
    )
    transaction = resources.Transaction()
    transaction.create(group)
    return await call.commit(transaction, answers.one(group, 201, location=answers.path(group)))


@router.get("/{name}", name="get", response_model=Group, responses=routing.problem_responses(404))
async def get(project: calls.Project, name: calls.Name, call: Reading) -> Response:
    """One group with its rules."""
    return answers.one(await call.resources.find(Group, project, name))


@router.patch(
    "/{name}", name="change", status_code=202, response_model=Task, responses=routing.problem_responses(404, 409, 412)
)
async def change(
    project: calls.Project,
    name: calls.Name,
    patch: requests.FirewallGroupPatch,
    call: Annotated[calls.Call, calls.may("firewall:change")],
    if_match: etags.IfMatch = None,
) -> Response:
    """Change its rules, title, notes or tags (RFC 7396). The task ends when every NIC is held to the new rules."""
    group = await call.resources.find(Group, project, name)
    etags.check(if_match, group)
    about = patch.model_dump(include=set(requests.Description.model_fields), exclude_none=True)
    rules = group.spec.rules if patch.rules is None else patch.rules
    wanted = resources.with_metadata(resources.with_spec(group, rules=rules), **about)
    transaction = resources.Transaction()
    transaction.update(resources.bumped(group, wanted))
    host = await call.api.this_host()
    return await call.accept(
        call.task("firewall-group.change", subject=group.ref, host=host.uid), transaction=transaction
    )


@router.delete("/{name}", name="delete", status_code=204, responses=routing.problem_responses(404, 409, 412))
async def delete(
    project: calls.Project,
    name: calls.Name,
    call: Annotated[calls.Call, calls.may("firewall:delete")],
    if_match: etags.IfMatch = None,
) -> Response:
    """Delete a group that no NIC refers to."""
    async with call.api.index.claim:
        group = await call.resources.find(Group, project, name)
        etags.check(if_match, group)
        if users := (await call.api.index.fresh()).users_of_group(project, group.name):
            raise usage.GroupInUse(name=group.name, users=sorted(users)[:10])
        await call.resources.delete(group)
    return Response(status_code=204)
