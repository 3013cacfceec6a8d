"""Images: taken in, built from packages, removed."""

from __future__ import annotations

import os
import pathlib
import tempfile
from typing import Any

from bocage import errors, files, words
from bocage.guest import tiny
from bocage.model import ground, requests, template, vm
from bocage.node import tasks
from bocage.node.carrying import shelving
from bocage.node.shop import Shop
from bocage.planner import usage
from bocage.storage import image_record, space
from bocage.storage import images as library
from bocage.store import resources
from bocage.words import N_

_SCRATCH = "build-"


class Error(errors.Problem):
    """Anything that goes wrong with images on this host."""


class Deleted(words.Message):
    type = "image-deleted"
    text = N_("the image {name} is gone")
    name: str


async def add(shop: Shop, run: tasks.Run) -> dict[str, Any]:
    """Take in a file of this host, what was uploaded, or what lies at a URL."""
    asked = requests.ImageAdd.model_validate({**run.params, "storage": "local"})
    storage, uid = await _place(shop, run)
    shelf = shop.ground.library(storage)
    project = run.task.metadata.project or "default"
    await _check_free(shop, project, asked.name, uid)
    wanted = library.Wanted(
        file_name=asked.file_name or os.path.basename(asked.path or asked.url or "") or asked.name,
        origin=asked.url or asked.path or asked.file_name,
        format=asked.format,
        sha256=asked.sha256,
        names={f"{project}/{asked.name}": uid},
        limit=_limit(storage),
    )
    progress = lambda done, total: run.progress(done, total)  # noqa: E731
    if present := await _taken_in(shelf, project, asked.name, uid):
        taken = present  # by an attempt that ended before it was entered
    elif asked.path:
        taken = await shelf.add(pathlib.Path(asked.path), wanted, progress)
    elif asked.upload:
        taken = await shelf.finish(asked.upload, wanted, progress)
    else:
        taken = await _download(shelf, asked.url or "", wanted, run)
    image = await shelving.register(shop.ground, project, asked.name, taken, storage.uid, wanted.origin)
    return {"image": image.name, "sha256": image.spec.sha256}


async def _check_free(shop: Shop, project: str, name: str, uid: str) -> None:
    """Before anything is taken in: the library's record gives a name to the newest that asks for it."""
    images = (await shop.ground.resources.list(ground.Image, project)).items
    if any(image.name == name and image.uid != uid for image in images):
        raise resources.NameTaken(kind="image", name=name)


async def _taken_in(shelf: library.Library, project: str, name: str, uid: str) -> image_record.Image | None:
    return next((one for one in await shelf.images() if one.names.get(f"{project}/{name}") == uid), None)


def _limit(storage: ground.Storage) -> int:
    """Bytes that an image may take: what is free beyond the reserve."""
    known = os.statvfs(storage.spec.path)
    reserve = known.f_blocks * known.f_frsize * storage.spec.reserve_percent // 100
    return max(known.f_bavail * known.f_frsize - reserve, 0)


async def _place(shop: Shop, run: tasks.Run) -> tuple[ground.Storage, str]:
    """The storage that an image goes to, and the uid that was chosen for it when it was asked for."""
    assert run.task.spec.subject
    storage = await shop.ground.resources.get(ground.Storage, None, run.params["storage"])
    return storage, run.task.spec.subject.uid


async def _download(shelf: library.Library, url: str, wanted: library.Wanted, run: tasks.Run) -> image_record.Image:
    from bocage.storage import download  # late: it brings the HTTP client

    key = await download.fetch(
        shelf.intake, url, limit=wanted.limit, received=lambda done, total: run.progress(done, total or 0)
    )
    return await shelf.finish(key, wanted)


