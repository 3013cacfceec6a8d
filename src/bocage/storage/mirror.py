"""Two disks that hold the same, by Linux's md (md(4), mdadm(8)).

An array bears the uid of its storage, and is found by it whatever the disks are called by then.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import uuid
from collections.abc import Sequence

from bocage import errors, process, storage
from bocage.model import ground
from bocage.storage import devices
from bocage.words import N_

_BOUND = 900.0  # seconds
_SYSFS = pathlib.Path("/sys/dev/block")


class NoMirror(storage.Error, errors.Conflict):
    """It was not made of two disks."""

    type = "storage-not-mirrored"
    text = N_("storage {name} is no mirror: there is nothing that another disk could be put in for")
    hint = N_("'bocage storage create NAME --disk DEVICE --mirror DEVICE' makes one")
    name: str


class Whole(storage.Error, errors.Conflict):
    """No disk of it is missing."""

    type = "storage-mirror-whole"
    text = N_("storage {name} lacks no disk: {disks} hold the same")
    hint = N_("a disk that is about to fail is told to with 'mdadm --fail', and another put in then")
    name: str
    disks: str


async def make(uid: str, disks: Sequence[str]) -> str:
    """The path of an array of the disks; one that was made before and was cut off is taken."""
    if there := await _found(uid):
        return there.device
    array = _name(uid)
    await process.run(
        "mdadm", "--create", array, "--run", "--level=1", f"--raid-devices={len(disks)}", "--metadata=1.2",
        "--bitmap=internal", f"--uuid={_words(uid)}", *disks, within=_BOUND,
    )  # fmt: skip
    return array


async def assemble(uid: str) -> None:
    """Have the array of a storage be there, with those of its disks that are. Raises process.Failed."""
    there = await _found(uid)
    if there and not there.runs:  # the system waits for a disk that is missing
        await process.run("mdadm", "--run", there.device, within=_BOUND)
    elif not there:
        await process.run("mdadm", "--assemble", _name(uid), f"--uuid={_words(uid)}", "--run", within=_BOUND)


async def stop(uid: str) -> None:
    """Let go of the disks of an array that nobody uses; what lies on them stays. Raises process.Failed."""
    if there := await _found(uid):
        await process.run("mdadm", "--stop", there.device, within=_BOUND)


def look(root: pathlib.Path, sysfs: pathlib.Path = _SYSFS) -> ground.Mirror | None:
    """How the mirror is whose file system is mounted at `root`; None for what lies on none."""
    device = os.stat(root).st_dev
    return read(sysfs / f"{os.major(device)}:{os.minor(device)}")


def read(device: pathlib.Path) -> ground.Mirror | None:
    """A mirror as the kernel tells of it in the directory of its device (md(4), "KERNEL INTERFACE")."""
    told = device / "md"
    try:
        disks, missing, doing, done = (
            (told / name).read_text().strip() for name in ("raid_disks", "degraded", "sync_action", "sync_completed")
        )
    except FileNotFoundError:
        return None
    present = sorted(path.name for path in (device / "slaves").iterdir() if _works(told / f"dev-{path.name}" / "state"))
    copied, _, of = done.partition(" / ")
    share = int(copied) / int(of) if doing == "recover" and copied.isdigit() and of.isdigit() and int(of) else None
    return ground.Mirror(
        disks=int(disks),
        working=int(disks) - int(missing),
        members=tuple(f"/dev/{name}" for name in present),
        rebuilt_percent=None if share is None else int(share * 100),
    )


def _works(state: pathlib.Path) -> bool:
    try:
        return not {"faulty", "blocked"} & set(state.read_text().strip().split(","))
    except FileNotFoundError:
        return False


async def put_in(uid: str, disk: str) -> None:
    """Have a disk take the place of one that is missing. Can be cut off anywhere and done again.

    One that was part of it before takes up where it was left; any other must be empty. Raises devices.NotEmpty,
    devices.NotADisk, process.Failed.
    """
    there = await _found(uid)
    array = there.device if there else _name(uid)
    for gone in ("failed", "detached"):
        await process.run("mdadm", "--manage", array, "--remove", gone, within=_BOUND)
    if not await _was_part_of(uid, disk):
        await devices.check_empty(disk)
    await process.run("mdadm", "--manage", array, "--add", disk, within=_BOUND)


async def _was_part_of(uid: str, disk: str) -> bool:
    """Whether it bears the mark of this array."""
    try:
        said = await process.run("mdadm", "--examine", "--export", disk, within=_BOUND)
    except process.Failed:
        return False
    return f"MD_UUID={_words(uid)}" in said.decode().splitlines()


@dataclasses.dataclass(frozen=True, slots=True)
class _There:
    device: str
    runs: bool


async def _found(uid: str) -> _There | None:
    """The array where the kernel has it; what the system put together as it booted, it called as it likes."""
    known = (await process.run("mdadm", "--detail", "--scan", within=_BOUND)).decode()
    for kind, device, *told in (line.split() for line in known.splitlines() if line):
        if f"UUID={_words(uid)}" in told:
            return _There(device, runs=kind != "INACTIVE-ARRAY")
    return None


def _name(uid: str) -> str:
    """What we call one that we make or put together."""
    return f"/dev/md/bocage-{uid[:8]}"


def _words(uid: str) -> str:
    """The uid as mdadm writes one: four words of eight digits."""
    digits = uuid.UUID(uid).hex
    return ":".join(digits[at : at + 8] for at in range(0, 32, 8))
