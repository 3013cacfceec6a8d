"""Images that lie in a storage, or come along with VMs, and that the store does not know yet."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Mapping

from bocage import words
from bocage.model import base, ground
from bocage.model.units import Size
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
    shop: Shop, project: str, name: str, taken: image_record.Image, storage: str, origin: str
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
        present = await shop.ground.resources.get(ground.Image, project, uid)
    except resources.Missing:
        await shop.ground.resources.create(image)
        await shop.ground.events.record(Added(name=name, count=image.status.size_bytes), subject=image.ref)
        return image
    return present


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
    image = await shop.library(storage).add(path, wanted)
    with contextlib.suppress(resources.NameTaken):
        await register(shop, "default", called, image, storage.uid, "import")


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
    for found in await shop.library(storage).images():
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