async def build(shop: Shop, run: tasks.Run) -> dict[str, Any]:
    """Build an image from the distribution's packages and take it in."""
    asked = requests.ImageBuild.model_validate({**run.params, "storage": "local"})
    storage, uid = await _place(shop, run)
    project = run.task.metadata.project or "default"
    await _check_free(shop, project, asked.name, uid)
    shelf = shop.ground.library(storage)
    taken = await _taken_in(shelf, project, asked.name, uid)
    origin = f"built:debian/{asked.release}" if asked.what == "debian" else f"built:{asked.what}"
    if taken is None:
        names = {f"{project}/{asked.name}": uid}
        cache = _cache(shop)
        with space.told_when_full(cache), tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=cache) as scratch:
            made = await _build(shop, asked, pathlib.Path(scratch), run)
            wanted = library.Wanted(file_name=made.name, origin=origin, names=names, limit=_limit(storage))
            taken = await shelf.add(made, wanted)
    image = await shelving.register(shop.ground, project, asked.name, taken, storage.uid, origin)
    return {"image": image.name, "sha256": image.spec.sha256}


async def _build(shop: Shop, asked: requests.ImageBuild, scratch: pathlib.Path, run: tasks.Run) -> pathlib.Path:
    def report(step: words.Message, fraction: float) -> None:
        run.report(step)
        run.progress(round(fraction * 100), 100, "steps")

    packages = _cache(shop) / "packages"
    if asked.what == "tiny":
        made = scratch / f"{asked.name}.{tiny.FORMAT}"
        await tiny.build(made, cache=packages, report=report)
    elif asked.what == "rescue":
        from bocage.guest import rescue  # late: it is seldom used

        made = scratch / f"{asked.name}.{rescue.FORMAT}"
        await rescue.build(made, cache=packages, report=report)
    else:
        from bocage.guest import debian  # late: it is seldom used

        made = scratch / f"{asked.name}.{debian.FORMAT}"
        await debian.build(made, release=asked.release, cache=packages, report=report)
    return made


def _cache(shop: Shop) -> pathlib.Path:
    shop.ground.home.cache.mkdir(exist_ok=True)
    return shop.ground.home.cache


def sweep(cache: pathlib.Path) -> None:
    """Remove what builds left that a daemon's end broke off; called before any build begins."""
    for path in cache.glob(f"{_SCRATCH}*"):
        files.remove_tree(path)


async def delete(shop: Shop, run: tasks.Run) -> None:
    """Remove a name, and the file when no other name leads to it; refused while something builds on it."""
    subject = run.task.spec.subject
    assert subject
    kept = shop.ground.resources
    try:
        image = await kept.get(ground.Image, subject.project, subject.uid)
    except resources.Missing:
        pass  # an earlier attempt ended before the file was gone
    else:
        machines = (await kept.list(vm.VM, trash=True)).items
        if users := usage.of_image(image, (await kept.list(ground.Volume)).items, machines):
            raise usage.ImageInUse(name=image.name, users=users)
        if of := await _templates_of(shop, image):
            raise usage.ImageInUse(name=image.name, users=of)
        await run.remember(digest=image.spec.sha256, storage=image.spec.storage)
        await kept.delete(image)
    if digest := run.remembered.get("digest"):
        await shelving.remove_file(shop.ground, digest, await kept.get(ground.Storage, None, run.remembered["storage"]))
        await shop.ground.events.record(Deleted(name=subject.name), subject=subject)


async def _templates_of(shop: Shop, image: ground.Image) -> list[str]:
    known = (await shop.ground.resources.list(template.Template)).items
    return sorted(
        f"template {one.name}"
        for one in known
        if one.spec.storage == image.spec.storage
        and any(disk.sha256 == image.spec.sha256 for version in one.spec.versions for disk in version.disks)
    )


async def let_go(shop: Shop, digests: set[str], storage_uid: str, *, origin: str) -> None:
    """Remove the names that images have from `origin`, and the files that no other name leads to."""
    kept = shop.ground.resources
    storage = await kept.get(ground.Storage, None, storage_uid)
    for image in (await kept.list(ground.Image)).items:
        here = image.spec.storage == storage_uid and image.spec.sha256 in digests
        if here and image.spec.origin.startswith(origin) and not await _templates_of(shop, image):
            await kept.delete(image)
    for digest in sorted(digests):
        await shelving.remove_file(shop.ground, digest, storage)
