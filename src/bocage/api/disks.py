"""The disks and CDs of a VM, plugged in and out while it runs."""

from __future__ import annotations

import contextlib
from typing import Annotated

from fastapi import Path
from pydantic import Field, model_validator
from starlette.responses import Response

from bocage.api import answers, calls, etags, facts, machines, routing, volumes
from bocage.model import base, device_requests, ground, requests, vm
from bocage.model.work import Task
from bocage.planner import equipment, parts, replicas
from bocage.store import resources

router = routing.router("vm", routing.IN_PROJECT + "/vms/{name}")

Changing = Annotated[calls.Call, calls.may("vm:change")]
Device = Annotated[str, Path(description="The device's name in the VM.", examples=["disk1"])]
_PROBLEMS = routing.problem_responses(404, 409)


class Insert(base.Part):
    """What lies in a CD drive."""

    image: base.Name | None = Field(default=None, description="An image; null empties the drive.")
    upload: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{8,64}$")] | None = None
    """An ISO image that was uploaded for this drive; it is removed when no drive has it any more."""
    storage: base.Name = "local"
    """Where it was uploaded to."""

    @model_validator(mode="after")
    def _one_of(self) -> Insert:
        if self.upload is not None and self.image is not None:
            raise ValueError("give either an image or an upload")
        if self.upload is None and "image" not in self.model_fields_set:
            raise ValueError("give an image (null empties the drive), or an upload")
        return self


@router.post("/disks", name="attach_disk", status_code=202, response_model=Task, responses=_PROBLEMS)
async def attach(
    project: calls.Project, name: calls.Name, request: device_requests.DiskRequest, call: Changing
) -> Response:
    """Add a disk; a running VM gets it at once."""
    async with call.api.index.claim if request.volume is not None else contextlib.nullcontext():
        machine = await machines.find(call, project, name)
        known = await facts.for_disk(call, machine, request)
        host = await machines.host_of(call, machine)

        async def once(present: vm.VM) -> Response:
            machines.check_not_in_trash(present)
            made = equipment.attach(present, request, known, storage=next(iter(known.storage.values())))
            transaction = machines.update(present, disks=made.vm.spec.disks)
            for volume in made.volumes:
                transaction.create(volume)
            disk = made.vm.spec.disks[-1]
            task = call.task(
                "vm.disk-attach",
                subject=present.ref,
                host=host,
                warnings=await facts.warnings_of_room(call, made),
                disk=disk.name,
                volume=disk.volume,
            )
            return await call.accept(task, transaction=transaction)

        return await machines.until_unchanged(call, machine, once)


@router.patch(
    "/disks/{disk}", name="change_disk", response_model=vm.VM, responses=routing.problem_responses(404, 409, 412)
)
async def change(
    project: calls.Project,
    name: calls.Name,
    disk: Device,
    patch: device_requests.DiskPatch,
    call: Changing,
    if_match: etags.IfMatch = None,
) -> Response:
    """Limit it (RFC 7396). A running VM is held to that at once: `status.outcomes` says what became of it."""
    machine = await machines.find(call, project, name)
    return answers.one(
        await machines.change(call, machine, lambda one: equipment.change_disk(one, disk, patch), if_match)
    )


@router.delete("/disks/{disk}", name="detach_disk", status_code=202, response_model=Task, responses=_PROBLEMS)
async def detach(project: calls.Project, name: calls.Name, disk: Device, call: Changing) -> Response:
    """Take a disk out of it; its volume stays."""
    machine, found = await _disk(call, project, name, disk)
    host = await machines.host_of(call, machine)
    return await call.accept(
        call.task("vm.disk-detach", subject=machine.ref, host=host, disk=found.name, volume=found.volume)
    )


@router.post("/disks/{disk}/grow", name="grow_disk", status_code=202, response_model=Task, responses=_PROBLEMS)
async def grow(
    project: calls.Project, name: calls.Name, disk: Device, request: requests.Grow, call: Changing
) -> Response:
    """Make a disk larger, while it runs or not."""
    machine, found = await _disk(call, project, name, disk)
    volume = await call.resources.get(ground.Volume, project, found.volume)
    size = volumes.larger(volume, request.size)
    host = await machines.host_of(call, machine)
    return await call.accept(
        call.task("vm.disk-grow", subject=machine.ref, host=host, disk=found.name, volume=found.volume, size=str(size))
    )


@router.put("/cds/{cd}", name="change_cd", status_code=202, response_model=Task, responses=_PROBLEMS)
async def change_cd(project: calls.Project, name: calls.Name, cd: Device, request: Insert, call: Changing) -> Response:
    """Put another image in a CD drive, or what was uploaded for it, or nothing."""
    if request.upload is not None:
        return await _insert_upload(call, project, name, cd, request)
    image = None
    if request.image is not None:
        try:
            image = await call.resources.find(ground.Image, project, request.image)
        except resources.Missing as error:
            raise parts.NoSuch(kind="image", name=request.image) from error

    def wanted(machine: vm.VM) -> resources.Transaction:
        machines.check_not_in_trash(machine)
        changed = equipment.change_cd(machine, cd, image)
        replicas.check_change(machine, changed)
        return machines.update(machine, cds=changed.spec.cds)

    machine = await machines.find(call, project, name)
    image_uid = image.uid if image else None
    return await machines.ask(call, machine, "vm.cd-change", wanted, cd=cd, image=image_uid)


async def _insert_upload(call: calls.Call, project: str, name: str, cd: str, request: Insert) -> Response:
    machine = await machines.find(call, project, name)
    machines.check_not_in_trash(machine)
    equipment.change_cd(machine, cd, None)  # there is such a drive
    storage = await facts.storage_named(call, request.storage)
    task = call.task(
        "vm.cd-change",
        subject=machine.ref,
        host=await machines.host_of(call, machine),
        cd=cd,
        upload=request.upload,
        image=base.new_uid(),
        storage=storage.uid,
    )
    return await call.accept(task)


async def _disk(call: calls.Call, project: str, name: str, disk: str) -> tuple[vm.VM, vm.Disk]:
    machine = await machines.find(call, project, name)
    machines.check_not_in_trash(machine)
    for one in machine.spec.disks:
        if one.name == disk:
            return machine, one
    raise parts.NoSuchDevice(vm=machine.name, kind="disk", name=disk[:80])
