"""The LUNs that storages of this host's cluster lie on: who has which slice, and the map that tells of it.

Who has what is decided by the store, in one transaction that compares; the map on the LUN follows.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib

from bocage import files, sockets
from bocage.engine import block
from bocage.model import ground
from bocage.model.lun import Lun, LunPlace, LunRequest, Slice
from bocage.node.ground import Ground
from bocage.storage import directory, lun, slices
from bocage.store import secrets

INITIATOR = "iqn.2026-01.internal.bocage"


class Slicing:
    """What this host does on LUNs."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._known: dict[str, Lun | None] = {}  # by storage: where it lies never changes

    async def place(self, storage: str) -> Lun | None:
        """The LUN of a storage as it is kept; None for one that has none. Raises resources.Missing."""
        if storage not in self._known:
            self._known[storage] = (await self._ground.resources.get(ground.Storage, None, storage)).spec.lun
        return self._known[storage]

    async def of(self, storage: str) -> lun.Lun | None:
        """The same, ready to be reached. Raises resources.Missing and secrets' errors."""
        place = await self.place(storage)
        if place is None:
            return None
        password = ""
        if place.password:
            box = await asyncio.to_thread(secrets.Box.open, self._ground.home.secret_key)
            password = box.unseal(place.password, context=_context(storage)).decode()
        initiator = f"{INITIATOR}:{self._ground.uid}"
        return lun.Lun(place, initiator, password)

    async def take(self, storage: ground.Storage) -> None:
        """Take an empty LUN into use, and make what this host keeps beside it.

        Raises lun.Unreachable, slices.NotEmpty, directory's AnotherStorage.
        """
        await _have_root(storage)
        found = await self._lun(storage.uid)
        beginning = await lun.read(found, Slice(offset=0, size=slices.FIRST))
        if not beginning.strip(b"\0"):
            await lun.write(found, slices.turn(0), slices.render(slices.Map(storage.uid, 0, {})))
        elif slices.storage_of(beginning) is None:
            raise slices.NotEmpty(lun=found.place.lun, target=found.place.target)
        await self.open(storage)

    async def open(self, storage: ground.Storage) -> int:
        """See that the LUN is that of the storage, and that this host has its directory beside it; its size in bytes.

        Raises lun.Unreachable, directory's Gone and AnotherStorage.
        """
        await _have_root(storage)
        found = await self._lun(storage.uid)
        _check(found, storage, await lun.read(found, Slice(offset=0, size=slices.SECTOR)))
        await asyncio.to_thread(self._beside, storage)
        return await lun.size(found)

    async def let_go(self, storage: ground.Storage) -> None:
        """Have the LUN be empty again, as far as it can be had; what this host has kept beside it goes."""
        found = await self._lun(storage.uid)
        with contextlib.suppress(lun.Unreachable, lun.NoInitiator):
            if slices.storage_of(await lun.read(found, Slice(offset=0, size=slices.SECTOR))) == storage.uid:
                await lun.write(found, 0, bytes(slices.FIRST))
        await asyncio.to_thread(files.remove_tree, pathlib.Path(storage.spec.path))

    def _beside(self, storage: ground.Storage) -> None:
        root, place = pathlib.Path(storage.spec.path), storage.spec.lun
        assert place
        directory.create(root, storage.uid, self._ground.opens_as(storage))
        files.write_durably(root / sockets.PORTAL, " ".join(map(str, place.address)))

    async def made(self, volume: ground.Volume) -> Slice | None:
        """The slice of a volume, if it has one."""
        storage = await self._ground.resources.get(ground.Storage, None, volume.spec.storage)
        return storage.status.slices.get(volume.uid)

    async def give(self, volume: ground.Volume) -> Slice:
        """Give a volume its slice, once.

        Raises slices.Full, slices.TooMany, slices.Newer, lun.Unreachable, directory's Gone and AnotherStorage.
        """
        found, kept = await self._lun(volume.spec.storage), self._ground.resources
        begun = await lun.read(found, Slice(offset=0, size=slices.FIRST))
        storage = await kept.get(ground.Storage, None, volume.spec.storage)
        _check(found, storage, begun)
        told = slices.newest(begun)
        if told is not None and told.generation > storage.status.map_generation:
            raise slices.Newer(storage=storage.name, lun=told.generation, store=storage.status.map_generation)
        total = await lun.size(found)
        given_before = (await kept.get(ground.Storage, None, volume.spec.storage)).status.slices
        alive = {one.uid for one in (await kept.list(ground.Volume)).items}  # read after: who gets one is there before
        dead = given_before.keys() - alive

        def given(storage: ground.Storage) -> ground.StorageStatus:
            status = storage.status
            if volume.uid in status.slices:
                return status
            stay = {uid: one for uid, one in status.slices.items() if uid not in dead}
            if len(stay) >= slices.MOST:
                raise slices.TooMany(most=slices.MOST)
            new = slices.place(stay.values(), lun=total, size=volume.spec.size)
            changes = {"slices": {**stay, volume.uid: new}, "map_generation": status.map_generation + 1}
            return status.model_copy(update=changes)

        after = await kept.change_status(ground.Storage, None, volume.spec.storage, given)
        await self._tell(after)
        return after.status.slices[volume.uid]

    async def mend(self, storage: ground.Storage) -> None:
        """Have the map on the LUN tell of what the store says. Raises lun.Unreachable."""
        told = slices.newest(await lun.read(await self._lun(storage.uid), Slice(offset=0, size=slices.FIRST)))
        if told is None or told.generation < storage.status.map_generation:
            await self._tell(storage)

    async def _tell(self, storage: ground.Storage) -> None:
        names = {one.uid: one.name for one in (await self._ground.resources.list(ground.Volume)).items}
        entries = {uid: slices.Entry(one, names.get(uid, "")) for uid, one in storage.status.slices.items()}
        generation = storage.status.map_generation
        content = slices.render(slices.Map(storage.uid, generation, entries))
        await lun.write(await self._lun(storage.uid), slices.turn(generation), content)

    async def file(self, volume: ground.Volume, path: pathlib.Path) -> block.File:
        """What QEMU opens for a volume; `path` is where its file would lie."""
        found, part = await self._lun(volume.spec.storage), await self.made(volume)
        if part is None:
            raise directory.Gone(path=_name(found))
        piece = block.Piece(node=found.node(), offset=part.offset, size=volume.spec.size, password=found.password)
        return block.File(path=path, format="raw", own=True, piece=piece)

    async def end_writes(self, storage: str) -> None:
        """What a process of this host that is gone has sent and not got rid of does not land any more.

        Nothing of the VM may run. Raises OSError.
        """
        if (found := await self.place(storage)) is not None:
            await asyncio.to_thread(sockets.end_orphans, found.address)

    async def _lun(self, storage: str) -> lun.Lun:
        found = await self.of(storage)
        assert found
        return found


