"""The NICs of a VM: plugged in and out, moved to another network, their cables pulled, while it runs or not."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path
from starlette.responses import Response

from bocage.api import answers, calls, etags, facts, machines, routing
from bocage.model import device_requests, ground, vm
from bocage.planner import equipment

router = routing.router("vm", routing.IN_PROJECT + "/vms/{name}/nics")

Changing = Annotated[calls.Call, calls.may("vm:change")]
Device = Annotated[str, Path(description="The NIC's name in the VM.", examples=["nic1"])]
_PROBLEMS = routing.problem_responses(404, 409, 412)


@router.post("", name="attach_nic", response_model=vm.VM, responses=_PROBLEMS)
async def attach(
    project: calls.Project,
    name: calls.Name,
    request: device_requests.NicRequest,
    call: Changing,
    if_match: etags.IfMatch = None,
) -> Response:
    """Add a NIC. A running VM gets it at once: `status.outcomes` says what became of it."""
    async with call.api.index.claim:
        machine = await machines.find(call, project, name)
        known = await facts.for_nic(call, machine, request.network, request.firewall)
        storage = await call.resources.get(ground.Storage, None, machine.spec.storage)
        made = await machines.change(
            call, machine, lambda one: equipment.attach_nic(one, request, known, storage=storage), if_match
        )
        return answers.one(made)


@router.patch("/{nic}", name="change_nic", response_model=vm.VM, responses=_PROBLEMS)
async def change(
    project: calls.Project,
    name: calls.Name,
    nic: Device,
    patch: device_requests.NicPatch,
    call: Changing,
    if_match: etags.IfMatch = None,
) -> Response:
    """Another network, other published ports, addresses or firewall groups; its cable (RFC 7396)."""
    async with call.api.index.claim:
        machine = await machines.find(call, project, name)
        here = next((one.network for one in machine.spec.nics if one.name == nic), None)
        known = await facts.for_nic(call, machine, patch.network or here, patch.firewall or ())
        return answers.one(
            await machines.change(call, machine, lambda one: equipment.change_nic(one, nic, patch, known), if_match)
        )


@router.delete("/{nic}", name="detach_nic", response_model=vm.VM, responses=_PROBLEMS)
async def detach(
    project: calls.Project, name: calls.Name, nic: Device, call: Changing, if_match: etags.IfMatch = None
) -> Response:
    """Take a NIC out of it."""
    machine = await machines.find(call, project, name)
    return answers.one(await machines.change(call, machine, lambda one: equipment.detach_nic(one, nic), if_match))
