"""The USB devices of its host that a VM has: plugged in and out while it runs or not."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path
from starlette.responses import Response

from bocage.api import answers, calls, etags, machines, routing
from bocage.model import device_requests, vm
from bocage.planner import equipment

router = routing.router("vm", routing.IN_PROJECT + "/vms/{name}/usb")

Changing = Annotated[calls.Call, calls.may("vm:change")]
Device = Annotated[str, Path(description="The device's name in the VM, or vendor and product.", examples=["usb0"])]
_PROBLEMS = routing.problem_responses(404, 409, 412)


@router.post("", name="attach_usb", response_model=vm.VM, responses=_PROBLEMS)
async def attach(
    project: calls.Project,
    name: calls.Name,
    request: device_requests.UsbRequest,
    call: Changing,
    if_match: etags.IfMatch = None,
) -> Response:
    """Give it a USB device of its host, whenever that is plugged in there. `status.usb` says whether it is."""
    machine = await machines.find(call, project, name)
    return answers.one(await machines.change(call, machine, lambda one: equipment.attach_usb(one, request), if_match))


@router.delete("/{device}", name="detach_usb", response_model=vm.VM, responses=_PROBLEMS)
async def detach(
    project: calls.Project, name: calls.Name, device: Device, call: Changing, if_match: etags.IfMatch = None
) -> Response:
    """Take a USB device out of it."""
    machine = await machines.find(call, project, name)
    return answers.one(await machines.change(call, machine, lambda one: equipment.detach_usb(one, device), if_match))
