"""Typed resources over the key-value store: read, list, change, and write several in one transaction."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

from bocage import errors
from bocage.model import base, keys
from bocage.model import vm as vm_model
from bocage.store import contract
from bocage.words import N_

R = TypeVar("R", bound=base.Resource[Any, Any])

_TRIES = 20  # of a read-change-write that others get in the way of
_MOST_KNOWN = 256  # resources that are kept decoded
_KEYS_PER_RESOURCE = 3  # owner, spec, status
_ON_READING = {"revision", "status_revision"}


class Error(errors.Problem):
    """Anything that goes wrong with resources."""


class Missing(Error, errors.NotFound):
    type = "not-found"
    text = N_("there is no {kind:kind} named {name}")
    hint = N_("'bocage {kind} list' shows what there is")
    kind: str
    name: str


class NameTaken(Error, errors.Conflict):
    type = "name-taken"
    text = N_("the name {name} is taken by another {kind:kind}")
    hint = N_("choose another name; 'bocage {kind} list' shows those that are taken")
    kind: str
    name: str


class Changed(Error, errors.Conflict):
    """It is not the revision that the writer had read (RFC 9110, If-Match)."""

    type = "changed-meanwhile"
    status = 412
    text = N_("{kind:kind} {name} was changed meanwhile (it is at revision {found}, not {expected})")
    hint = N_("read it again and repeat the change")
    kind: str
    name: str
    expected: int
    found: int


class Damaged(Error):
    """What the store holds for a resource cannot be read."""

    type = "resource-damaged"
    text = N_("the store's record {key} cannot be read: {reason}")
    key: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Listing(Generic[R]):
    """Some resources as of `revision`; `after` continues the list, None at its end."""

    items: list[R]
    revision: int
    after: str | None


@dataclasses.dataclass(slots=True)
class Transaction:
    """Writes that happen together or not at all."""

    compare: dict[str, int] = dataclasses.field(default_factory=dict)
    puts: dict[str, bytes] = dataclasses.field(default_factory=dict)
    deletes: list[str] = dataclasses.field(default_factory=list)
    about: dict[str, base.Resource[Any, Any]] = dataclasses.field(default_factory=dict)

    def create(self, resource: base.Resource[Any, Any]) -> None:
        """Add a new resource; its name must be free."""
        place = _place(resource)
        self._spec(resource, expected=0)
        self.puts[keys.status(*place)] = _status_document(resource.status)
        if resource.named and not resource.metadata.deleted:
            self._name(resource, resource.name)

    def update(self, resource: base.Resource[Any, Any]) -> None:
        """Write metadata and spec of a resource that was read at `metadata.revision`."""
        self._spec(resource, expected=resource.metadata.revision)

    def expect(self, resource: base.Resource[Any, Any]) -> None:
        """Write nothing unless metadata and spec of a resource are as they were read."""
        key = keys.spec(*_place(resource))
        self.about[key] = resource
        self.compare[key] = resource.metadata.revision

    def set_status(self, resource: base.Resource[Any, Any], status: base.Part) -> None:
        """Write the status of a resource that was read at `metadata.status_revision`."""
        key = keys.status(*_place(resource))
        self.about[key] = resource
        self.compare[key] = resource.metadata.status_revision
        self.puts[key] = _status_document(status)

    def rename(self, resource: base.Resource[Any, Any], name: str) -> None:
        """Give a new name; only metadata and the name index change."""
        self.release_name(resource)
        self.update(with_metadata(resource, name=name))
        self._name(resource, name)

    def release_name(self, resource: base.Resource[Any, Any]) -> None:
        """Make the name free for another."""
        self.deletes.append(keys.name(resource.kind, resource.metadata.project, resource.name))

    def take_name(self, resource: base.Resource[Any, Any]) -> None:
        """Enter a resource that has no name entry into the name index."""
        self._name(resource, resource.name)

    def delete(self, resource: base.Resource[Any, Any]) -> None:
        """Remove the resource and all its keys, as it was read."""
        place = _place(resource)
        self.compare[keys.spec(*place)] = resource.metadata.revision
        self.about[keys.spec(*place)] = resource
        self.deletes += [keys.spec(*place), keys.status(*place)]
        if resource.kind == vm_model.VM.kind:
            self.deletes.append(keys.base(*place) + "owner")
        if resource.named and not resource.metadata.deleted:
            self.release_name(resource)

    def set_owner(self, vm: vm_model.VM, owner: vm_model.Owner, *, expected: int) -> None:
        """Write a VM's owner record, which is at store revision `expected` (0: there is none)."""
        key = keys.owner(vm.metadata.project or "", vm.uid)
        self.compare[key] = expected
        self.puts[key] = owner.model_dump_json().encode()
        self.about[key] = vm

    def _spec(self, resource: base.Resource[Any, Any], *, expected: int) -> None:
        key = keys.spec(*_place(resource))
        self.compare[key] = expected
        self.about[key] = resource
        self.puts[key] = _spec_document(resource)

    def _name(self, resource: base.Resource[Any, Any], label: str) -> None:
        key = keys.name(resource.kind, resource.metadata.project, label)
        if key in self.deletes:
            self.deletes.remove(key)  # renamed to what it was called
            return
        self.compare[key] = 0
        self.puts[key] = resource.uid.encode()
        self.about[key] = with_metadata(resource, name=label)