async def sealed(here: Ground, storage: str, asked: LunRequest) -> Lun:
    """A LUN as it is kept for a storage. Raises what secrets.Box.open does."""
    place = {name: getattr(asked, name) for name in LunPlace.model_fields}
    if asked.password is None:
        return Lun(**place)
    box = await asyncio.to_thread(secrets.Box.open, here.home.secret_key)
    return Lun(**place, password=box.seal(asked.password.encode(), context=_context(storage)))


def _context(storage: str) -> str:
    return f"the LUN of storage {storage}"


def forget(root: pathlib.Path, strangers: set[str]) -> None:
    """Remove what this host has kept of VMs that are others' by now: they keep their own."""
    for name in strangers & set(os.listdir(root / "vms")):
        files.remove_tree(root / "vms" / name)


async def _have_root(storage: ground.Storage) -> None:
    """What this host keeps beside the LUN, before anything reaches it: the guard looks there who writes where."""
    await asyncio.to_thread(os.makedirs, storage.spec.path, 0o711, exist_ok=True)


def _check(found: lun.Lun, storage: ground.Storage, begun: bytes) -> None:
    """Raises directory's Gone and AnotherStorage unless a LUN that begins so is the storage's."""
    uid = slices.storage_of(begun)
    if uid is None:
        raise directory.Gone(path=_name(found))
    if uid != storage.uid:
        raise directory.AnotherStorage(path=_name(found), found=uid, wanted=storage.uid)


def _name(found: lun.Lun) -> str:
    return f"iscsi://{found.place.portal}/{found.place.target}/{found.place.lun}"
