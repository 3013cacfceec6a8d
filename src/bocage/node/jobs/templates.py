"""Templates: disks sealed as images, which others are linked to; let go when nobody is."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import uuid
from collections.abc import Iterator
from typing import Any

from bocage import files
from bocage.model import base, ground, requests, snapshot, template, vm
from bocage.model.units import Size
from bocage.node import notes, tasks
from bocage.node.carrying import shelving
from bocage.node.jobs import images
from bocage.node.shop import Shop
from bocage.planner import templates
from bocage.storage import half_made, image_record, volumes
from bocage.storage import images as library
from bocage.store import resources


async def create(shop: Shop, run: tasks.Run) -> dict[str, Any]:
    """Seal a VM's disks, as they are or as a snapshot has them, as one more version of a template."""
    kept, subject = shop.ground.resources, run.task.spec.subject
    assert subject
    asked = requests.TemplateCreate.model_validate(run.params["request"])
    project = subject.project or "default"
    machine = await kept.get(vm.VM, project, str(run.params["vm"]))
    moment: snapshot.Snapshot | None = None
    if uid := run.params.get("snapshot"):
        moment = await kept.get(snapshot.Snapshot, project, str(uid))
    number = run.remembered.get("number")
    if number is None:
        number = await _next_number(shop, subject)
        await run.remember(number=number)
    storage = await kept.get(ground.Storage, None, machine.spec.storage)
    spec = moment.spec.machine if moment else machine.spec
    tops = {disk.disk: disk.file for disk in moment.status.disks} if moment else {}
    sealed: list[template.TemplateDisk] = []
    with _still(shop, machine, moment):
        for disk in spec.disks:
            if moment is None or disk.name in tops:
                label = f"{asked.name[:40]}-v{number}-{disk.name}"
                sealed.append(await _seal(shop, run, storage, machine, disk, tops.get(disk.name), label))
    names = {disk.disk for disk in sealed}
    spec = spec.model_copy(update={"disks": tuple(disk for disk in spec.disks if disk.name in names)})
    made = template.TemplateVersion(number=number, made=base.now(), machine=spec, disks=tuple(sealed))
    await _enter(shop, subject, asked, storage, made)
    return {"template": asked.name, "version": number}


@contextlib.contextmanager
def _still(shop: Shop, machine: vm.VM, moment: snapshot.Snapshot | None) -> Iterator[None]:
    """What is copied inside does not change. Raises in_use.CopyWhileRunning and in_use.BeingMerged."""
    held = shop.preparation.in_use
    with held.read(machine.uid, machine.name) if moment else held.copied([machine]):
        yield


async def _next_number(shop: Shop, subject: base.Ref) -> int:
    with contextlib.suppress(resources.Missing):
        present = await shop.ground.resources.get(template.Template, subject.project, subject.uid)
        return max((one.number for one in present.spec.versions), default=0) + 1
    return 1


async def _seal(
    shop: Shop,
    run: tasks.Run,
    storage: ground.Storage,
    machine: vm.VM,
    disk: vm.Disk,
    top: str | None,
    label: str,
) -> template.TemplateDisk:
    """One disk as an image of the library. What an earlier attempt has sealed is not sealed again."""
    done: dict[str, Any] = dict(run.remembered.get("sealed", {}))
    if disk.name in done:
        return template.TemplateDisk.model_validate(done[disk.name])
    project, shelf = machine.metadata.project or "default", shop.ground.library(storage)
    uid = str(uuid.uuid5(uuid.UUID(run.uid), disk.name))  # the same at each attempt, so that its image is known again
    taken = next((one for one in await shelf.images() if one.names.get(f"{project}/{label}") == uid), None)
    if taken is None:
        names = {f"{project}/{label}": uid}
        taken = await _take_in(shop, run, storage, machine, disk, top, label, names)
    await shelving.register(shop.ground, project, label, taken, storage.uid, f"template:{label}")
    sealed = template.TemplateDisk(disk=disk.name, sha256=taken.digest, size=Size(taken.virtual_size))
    await run.remember(sealed={**done, disk.name: sealed.model_dump(mode="json")})
    return sealed


async def _take_in(
    shop: Shop,
    run: tasks.Run,
    storage: ground.Storage,
    machine: vm.VM,
    disk: vm.Disk,
    top: str | None,
    label: str,
    names: dict[str, str],
) -> image_record.Image:
    """What a disk holds, as an image of the library that the store does not know yet."""
    project = machine.metadata.project or "default"
    volume = await shop.ground.resources.get(ground.Volume, project, disk.volume)
    run.report(notes.Copying(what=disk.name))
    told = lambda done, total: run.progress(done, total)  # noqa: E731
    scratch = (await shop.preparation.place(machine)).path / f".template.{secrets.token_hex(4)}{half_made.SUFFIX}"
    await asyncio.to_thread(scratch.mkdir, mode=0o700)
    try:
        path, limit = scratch / f"{label}.qcow2", await shop.preparation.rooms.left(storage.uid)
        layers = await shop.preparation.disks.layers(volume, disk.name, top=top)
        await volumes.convert(layers, path, image_format="qcow2", limit=limit, progress=told)
        wanted = library.Wanted(
            file_name=path.name, origin=f"template:{label}", format="qcow2", limit=limit, names=names
        )
        return await shop.ground.library(storage).add(path, wanted, told)
    finally:
        await asyncio.to_thread(files.remove_tree, scratch)


async def _enter(
    shop: Shop,
    subject: base.Ref,
    asked: requests.TemplateCreate,
    storage: ground.Storage,
    made: template.TemplateVersion,
) -> None:
    """Write the version: it counts from now on."""
    kept, project = shop.ground.resources, subject.project

    def with_it(present: template.Template) -> template.Template:
        others = tuple(one for one in present.spec.versions if one.number != made.number)
        return resources.with_spec(present, versions=(*others, made))

    try:
        await kept.change(template.Template, project, subject.uid, with_it)
    except resources.Missing:
        about = base.Metadata(uid=subject.uid, name=asked.name, project=project, title=asked.title, notes=asked.notes)
        spec = template.TemplateSpec(storage=storage.uid, versions=(made,))
        await kept.create(template.Template(metadata=about, spec=spec))


async def delete(shop: Shop, run: tasks.Run) -> None:
    """Let a version go, or all, with the images that nobody else has; refused while a VM is linked to them."""
    kept, subject = shop.ground.resources, run.task.spec.subject
    assert subject
    try:
        held = await kept.get(template.Template, subject.project, subject.uid)
    except resources.Missing:
        pass  # an earlier attempt ended before the images were gone
    else:
        wanted = run.params.get("version")
        numbers = {one.number for one in held.spec.versions if wanted in (None, one.number)}
        machines = (await kept.list(vm.VM, trash=True)).items
        if users := templates.users(held, numbers, (await kept.list(ground.Volume)).items, machines):
            raise templates.InUse(name=held.name, users=users[:10])
        left = tuple(one for one in held.spec.versions if one.number not in numbers)
        stay = {disk.sha256 for one in left for disk in one.disks}
        gone = {disk.sha256 for one in held.spec.versions for disk in one.disks} - stay
        if numbers:
            await run.remember(gone=sorted(gone), storage=held.spec.storage)
        if left:
            await kept.change(
                template.Template, subject.project, held.uid, lambda one: resources.with_spec(one, versions=left)
            )
        else:
            await kept.delete(held)
    if digests := run.remembered.get("gone"):
        await images.let_go(shop, set(digests), str(run.remembered["storage"]), origin="template:")