class Resources:
    """All resources of one store."""

    def __init__(self, store: contract.Store) -> None:
        self.store = store
        self._known: dict[str, tuple[tuple[int, int], Any]] = {}

    async def get(self, cls: type[R], project: str | None, uid: str) -> R:
        """By uid; raises Missing."""
        place = (cls.kind, project, uid)
        page = await self.store.list(keys.base(*place))
        if not (found := list(self._assemble(cls, page.entries))):
            raise Missing(kind=cls.kind, name=uid)
        return found[0]

    async def find(self, cls: type[R], project: str | None, name: str) -> R:
        """By name or by uid; raises Missing."""
        entry = await self.store.get(keys.name(cls.kind, project, name)) if _is_label(name) else None
        try:
            return await self.get(cls, project, entry.value.decode() if entry else name if _is_label(name) else "-")
        except Missing:
            raise Missing(kind=cls.kind, name=name) from None

    async def list(
        self,
        cls: type[R],
        project: str | None = None,
        *,
        limit: int | None = None,
        after: str | None = None,
        at: int | None = None,
        trash: bool = False,
        holding: str | None = None,
    ) -> Listing[R]:
        """Resources of a kind, of one project or of all, by uid; `trash`: those that were deleted, too.

        With `holding`, a uid, only those whose spec has it somewhere: the others cost next to nothing.
        """
        page = await self.store.list(
            keys.prefix(cls.kind, project),
            limit=None if limit is None else (limit + 1) * _KEYS_PER_RESOURCE,
            after=after,
            at=at,
        )
        entries, more = page.entries, page.after
        if limit is not None:
            groups = _groups(entries)
            whole = groups[:-1] if more and len(groups) <= limit else groups
            kept = whole[:limit]
            entries = [entry for group in kept for entry in group]
            more = entries[-1].key if entries and (len(whole) > limit or more) else None
        items = [one for one in self._assemble(cls, entries, holding) if trash or not one.metadata.deleted]
        return Listing(items, page.revision, more)

    def _assemble(self, cls: type[R], entries: Iterable[contract.Entry], holding: str | None = None) -> Iterator[R]:
        wanted = holding.encode() if holding else b""
        for group in _groups(entries):
            parts = {entry.key.rsplit("/", 1)[1]: entry for entry in group}
            if "spec" in parts and wanted in parts["spec"].value:
                yield self._decoded(cls, parts["spec"], parts.get("status"), parts.get("owner"))

    def _decoded(
        self, cls: type[R], spec: contract.Entry, status: contract.Entry | None, owner: contract.Entry | None
    ) -> R:
        """As `decode`; what is large and read over and over is decoded once. Resources do not change."""
        if not cls.kept_decoded:
            return decode(cls, spec, status, owner)
        revisions = (spec.revision, status.revision if status else 0)
        known = self._known.pop(spec.key, None)
        if known is None or known[0] != revisions:
            known = (revisions, decode(cls, spec, status, owner))
        self._known[spec.key] = known
        if len(self._known) > _MOST_KNOWN:
            self._known.pop(next(iter(self._known)))
        found: R = known[1]
        return found

    async def commit(self, transaction: Transaction) -> int:
        """Write it; raises NameTaken, Changed, Missing, or what the store raises."""
        try:
            return await self.store.apply(
                compare=transaction.compare, puts=transaction.puts, deletes=transaction.deletes
            )
        except contract.Mismatch as mismatch:
            resource = transaction.about.get(mismatch.key)
            if resource is None:
                raise
            if mismatch.key.startswith(keys.ROOT + "/name/"):
                raise NameTaken(kind=resource.kind, name=resource.name) from mismatch
            if mismatch.found == 0:
                raise Missing(kind=resource.kind, name=resource.name) from mismatch
            raise Changed(
                kind=resource.kind, name=resource.name, expected=mismatch.expected, found=mismatch.found
            ) from mismatch

    async def create(self, *resources: base.Resource[Any, Any]) -> None:
        """Add resources, all or none."""
        transaction = Transaction()
        for resource in resources:
            transaction.create(resource)
        await self.commit(transaction)

    async def delete(self, resource: base.Resource[Any, Any]) -> None:
        """Remove a resource that is as it was read; raises Changed."""
        transaction = Transaction()
        transaction.delete(resource)
        await self.commit(transaction)

    async def change(
        self, cls: type[R], project: str | None, uid: str, how: Callable[[R], R | None], *, expected: int | None = None
    ) -> R:
        """Read, change the spec or the metadata, write; repeated when others were in between.

        Nothing is written when `how` returns the same, or None. `expected` is the revision that the asker had read.
        Raises Missing, Changed.
        """
        for _ in range(_TRIES):
            present = await self.get(cls, project, uid)
            if expected is not None and present.metadata.revision != expected:
                raise Changed(kind=cls.kind, name=present.name, expected=expected, found=present.metadata.revision)
            wanted = how(present)
            if wanted is None or wanted == present:
                return present
            wanted = bumped(present, wanted)
            transaction = Transaction()
            transaction.update(wanted)
            try:
                revision = await self.commit(transaction)
            except contract.Unsettled:
                settled = await self.get(cls, project, uid)
                if _is_as(settled, wanted):
                    return settled
                continue
            except Changed:
                if expected is not None:
                    raise
                continue
            return with_metadata(wanted, revision=revision)
        raise errors.TimedOut(what=f"{cls.kind} {uid}", bound=0.0)

    async def change_status(
        self,
        cls: type[R],
        project: str | None,
        uid: str,
        how: Callable[[R], base.Part | None],
        *,
        also: Iterable[base.Resource[Any, Any]] = (),
    ) -> R:
        """Read, make the new status, write; repeated when others were in between. Raises Missing.

        `also` is created with it: what tells of the change, such as an event.
        """
        for _ in range(_TRIES):
            present = await self.get(cls, project, uid)
            status = how(present)
            if status is None or status == present.status:
                return present
            transaction = Transaction()
            transaction.set_status(present, status)
            for resource in also:
                transaction.create(resource)
            try:
                revision = await self.commit(transaction)
            except (Changed, contract.Unsettled):  # whether it was written is seen by reading it again
                continue
            return with_metadata(present.model_copy(update={"status": status}), status_revision=revision)
        raise errors.TimedOut(what=f"{cls.kind} {uid}", bound=0.0)

    async def owner(self, vm: vm_model.VM) -> tuple[vm_model.Owner | None, int]:
        """A VM's owner record and its store revision (None, 0 when nobody owns it)."""
        entry = await self.store.get(keys.owner(vm.metadata.project or "", vm.uid))
        return (vm_model.Owner.model_validate_json(entry.value), entry.revision) if entry else (None, 0)


