"""The files of a volume with snapshots: a tree in which each rests on another, and what of it nobody needs any more.

The guest writes to one of them, the tip; a snapshot's file is never written again. A file that is neither is kept
only where the tree branches.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterable, Mapping

from bocage import errors
from bocage.model import ground, snapshot
from bocage.model import vm as model
from bocage.words import N_

MOST_DEEP = 256
"""Files that one disk rests on, at most: QEMU opens each of them, and each read may have to ask them all."""

_MARK = re.compile(r"-[0-9a-f]{8}\.qcow2$")


class Error(errors.Problem):
    """A snapshot cannot be made, or gone back to."""


class TooDeep(Error, errors.Conflict):
    type = "snapshot-too-deep"
    text = N_("{disk} of {name} rests on {count} snapshots already, which is the limit")
    hint = N_("delete some: 'bocage vm snapshot list {name}'")
    name: str
    disk: str
    count: int


@dataclasses.dataclass(frozen=True, slots=True)
class Drop:
    """A file that nothing rests on and nobody needs."""

    file: str


@dataclasses.dataclass(frozen=True, slots=True)
class Merge:
    """What is in `file` goes into the one that it rests on, which takes its place."""

    file: str
    into: str


def chain(spec: ground.VolumeSpec, top: str | None = None) -> tuple[str, ...]:
    """The files that make up what `top` holds (None: what the guest sees), itself first."""
    files = [top or spec.file_name]
    while (below := spec.layers.get(files[-1])) is not None:
        files.append(below)
    return tuple(files)


def every(spec: ground.VolumeSpec) -> tuple[str, ...]:
    """All files of a volume, the one that the guest writes first."""
    return tuple(dict.fromkeys([spec.file_name, *spec.layers, *spec.layers.values()]))


def above(spec: ground.VolumeSpec, file: str) -> tuple[str, ...]:
    """The files that rest on one directly."""
    return tuple(one for one, below in spec.layers.items() if below == file)


def superfluous(spec: ground.VolumeSpec, kept: Collection[str], *, written: bool) -> Drop | Merge | None:
    """What to do next so that only the tip, the files that are `kept` and the tree's branches are left.

    While the tip is `written` it is not merged itself: then there would be a moment at which what the guest
    wrote last lies in one file or in the other, and nobody who comes after a crash could tell in which.
    """
    if spec.merging in spec.layers:
        return Merge(spec.merging, spec.layers[spec.merging])
    tip = spec.file_name
    for file in every(spec):
        if file == tip or file in kept:
            continue
        resting = above(spec, file)
        if not resting:
            return Drop(file)
        if len(resting) == 1 and not (written and resting[0] == tip):
            return Merge(resting[0], file)
    return None


def overlaid(spec: ground.VolumeSpec, name: str, *, on: str | None = None) -> dict[str, object]:
    """What changes in a volume whose guest goes on in the new file `name`.qcow2, over `on` (None: the tip)."""
    layers = {**spec.layers, f"{name}.qcow2": on or spec.file_name}
    return {"name": name, "format": ground.VolumeFormat.QCOW2, "layers": layers}


def dropped(spec: ground.VolumeSpec, file: str) -> dict[str, object]:
    """What changes in a volume when a file is given up that nothing rests on."""
    return {"layers": {one: below for one, below in spec.layers.items() if one != file}}


def merged(spec: ground.VolumeSpec, step: Merge) -> dict[str, object]:
    """What changes in a volume when a file was merged into the one below it."""
    layers = {one: step.into if below == step.file else below for one, below in spec.layers.items() if one != step.file}
    changes: dict[str, object] = {"layers": layers, "merging": None}
    if spec.file_name == step.file:
        name, _, kind = step.into.rpartition(".")
        changes |= {"name": name, "format": ground.VolumeFormat(kind)}
    return changes


def file_of(disk: str, mark: str) -> str:
    """The name, without its ending, of the file in which a disk goes on after `mark`, eight hexadecimal digits."""
    return f"{disk}-{mark}"


def disks_of(spec: ground.VolumeSpec) -> set[str]:
    """The names of the disks that a volume has been, as its files tell."""
    return {_MARK.sub("", file).partition(".")[0] for file in every(spec)}


def is_overlay(file: str) -> bool:
    """Whether a file bears a name of `file_of`."""
    return _MARK.search(file) is not None


def check_depth(machine: model.VM, volumes: Mapping[str, ground.Volume]) -> None:
    """Raise TooDeep when a disk rests on as many files as it may."""
    for disk in machine.spec.disks:
        count = len(chain(volumes[disk.volume].spec)) - 1
        if count >= MOST_DEEP:
            raise TooDeep(name=machine.name, disk=disk.name, count=count)


def lineage(
    snapshots: Iterable[snapshot.Snapshot], volumes: Mapping[str, ground.Volume]
) -> tuple[dict[str, str | None], str | None]:
    """By each snapshot the one that it came from, and the one that the VM has gone on from."""
    kept = [one for one in snapshots if one.status.state != "deleting"]
    owners = {(disk.volume, disk.file): one.uid for one in kept for disk in one.status.disks}

    def before(volume: str, file: str) -> str | None:
        held = volumes.get(volume)
        below = chain(held.spec, file)[1:] if held else ()
        return next((owners[volume, one] for one in below if (volume, one) in owners), None)

    parents = {
        one.uid: next((found for disk in one.status.disks if (found := before(disk.volume, disk.file))), None)
        for one in kept
    }
    present = (before(uid, volume.spec.file_name) for uid, volume in volumes.items())
    return parents, next((found for found in present if found), None)
