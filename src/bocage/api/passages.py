"""VMs that go to another host: what keeps them is said before anything begins."""

from __future__ import annotations

from typing import Annotated

from starlette.responses import Response

from bocage import errors
from bocage.api import calls, machines, plans, problems, routing
from bocage.model import ground, plan, requests, vm
from bocage.model.work import Task
from bocage.planner import passage, snapshot
from bocage.words import N_

router = routing.router("vm", routing.IN_PROJECT + "/vms/{name}")

Changing = Annotated[calls.Call, calls.may("vm:change")]


class NoOwner(problems.Error, errors.Conflict):
    type = "vm-without-host"
    text = N_("no host has {name} just now")
    hint = N_("'bocage why {name}' says why")
    name: str


@router.post(
    "/migrate", name="migrate", status_code=202, response_model=Task, responses=routing.problem_responses(404, 409)
)
async def migrate(project: calls.Project, name: calls.Name, request: requests.Migrate, call: Changing) -> Response:
    """Have it go to another host, while it runs or not; its disks lie where both reach them."""
    machine = await machines.find(call, project, name)
    machines.check_not_in_trash(machine)
    to = await call.resources.find(ground.Host, None, request.to) if request.to else None
    world = await plans.present(call)
    target = await chosen(call, machine, world, to.name if to else None)
    held = (await call.api.index.fresh()).ground
    task = call.task(
        "vm.migrate",
        subject=machine.ref,
        host=machine.status.host,
        warnings=passage.warnings(machine, held.every(ground.Network)) if machines.is_up(machine) else (),
        to=target.uid,
        **request.model_dump(include={"bandwidth", "downtime", "live"}, exclude_none=True),
    )
    return await call.accept(task)


async def chosen(call: calls.Call, machine: vm.VM, world: plan.World, to: str | None) -> ground.Host:
    """The host that it goes to. Raises passage.Error, NoOwner."""
    if machine.status.host is None:
        raise NoOwner(name=machine.name)
    held = (await call.api.index.fresh()).ground
    key = snapshot.key(machine.metadata.project, machine.name)
    planned = next(one for one in world.vms if one.key == key)
    on = [one for one in held.every(ground.Storage) if one.name in planned.storages]
    for obstacle in passage.obstacles(machine, on, running=machines.is_up(machine)):
        raise obstacle
    name = passage.choose(machine.name, key, world, to)
    return next(one for one in held.every(ground.Host) if one.name == name)
