"""A VM is a directory: `vm.yaml`, the store's image of it, beside its disks, firmware variables, seed and logs.

    vm.yaml            definition, complete: lose the database, and `adopt` brings the VM back
    disks/NAME.qcow2   its volumes
    firmware-vars.fd   UEFI variables
    tpm.state          what the TPM keeps
    seed.iso           what cloud-init reads
    serial.log         the serial line's log
    qemu.log           QEMU's own words
    start-by-hand      the QEMU line, for the day when Bocage is gone
    saved.state        its memory, while it is saved
    saved.json         the machine that this memory fits
    snapshots/         the memory of its snapshots, and the machine that each fits: UID.state, UID.json

The last line of `vm.yaml` is a digest of the lines above it: so a hand edit is seen.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import re
from typing import Any

import pydantic
import yaml

from bocage import errors, files, words
from bocage.model import faults, firewall, ground, snapshot
from bocage.model import vm as model
from bocage.storage import half_made
from bocage.words import N_

_DIGEST = re.compile(rb"^# written by Bocage, digest ([0-9a-f]{16})\n?\Z", re.MULTILINE)
_LIMIT = 4 << 20  # bytes; no definition comes near it
_MOST_RENDERED = 512  # snapshots whose text is kept, of some 3 KiB each
_HEADER = (
    "# What this virtual machine is. Edit it and run 'bocage vm diff {name}', then 'bocage vm apply {name}':\n"
    "# until then Bocage goes by its own store.\n"
)


class Error(errors.Problem):
    """Anything that goes wrong with a VM's directory."""


