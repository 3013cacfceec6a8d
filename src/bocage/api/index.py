"""Who uses what: which VM has a MAC address, a volume, an image, a network; read once, then kept by a watch.

There is no task behind it: whoever asks first carries on the watch to the store's newest revision.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Iterable
from typing import Any

from bocage import errors
from bocage.model import ground, keys, units, vm
from bocage.model.firewall import FirewallGroup
from bocage.store import contract
from bocage.store.held import Held

_BOUND = 30.0  # seconds
_GROUND = frozenset(cls.kind for cls in (ground.Host, ground.Storage, ground.Image, ground.Network, FirewallGroup))
_KINDS = (vm.VM.kind, ground.Volume.kind, *sorted(_GROUND))


@dataclasses.dataclass(frozen=True, slots=True)
class Uses:
    """What one VM has or refers to."""

    name: str
    project: str
    deleted: bool
    macs: tuple[str, ...]
    smbios_uuid: str
    volumes: tuple[str, ...]
    images: tuple[str, ...]  # uids of those in its CD drives
    networks: tuple[str, ...]
    groups: tuple[str, ...]  # of firewall rules, by name
    storage: str


@dataclasses.dataclass(frozen=True, slots=True)
class Copy:
    """What one volume came from and lies on."""

    name: str
    image: str | None  # the digest of the image that it is linked to
    storage: str
    vm: str | None
    size: int  # bytes


class Index:
    """The references of all VMs and volumes, as of `revision`."""

    def __init__(self, store: contract.Store) -> None:
        self._store = store
        self._watch: contract.Watch | None = None
        self._catching_up = asyncio.Lock()
        self.claim = asyncio.Lock()
        """Held by a request that asks for something that only one may have, until that is written."""
        self.revision = 0
        self.vms: dict[str, Uses] = {}
        self.volumes: dict[str, Copy] = {}
        self.macs: dict[str, str] = {}
        self.smbios_uuids: dict[str, str] = {}
        self.users: dict[str, str] = {}  # of volumes
        self.ground = Held()

    async def fresh(self) -> Index:
        """This index, as of a revision that is no older than the call. Raises errors.TimedOut."""
        newest = await self._store.revision()
        if self.revision < newest:
            try:
                async with asyncio.timeout(_BOUND), self._catching_up:
                    await self._carry_on(newest)
            except TimeoutError as error:
                raise errors.TimedOut(what="the store", bound=_BOUND) from error
        return self

    async def close(self) -> None:
        """End the watch."""
        if self._watch:
            await self._watch.aclose()
            self._watch = None

    def keeper(self, volume: str) -> str | None:
        """The VM that a volume lies with, be it a disk of it or not, by name."""
        held = self.volumes.get(volume)
        return self.vms[held.vm].name if held and held.vm in self.vms else None

    def users_of_image(self, image: ground.Image) -> list[str]:
        """The VMs, and the volumes without one, that are linked to an image or have it in a CD drive."""
        linked = (
            self.vms[one.vm].name if one.vm in self.vms else one.name
            for one in self.volumes.values()
            if one.image == image.spec.sha256 and one.storage == image.spec.storage
        )
        return sorted({*linked, *(one.name for one in self.vms.values() if image.uid in one.images)})

    def users_of_network(self, uid: str) -> list[str]:
        """The VMs with a NIC on it, by name."""
        return [one.name for one in self.vms.values() if uid in one.networks]

    def users_of_group(self, project: str, name: str) -> list[str]:
        """The VMs with a NIC that refers to a firewall group, by name."""
        return [one.name for one in self.vms.values() if one.project == project and name in one.groups]

    def users_of_storage(self, uid: str) -> list[str]:
        """The VMs and the volumes that lie on it, by name."""
        volumes = (one.name for one in self.volumes.values() if one.storage == uid)
        return [*(one.name for one in self.vms.values() if one.storage == uid), *volumes]

    def provisioned(self, storage: str) -> int:
        """What the volumes on a storage may grow to, in bytes; without those in the trash, which nobody writes."""
        trashed = {uid for uid, one in self.vms.items() if one.deleted}
        return sum(one.size for one in self.volumes.values() if one.storage == storage and one.vm not in trashed)

    async def _carry_on(self, newest: int) -> None:
        if self._watch is None:
            await self._read()
        while self.revision < newest:
            assert self._watch
            try:
                changes = await anext(self._watch)
            except contract.Compacted:
                await self._read()
                continue
            self._take(changes)

    async def _read(self) -> None:
        await self.close()
        pages = [await self._store.list(keys.prefix(_KINDS[0]))]
        pages += [await self._store.list(keys.prefix(kind), at=pages[0].revision) for kind in _KINDS[1:]]
        for held in (self.vms, self.volumes, self.macs, self.smbios_uuids, self.users):
            held.clear()
        self.ground.clear()
        for page in pages:
            for entry in page.entries:
                self._put(entry)
        self.revision = pages[0].revision
        self._watch = self._store.watch(keys.ALL, since=self.revision)

    def _take(self, changes: Iterable[contract.Change]) -> None:
        for change in changes:
            self.revision = max(self.revision, change.revision)
            kind = keys.kind_of(change.key)
            if kind not in _KINDS:
                continue
            if kind in _GROUND and change.entry is None:
                self.ground.forget(change.key)
            elif change.entry:
                self._put(change.entry)
            elif change.key.endswith("/spec"):
                self._forget(keys.uid_of(change.key))

    def _put(self, entry: contract.Entry) -> None:
        kind, uid = keys.kind_of(entry.key), keys.uid_of(entry.key)
        try:
            if kind in _GROUND:
                self.ground.put(entry)
            elif entry.key.endswith("/spec"):
                self._read_one(kind, uid, json.loads(entry.value))
        except (ValueError, KeyError, TypeError):
            self._forget(uid)  # a damaged record: whoever reads it is told so

    def _read_one(self, kind: str, uid: str, document: dict[str, Any]) -> None:
        if kind == vm.VM.kind:
            self._forget(uid)
            self._enter(uid, _uses(document))
        else:
            metadata, spec = document["metadata"], document["spec"]
            linked = spec.get("image") if spec.get("linked") else None
            self.volumes[uid] = Copy(
                name=metadata["name"],
                image=linked,
                storage=spec["storage"],
                vm=spec.get("vm"),
                size=units.Size.parse(spec["size"]),
            )

    def _enter(self, uid: str, uses: Uses) -> None:
        self.vms[uid] = uses
        self.macs.update(dict.fromkeys(uses.macs, uses.name))
        self.users.update(dict.fromkeys(uses.volumes, uses.name))
        self.smbios_uuids[uses.smbios_uuid] = uses.name

    def _forget(self, uid: str) -> None:
        self.volumes.pop(uid, None)
        if uses := self.vms.pop(uid, None):
            for held, values in (
                (self.macs, uses.macs),
                (self.users, uses.volumes),
                (self.smbios_uuids, (uses.smbios_uuid,)),
            ):
                for value in values:
                    held.pop(value, None)


def _uses(document: dict[str, Any]) -> Uses:
    metadata, spec = document["metadata"], document["spec"]
    return Uses(
        name=metadata["name"],
        project=metadata["project"],
        deleted=metadata.get("deleted") is not None,
        macs=tuple(nic["mac"] for nic in spec["nics"]),
        smbios_uuid=spec["hardware"]["smbios"]["uuid"],
        volumes=tuple(disk["volume"] for disk in spec["disks"]),
        images=tuple(filter(None, (*(cd["image"] for cd in spec["cds"]), spec.get("rescue")))),
        networks=tuple(nic["network"] for nic in spec["nics"]),
        groups=tuple(group for nic in spec["nics"] for group in nic.get("firewall", ())),
        storage=spec["storage"],
    )
