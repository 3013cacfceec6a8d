"""CDs that were burned for a drive: they come in with what is put there, and go when no VM has them any more."""

from __future__ import annotations

from bocage.model import base, ground, vm
from bocage.model.units import Size
from bocage.node import tasks
from bocage.node.carrying import shelving
from bocage.node.ground import Ground
from bocage.planner import usage
from bocage.storage import images
from bocage.store import resources


async def take_in(host: Ground, machine: vm.VM, run: tasks.Run, *, limit: int) -> ground.Image:
    """An image of what was uploaded, in the library and not yet in the store; doing it twice is doing it once."""
    storage = await host.resources.get(ground.Storage, None, run.params["storage"])
    project, uid = machine.metadata.project or "default", str(run.params["image"])
    name = f"{machine.name[:40]}-{run.params['cd'][:12]}-{uid[-8:]}"
    origin = f"burned for {machine.name}"
    shelf, label = host.library(storage), f"{project}/{name}"
    taken = next((one for one in await shelf.images() if one.names.get(label) == uid), None)
    if taken is None:
        wanted = images.Wanted(f"{name}.iso", origin, format="iso", names={label: uid}, limit=limit)
        taken = await shelf.finish(str(run.params["upload"]), wanted, lambda done, total: run.progress(done, total))
    return ground.Image(
        metadata=base.Metadata(uid=uid, name=name, project=project),
        spec=ground.ImageSpec(
            sha256=taken.digest,
            format="iso",
            virtual_size=Size(taken.virtual_size),
            storage=storage.uid,
            origin=origin,
            temporary=True,
        ),
        status=ground.ImageStatus(size_bytes=taken.file_size),
    )


async def discard(host: Ground, image: ground.Image) -> None:
    """Remove the file of an image that no drive got."""
    storage = await host.resources.get(ground.Storage, None, image.spec.storage)
    await shelving.remove_file(host, image.spec.sha256, storage)


async def forget(host: Ground) -> None:
    """Remove those that no VM has in a drive. While a VM is saved all stay: its memory may know of one."""
    kept = host.resources
    burned = [one for one in (await kept.list(ground.Image)).items if one.spec.temporary]
    if not burned:
        return
    machines = (await kept.list(vm.VM, trash=True)).items
    if any(one.status.state is vm.State.SAVED for one in machines):
        return
    for image in burned:
        storage = await kept.get(ground.Storage, None, image.spec.storage)
        if storage.reached_by(host.uid) and not usage.of_image(image, (), machines):
            async with host.rights.work(storage.uid):
                await kept.delete(image)
                await discard(host, image)


async def has(kept: resources.Resources, image: ground.Image) -> bool:
    """Whether the store knows it."""
    try:
        await kept.get(ground.Image, image.metadata.project, image.uid)
    except resources.Missing:
        return False
    return True