class Unreadable(Error, errors.Invalid):
    """The definition is no definition: cut off, not YAML, fields missing or wrong."""

    type = "vm-yaml-unreadable"
    text = N_("{path} cannot be read as a VM's definition: {reason}")
    hint = N_("an older one may lie beside it as vm.yaml.before")
    path: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Held:
    """What a definition file holds."""

    vm: model.VM
    volumes: tuple[ground.Volume, ...]
    names: dict[str, str]  # names of what it refers to, by uid: networks, storage, images
    owner: model.Owner | None
    networks: tuple[ground.Network, ...] = ()  # those of its NICs, as far as they are known
    groups: tuple[firewall.FirewallGroup, ...] = ()  # of firewall rules, that its NICs refer to
    snapshots: tuple[snapshot.Snapshot, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Directory:
    path: pathlib.Path

    @property
    def definition(self) -> pathlib.Path:
        return self.path / "vm.yaml"

    @property
    def edited_aside(self) -> pathlib.Path:
        """A hand edit that was not taken before the next change of the VM."""
        return self.path / "vm.yaml.edited"

    @property
    def disks(self) -> pathlib.Path:
        return self.path / "disks"

    @property
    def storage(self) -> pathlib.Path:
        """The root of the storage that it lies on."""
        return self.path.parent.parent

    @property
    def firmware_variables(self) -> pathlib.Path:
        return self.path / "firmware-vars.fd"

    @property
    def tpm_state(self) -> pathlib.Path:
        return self.path / "tpm.state"

    @property
    def seed(self) -> pathlib.Path:
        return self.path / "seed.iso"

    @property
    def serial_log(self) -> pathlib.Path:
        return self.path / "serial.log"

    @property
    def qemu_log(self) -> pathlib.Path:
        return self.path / "qemu.log"

    @property
    def by_hand(self) -> pathlib.Path:
        return self.path / "start-by-hand"

    @property
    def saved(self) -> pathlib.Path:
        return self.path / "saved.state"

    @property
    def saved_definition(self) -> pathlib.Path:
        """What the machine was built of whose memory is saved. It is written first: without `saved` it says nothing."""
        return self.path / "saved.json"

    @property
    def snapshots(self) -> pathlib.Path:
        return self.path / "snapshots"

    def memory_of(self, snapshot_uid: str) -> tuple[pathlib.Path, pathlib.Path]:
        """The memory of a snapshot, and what the machine was built of; the latter is written first."""
        return self.snapshots / f"{snapshot_uid}.state", self.snapshots / f"{snapshot_uid}.json"

    def kept_of(self, snapshot_uid: str) -> dict[pathlib.Path, pathlib.Path]:
        """Small files that the guest writes, as they were at a snapshot, by what they are now."""
        return {
            self.firmware_variables: self.snapshots / f"{snapshot_uid}.fd",
            self.tpm_state: self.snapshots / f"{snapshot_uid}.tpm",
        }

    def exists(self) -> bool:
        return self.path.is_dir()

    def make(self) -> None:
        """Make the directory and its place for disks; what is there stays."""
        self.path.parent.mkdir(mode=0o711, exist_ok=True)
        self.path.mkdir(mode=0o711, exist_ok=True)
        self.disks.mkdir(mode=0o711, exist_ok=True)
        files.sync_directory(self.path.parent)

    def write(self, held: Held) -> bool:
        """Write the definition when it is another than the file's, and say whether that was so.

        A hand edit is kept aside, never lost, until it is taken.
        """
        content = render(held)
        try:
            present = self.definition.read_bytes()
        except FileNotFoundError:
            present = b""
        if present == content:
            return not self.by_hand.exists()
        if present and is_edited(present):
            files.write_durably(self.edited_aside, present, mode=0o600)
        files.write_durably(self.definition, content, mode=0o600)
        self._drop_taken(held.vm)
        return True

    def _drop_taken(self, machine: model.VM) -> None:
        """Drop what was kept aside once the store says the same."""
        with contextlib.suppress(FileNotFoundError, Unreadable):
            if by_people(parse(_bounded(self.edited_aside), self.edited_aside).vm) == by_people(machine):
                self.edited_aside.unlink()

    def write_by_hand(self, script: str) -> None:
        """Write the script that starts the VM without Bocage, when it is another than the file's."""
        try:
            if self.by_hand.read_text() == script:
                return
        except (FileNotFoundError, UnicodeDecodeError):
            pass
        files.write_durably(self.by_hand, script, mode=0o700)

    def read(self) -> Held:
        """The definition; raises Unreadable, and FileNotFoundError when there is none."""
        return parse(_bounded(self.definition), self.definition)

    def hand_edit(self) -> tuple[pathlib.Path, bytes] | None:
        """The file that a person has edited since it was written, if one is there."""
        for path in (self.definition, self.edited_aside):
            try:
                content = _bounded(path)
            except FileNotFoundError:
                continue
            if is_edited(content):
                return path, content
        return None


def by_people(machine: model.VM) -> dict[str, Any]:
    """What of a definition people may write."""
    keep: Any = {"metadata": {"name", "title", "notes", "tags", "protected"}, "spec": True}
    return machine.model_dump(mode="json", include=keep)


def age(held: Held) -> tuple[int, int]:
    """Of two definitions of one VM the newer one has the higher one: a move raises it, and so does a new owner."""
    return held.owner.generation if held.owner else 0, held.vm.metadata.generation


def is_edited(content: bytes) -> bool:
    """Whether somebody else than `render` wrote it."""
    match = _DIGEST.search(content)
    return not match or match[1] != _digest(content[: match.start()])


def render(held: Held) -> bytes:
    """The definition as a file."""
    resource = held.vm
    metadata = resource.metadata.model_dump(mode="json", exclude={"revision", "status_revision"})
    document: dict[str, Any] = {
        "api": "bocage/1",
        "kind": "VM",
        "metadata": metadata,
        "spec": resource.spec.model_dump(mode="json"),
        "volumes": [
            {
                "metadata": volume.metadata.model_dump(mode="json", exclude={"revision", "status_revision"}),
                "spec": volume.spec.model_dump(mode="json"),
            }
            for volume in held.volumes
        ],
        "networks": [
            {
                "metadata": network.metadata.model_dump(mode="json", exclude={"revision", "status_revision"}),
                "spec": network.spec.model_dump(mode="json"),
                "status": network.status.model_dump(mode="json", include={"subnet"}),
            }
            for network in held.networks
        ],
        "names": held.names,
    }
    if held.groups:
        document["firewall_groups"] = [
            {
                "metadata": group.metadata.model_dump(mode="json", exclude={"revision", "status_revision"}),
                "spec": group.spec.model_dump(mode="json"),
            }
            for group in held.groups
        ]
    if held.owner:
        document["owner"] = held.owner.model_dump(mode="json")
    body = _HEADER.format(name=resource.name) + _yaml(document)
    if held.snapshots:
        body += "snapshots:\n" + "".join(map(_snapshot, held.snapshots))
    content = body.encode()
    return content + b"# written by Bocage, digest %s\n" % _digest(content)


def _yaml(document: Any) -> str:
    text: str = yaml.dump(document, Dumper=_dumper(), sort_keys=False, allow_unicode=True, width=100)
    return text


def _snapshot(one: snapshot.Snapshot) -> str:
    """One snapshot, as an item of the list. Of hundreds one is new each time: the others are known."""
    revisions = (one.metadata.revision, one.metadata.status_revision)
    known = _rendered.get(one.uid)
    if known is None or known[0] != revisions or not one.metadata.revision:
        document = {
            "metadata": one.metadata.model_dump(mode="json", exclude={"revision", "status_revision"}),
            "spec": one.spec.model_dump(mode="json"),
            "status": one.status.model_dump(mode="json"),
        }
        known = (revisions, _yaml([document]))
        _rendered.pop(one.uid, None)
        _rendered[one.uid] = known
        if len(_rendered) > _MOST_RENDERED:
            _rendered.pop(next(iter(_rendered)))
    return known[1]


_rendered: dict[str, tuple[tuple[int, int], str]] = {}


def parse(content: bytes, path: pathlib.Path) -> Held:
    """Read a definition; raises Unreadable with where it does not hold."""
    try:
        document = yaml.load(content, Loader=_loader())  # noqa: S506 - a safe loader, in C where there is one
        if not isinstance(document, dict) or document.get("api") != "bocage/1" or document.get("kind") != "VM":
            raise Unreadable(path=str(path), reason="it does not say 'api: bocage/1' and 'kind: VM'")
        return Held(
            vm=model.VM.model_validate({"metadata": document["metadata"], "spec": document["spec"]}),
            volumes=tuple(ground.Volume.model_validate(item) for item in document.get("volumes") or ()),
            names={str(uid): str(name) for uid, name in (document.get("names") or {}).items()},
            owner=model.Owner.model_validate(document["owner"]) if document.get("owner") else None,
            networks=tuple(_network(item) for item in document.get("networks") or ()),
            groups=tuple(firewall.FirewallGroup.model_validate(one) for one in document.get("firewall_groups") or ()),
            snapshots=tuple(snapshot.Snapshot.model_validate(item) for item in document.get("snapshots") or ()),
        )
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Unreadable(path=str(path), reason=_brief(error)) from error


def unknown(root: pathlib.Path, known: set[str]) -> list[pathlib.Path]:
    """The VM directories of a storage whose uids are not among those that are known; not what is half made."""
    try:
        names = os.listdir(root / "vms")
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(
        root / "vms" / name
        for name in names
        if name not in known and not name.endswith(half_made.SUFFIX) and (root / "vms" / name / "vm.yaml").exists()
    )


def _network(item: Any) -> ground.Network:
    """A network whose subnet, be it one that was chosen for it, is one that a person could have given."""
    network = ground.Network.model_validate(item)
    ground.NetworkSpec.model_validate({"subnet": network.status.subnet})
    return network


def _bounded(path: pathlib.Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(_LIMIT + 1)
    if len(content) > _LIMIT:
        raise Unreadable(path=str(path), reason="it is far too large")
    return content


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest()[:16].encode()


def _brief(error: Exception) -> str:
    if isinstance(error, pydantic.ValidationError):
        return words.say(faults.problem(faults.read(error.errors(include_url=False), prefix=error.title.lower())))
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return " ".join(str(error).split())[:300]


def _dumper() -> Any:
    return getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def _loader() -> Any:
    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)
