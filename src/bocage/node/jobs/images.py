"""Images: taken in, built from packages, removed."""

from __future__ import annotations

import os
import pathlib
import tempfile
from typing import TYPE_CHECKING, Any

from bocage import errors, words
from bocage.guest import tiny
from bocage.model import base, ground, requests, vm
from bocage.model.units import Size
from bocage.node import tasks
from bocage.planner import usage
from bocage.storage import image_record
from bocage.storage import images as library
from bocage.store import resources
from bocage.words import N_

if TYPE_CHECKING:
    from bocage.node.agent import Node


class Error(errors.Problem):
    """Anything that goes wrong with images on this host."""


class Added(words.Message):
    type = "image-added"
    text = N_("the image {name} is there ({count:size})")
    name: str
    count: int


class Deleted(words.Message):
    type = "image-deleted"
    text = N_("the image {name} is gone")
    name: str


async def add(node: Node, run: tasks.Run) -> dict[str, Any]:
    """Take in a file of this host, what was uploaded, or what lies at a URL."""
    asked = requests.ImageAdd.model_validate({**run.params, "storage": "local"})
    storage, uid = await _place(node, run)
    shelf = node.library(storage)
    project = run.task.metadata.project or "default"
    wanted = library.Wanted(
        file_name=asked.file_name or os.path.basename(asked.path or asked.url or "") or asked.name,
        origin=asked.url or asked.path or asked.file_name,
        format=asked.format,
        sha256=asked.sha256,
        names={f"{project}/{asked.name}": uid},
        limit=_limit(storage),
    )
    progress = lambda done, total: run.progress(done, total)  # noqa: E731
    if asked.path:
        taken = await shelf.add(pathlib.Path(asked.path), wanted, progress)
    elif asked.upload:
        taken = await shelf.finish(asked.upload, wanted, progress)
    else:
        taken = await _download(shelf, asked.url or "", wanted, run)
    image = await register(node, project, asked.name, taken, storage.uid, wanted.origin)
    return {"image": image.name, "sha256": image.spec.sha256}


def _limit(storage: ground.Storage) -> int:
    """Bytes that an image may take: what is free beyond the reserve."""
    known = os.statvfs(storage.spec.path)
    reserve = known.f_blocks * known.f_frsize * storage.spec.reserve_percent // 100
    return max(known.f_bavail * known.f_frsize - reserve, 0)


async def _place(node: Node, run: tasks.Run) -> tuple[ground.Storage, str]:
    """The storage that an image goes to, and the uid that was chosen for it when it was asked for."""
    assert run.task.spec.subject
    storage = await node.ground.resources.get(ground.Storage, None, run.params["storage"])
    return storage, run.task.spec.subject.uid


async def _download(shelf: library.Library, url: str, wanted: library.Wanted, run: tasks.Run) -> image_record.Image:
    from bocage.storage import download  # late: it brings the HTTP client

    key = await download.fetch(
        shelf.intake, url, limit=wanted.limit, received=lambda done, total: run.progress(done, total or 0)
    )
    return await shelf.finish(key, wanted)


async def build(node: Node, run: tasks.Run) -> dict[str, Any]:
    """Build an image from the distribution's packages and take it in."""
    asked = requests.ImageBuild.model_validate({**run.params, "storage": "local"})
    storage, uid = await _place(node, run)
    project = run.task.metadata.project or "default"

    def report(step: words.Message, fraction: float) -> None:
        run.report(step)
        run.progress(round(fraction * 100), 100, "steps")

    node.ground.home.cache.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="build-", dir=node.ground.home.cache) as scratch:
        cache = node.ground.home.cache / "packages"
        if asked.what == "tiny":
            made, origin = pathlib.Path(scratch) / f"{asked.name}.{tiny.FORMAT}", "built:tiny"
            await tiny.build(made, cache=cache, report=report)
        else:
            from bocage.guest import debian  # late: it is seldom used

            made, origin = pathlib.Path(scratch) / f"{asked.name}.{debian.FORMAT}", f"built:debian/{asked.release}"
            await debian.build(made, release=asked.release, cache=cache, report=report)
        wanted = library.Wanted(file_name=made.name, origin=origin, names={f"{project}/{asked.name}": uid})
        taken = await node.library(storage).add(made, wanted)
    image = await register(node, project, asked.name, taken, storage.uid, origin)
    return {"image": image.name, "sha256": image.spec.sha256}


async def delete(node: Node, run: tasks.Run) -> None:
    """Remove a name, and the file when no other name leads to it; refused while something builds on it."""
    subject = run.task.spec.subject
    assert subject
    try:
        image = await node.ground.resources.get(ground.Image, subject.project, subject.uid)
    except resources.Missing:
        return
    machines = (await node.ground.resources.list(vm.VM, trash=True)).items
    if users := usage.of_image(image, (await node.ground.resources.list(ground.Volume)).items, machines):
        raise usage.ImageInUse(name=image.name, users=users)
    everywhere = await node.ground.resources.list(ground.Image)
    others = [
        one
        for one in everywhere.items
        if one.uid != image.uid and (one.spec.sha256, one.spec.storage) == (image.spec.sha256, image.spec.storage)
    ]
    transaction = resources.Transaction()
    transaction.delete(image)
    await node.ground.resources.commit(transaction)
    storage = await node.ground.resources.get(ground.Storage, None, image.spec.storage)
    shelf = node.library(storage)
    try:
        if others:
            await shelf.rename(image.spec.sha256, {f"{one.metadata.project}/{one.name}": one.uid for one in others})
        else:
            await shelf.remove(image.spec.sha256)
    except library.NoSuchImage:
        pass
    await node.ground.events.record(Deleted(name=image.name), subject=image.ref)


async def register(
    node: Node, project: str, name: str, taken: image_record.Image, storage: str, origin: str
) -> ground.Image:
    """Enter an image of the library into the store; doing it twice is doing it once."""
    uid = taken.names.get(f"{project}/{name}") or base.new_uid()
    image = ground.Image(
        metadata=base.Metadata(uid=uid, name=name, project=project),
        spec=ground.ImageSpec(
            sha256=taken.digest,
            format=taken.format,
            virtual_size=Size(taken.virtual_size),
            storage=storage,
            origin=origin,
        ),
        status=ground.ImageStatus(size_bytes=taken.file_size),
    )
    try:
        present = await node.ground.resources.get(ground.Image, project, uid)
    except resources.Missing:
        await node.ground.resources.create(image)
        await node.ground.events.record(Added(name=name, count=image.status.size_bytes), subject=image.ref)
        return image
    return present
