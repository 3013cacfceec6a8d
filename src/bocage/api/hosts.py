"""Hosts: the machines that VMs run on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel
from starlette.responses import Response

from bocage.api import answers, calls, describing, etags, paging, routing
from bocage.model import ground, power, requests
from bocage.model.work import Task
from bocage.store import resources as stored

router = routing.router("host", "/hosts")

Reading = Annotated[calls.Call, calls.may("host:read")]
Power = Annotated[calls.Call, calls.may("host:power")]


@router.get("", name="list", response_model=answers.Listed[ground.Host], responses=routing.problem_responses(410))
async def list_(call: Reading, limit: paging.Limit = 100, after: paging.After = None) -> Response:
    """All hosts."""
    return await call.api.views.page(ground.Host, None, limit=limit, after=after)


@router.get("/{name}", name="get", response_model=ground.Host, responses=routing.problem_responses(404))
async def get(name: calls.Name, call: Reading) -> Response:
    """One host: its machine, its QEMU, its accelerator and why it is that one."""
    return answers.one(await call.resources.find(ground.Host, None, name))


@router.patch(
    "/{name}",
    name="change",
    response_model=ground.Host,
    responses=routing.problem_responses(404, 409, 412, 502, 504),
)
async def change(
    name: calls.Name,
    patch: requests.HostPatch,
    call: Annotated[calls.Call, calls.may("host:change")],
    if_match: etags.IfMatch = None,
) -> Response:
    """Change what its VMs may have of it, its BMC, and what is said of it (RFC 7396). What runs goes on running."""
    if patch.bmc:
        host = await call.resources.find(ground.Host, None, name)
        asked = patch.bmc.model_dump_json().encode()
        looked = await call.api.nodes.own.document("POST", f"/hosts/{host.uid}/bmc", content=asked)
        patch = patch.model_copy(update={"bmc": power.Bmc.model_validate(looked["bmc"])})
    return await describing.describe(call, ground.Host, None, name, patch, if_match, nullable=("cpu_overcommit", "bmc"))


class HostPower(BaseModel):
    power: Literal["on", "off", "changing"]


@router.get(
    "/{name}/power", name="power", response_model=HostPower, responses=routing.problem_responses(404, 409, 502, 504)
)
async def power_(name: calls.Name, call: Reading) -> Response:
    """Whether it has power: its BMC is asked, by the host that was asked for it."""
    host = await call.resources.find(ground.Host, None, name)
    return await call.api.nodes.own.forward("GET", f"/hosts/{host.uid}/power")


class Disks(BaseModel):
    disks: list[ground.HostDisk]


@router.get("/{name}/disks", response_model=Disks, responses=routing.problem_responses(404, 502, 504))
async def disks(name: calls.Name, call: Reading) -> Response:
    """Its disks: what each is, how it is, and what lies on it."""
    host = await call.resources.find(ground.Host, None, name)
    return await (await call.api.nodes.of(host.uid)).forward("GET", "/disks", within=120.0)


class UsbDevices(BaseModel):
    devices: list[ground.HostUsb]


@router.get("/{name}/usb", response_model=UsbDevices, responses=routing.problem_responses(404, 502, 504))
async def usb(name: calls.Name, call: Reading) -> Response:
    """What is plugged into its USB ports; hubs are left out."""
    host = await call.resources.find(ground.Host, None, name)
    return await (await call.api.nodes.of(host.uid)).forward("GET", "/usb")


@router.post("/{name}/drain", status_code=202, response_model=Task, responses=routing.problem_responses(404, 409))
async def drain(name: calls.Name, request: requests.Drain, call: Power) -> Response:
    """Have its VMs go to other hosts, some at a time; from now on it gets none. What has to stay is told first."""
    host = await call.resources.find(ground.Host, None, name)
    task = call.task("host.drain", subject=host.ref, host=host.uid, at_once=request.at_once)
    await call.resources.change(ground.Host, None, host.uid, lambda present: stored.with_spec(present, drained=True))
    return await call.accept(task)


@router.post("/{name}/undrain", response_model=ground.Host, responses=routing.problem_responses(404))
async def undrain(name: calls.Name, call: Power) -> Response:
    """It gets VMs again; none comes back by itself."""
    host = await call.resources.find(ground.Host, None, name)
    changed = await call.resources.change(
        ground.Host, None, host.uid, lambda present: stored.with_spec(present, drained=False)
    )
    return answers.one(changed)


@router.post("/{name}/stop-vms", status_code=202, response_model=Task, responses=routing.problem_responses(404))
async def stop_vms(name: calls.Name, call: Power) -> Response:
    """Have its VMs go off, those first that start last, until the machine's next start or `start-vms`."""
    host = await call.resources.find(ground.Host, None, name)
    return await call.accept(call.task("host.stop-vms", subject=host.ref, host=host.uid))


@router.post("/{name}/start-vms", status_code=202, response_model=Task, responses=routing.problem_responses(404))
async def start_vms(name: calls.Name, call: Power) -> Response:
    """Have the VMs run again that `stop-vms` stopped, in their order."""
    host = await call.resources.find(ground.Host, None, name)
    return await call.accept(call.task("host.start-vms", subject=host.ref, host=host.uid))