def with_metadata(resource: R, **changes: Any) -> R:
    """The resource with other metadata."""
    return resource.model_copy(update={"metadata": resource.metadata.model_copy(update=changes)})


def with_spec(resource: R, **changes: Any) -> R:
    """The resource with other fields in its spec, validated again."""
    spec = type(resource.spec).model_validate({**dict(resource.spec), **changes})
    return resource.model_copy(update={"spec": spec})


def bumped(before: R, after: R) -> R:
    """`after` with its generation raised when its spec is another than before."""
    if after.spec == before.spec:
        return after
    return with_metadata(after, generation=before.metadata.generation + 1)


def _is_as(found: base.Resource[Any, Any], wanted: base.Resource[Any, Any]) -> bool:
    """Whether metadata and spec are those that were to be written."""
    return _spec_document(found) == _spec_document(wanted)


def _place(resource: base.Resource[Any, Any]) -> tuple[str, str | None, str]:
    return resource.kind, resource.metadata.project, resource.uid


def _is_label(name: str) -> bool:
    return 0 < len(name) <= 63 and all(c.isascii() and (c.isalnum() or c == "-") for c in name)


def _spec_document(resource: base.Resource[Any, Any]) -> bytes:
    document = resource.model_dump(mode="json", include={"metadata", "spec"})
    for field in _ON_READING:
        document["metadata"].pop(field)
    return json.dumps(document, separators=(",", ":")).encode()


def _status_document(status: base.Part) -> bytes:
    return status.model_dump_json(exclude_defaults=True).encode()


def _groups(entries: Iterable[contract.Entry]) -> list[list[contract.Entry]]:
    groups: list[list[contract.Entry]] = []
    for entry in entries:
        stem = entry.key.rsplit("/", 1)[0]
        if groups and groups[-1][0].key.rsplit("/", 1)[0] == stem:
            groups[-1].append(entry)
        else:
            groups.append([entry])
    return groups


def decode(cls: type[R], spec: contract.Entry, status: contract.Entry | None, owner: contract.Entry | None = None) -> R:
    """A resource from what the store holds; raises Damaged."""
    try:
        document = json.loads(spec.value)
        document["metadata"]["revision"] = spec.revision
        if status:
            document["metadata"]["status_revision"] = status.revision
            document["status"] = json.loads(status.value)
        if owner:
            record = json.loads(owner.value)
            document.setdefault("status", {}).update(host=record["host"], owner_generation=record["generation"])
        return cls.model_validate(document)
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(key=spec.key, reason=str(error)) from error
