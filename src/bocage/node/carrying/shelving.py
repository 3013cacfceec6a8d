"""Images that lie in a storage, or come along with VMs, and that the store does not know yet."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Callable, Mapping

from bocage import words
from bocage.model import base, ground
from bocage.model.units import Size
from bocage.node.ground import Ground
from bocage.node.shop import Shop
from bocage.storage import image_record, images
from bocage.store import resources
from bocage.words import N_


class Added(words.Message):
    type = "image-added"
    text = N_("the image {name} is there ({count:size})")
    name: str
    count: int


async def register(
    host: Ground, project: str, name: str, taken: image_record.Image, storage: str, origin: str
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
        present = await host.resources.get(ground.Image, project, uid)
    except resources.Missing:
        await host.resources.create(image)
        await host.events.record(Added(name=name, count=image.status.size_bytes), subject=image.ref)
        return image
    return present


async def remove_file(host: Ground, digest: str, storage: ground.Storage) -> None:
    """Remove an image's file, or only the name when others lead to it."""
    everywhere = (await host.resources.list(ground.Image)).items
    others = [one for one in everywhere if (one.spec.sha256, one.spec.storage) == (digest, storage.uid)]
    shelf = host.library(storage)
    with contextlib.suppress(images.NoSuchImage):
        if others:
            await shelf.rename(digest, {f"{one.metadata.project}/{one.name}": one.uid for one in others})
        else:
            await shelf.remove(digest)


async def shelve(shop: Shop, storage: ground.Storage, path: pathlib.Path, name: str | None) -> None:
    """Take in an image file that is named by its digest, and enter it under its name or one that is free."""
    taken = {image.name for image in (await shop.ground.resources.list(ground.Image, "default")).items}
    called = name if name and name not in taken else f"image-{path.stem[:12]}"
    wanted = images.Wanted(
        file_name=path.name,
        origin="import",
        format=path.suffix.removeprefix("."),
        sha256=path.stem,
        limit=await shop.preparation.rooms.left(storage.uid),
        names={f"default/{called}": base.new_uid()},
    )
    image = await shop.ground.library(storage).add(path, wanted)
    with contextlib.suppress(resources.NameTaken):
        await register(shop.ground, "default", called, image, storage.uid, "import")


async def bring(
    host: Ground, source: ground.Storage, target: ground.Storage, digest: str, progress: Callable[[int, int], None]
) -> ground.Image:
    """Have an image of one storage on another one of this host too, under a name of its own.

    Doing it twice is doing it once. Raises images.NoSuchImage.
    """
    project, label = await _name_on(host, target, digest)
    names = {f"{project}/{label}": base.new_uid()}
    taken = await host.library(target).take_over(host.library(source), digest, names, progress)
    known = (await host.resources.list(ground.Image)).items
    if here := [one for one in known if (one.spec.sha256, one.spec.storage) == (digest, target.uid)]:
        return here[0]
    if had := _names(taken.names, digest):  # it was here before the store knew of it
        project, label, _ = had[0]
    return await register(host, project, label, taken, target.uid, taken.origin)


async def _name_on(host: Ground, target: ground.Storage, digest: str) -> tuple[str, str]:
    """Project and name for an image's copy on another storage: that of the image, with the storage's."""
    known = (await host.resources.list(ground.Image)).items
    project, label = next(
        ((one.metadata.project or "default", one.name) for one in known if one.spec.sha256 == digest),
        ("default", "image"),
    )
    called = f"{label[:31]}-{target.name[:31]}"
    taken = {one.name for one in known if one.metadata.project == project}
    return project, called if called not in taken else f"image-{digest[:12]}-{target.name[:31]}"


def beside(path: pathlib.Path, digest: str) -> pathlib.Path | None:
    """The image in the storage, or in the archive, that a VM's directory lies in, where it can be checked there."""
    for library in (path.parent.parent / "images", path / "images"):
        with contextlib.suppress(OSError):
            record = image_record.read(library, digest)
            if record is not None and record.given_format == record.format:
                return library / record.file_name
    return None


async def take_images(shop: Shop, storage: ground.Storage) -> list[ground.Image]:
    """Enter into the store every image of a storage that it does not know, under the names in its record."""
    kept = shop.ground.resources
    present = (await kept.list(ground.Image)).items
    known = {image.uid for image in present}
    taken = {(image.metadata.project, image.name) for image in present}
    entered: list[ground.Image] = []
    for found in await shop.ground.library(storage).images():
        for project, label, uid in _names(found.names, found.digest):
            if uid in known:
                continue
            name = label if (project, label) not in taken else f"{label[:50]}-{found.digest[:12]}"
            image = ground.Image.model_validate(
                {
                    "metadata": {"uid": uid, "name": name, "project": project},
                    "spec": {
                        "sha256": found.digest,
                        "format": found.format,
                        "virtual_size": f"{found.virtual_size}B",
                        "storage": storage.uid,
                        "origin": found.origin,
                    },
                    "status": {"size_bytes": found.file_size},
                }
            )
            with contextlib.suppress(resources.NameTaken):
                await kept.create(image)
                entered.append(image)
                taken.add((project, name))
    return entered


def _names(names: Mapping[str, str], digest: str) -> list[tuple[str, str, str]]:
    """Project, name and uid of each name in a record; what makes no sense there is given a name of its own."""
    result: list[tuple[str, str, str]] = []
    for name, uid in names.items():
        project, _, label = name.partition("/")
        try:
            base.Metadata(uid=uid, name=label, project=project)
        except ValueError:
            project, label, uid = "default", f"image-{digest[:12]}", base.new_uid()
        result.append((project, label, uid))
    return result
