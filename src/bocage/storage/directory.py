"""A storage is a directory with a marker, so that an empty mount point is never taken for it.

storage.yaml   the marker: version and the storage's uid
vms/UID/       a VM each
volumes/       volumes that belong to no VM
images/        the image library
incoming/      uploads that are not finished; where several hosts have the storage open, HOST/ for each
trash/UID/     VMs that were deleted, until they are purged
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import time
from typing import Any

import yaml

from bocage import errors, files, storage
from bocage.storage import half_made, images, qcow2, refusals
from bocage.words import N_

MARKER = "storage.yaml"
_VERSION = 1
_LEFT_BY_OTHERS = 86_400.0  # seconds after which what another host was making counts as left half made
_PARTS = {"vms": 0o711, "volumes": 0o711, "images": 0o711, "incoming": 0o700, "trash": 0o700}


class Gone(storage.Error, errors.Unavailable):
    """The marker is not there: the file system is not mounted, or the directory was emptied."""

    type = "storage-gone"
    text = N_("the storage at {path} is not there: it has no {marker}")
    hint = N_("is its file system mounted? Nothing was written")
    path: str
    marker: str = MARKER


class AnotherStorage(storage.Error, errors.Conflict):
    """The marker is that of another storage."""

    type = "storage-another"
    text = N_("{path} holds the storage {found}, not {wanted}")
    path: str
    found: str
    wanted: str


class NotEmpty(storage.Error, errors.Conflict):
    """A new storage would lie among files of somebody else."""

    type = "storage-directory-not-empty"
    text = N_("{path} is not empty ('{first}' is in it)")
    hint = N_("name a new or empty directory")
    path: str
    first: str


class TooNew(storage.Error, errors.Conflict):
    """It was written by a newer version, or its marker is damaged."""

    type = "storage-marker-unknown"
    text = N_("the marker {path} cannot be read: {fault}")
    path: str
    fault: str


@dataclasses.dataclass(frozen=True, slots=True)
class Capacity:
    """Bytes of the file system, bytes that may still be written, and bytes that this storage takes."""

    total: int
    free: int
    allocated: int


class Directory:
    """An opened storage. Each use first makes sure, by `present`, that it is still there.

    `host` is the uid of this host where others have it open too.
    """

    def __init__(self, root: pathlib.Path, uid: str, host: str = "") -> None:
        self.root = root
        self.uid = uid
        self._untouched = _LEFT_BY_OTHERS if host else 0.0
        self.library = images.Library(root, host=host)

    @property
    def vms(self) -> pathlib.Path:
        """The directory of the VMs' directories."""
        return self.root / "vms"

    @property
    def volumes(self) -> pathlib.Path:
        """The directory of the volumes that belong to no VM."""
        return self.root / "volumes"

    @property
    def trash(self) -> pathlib.Path:
        """The directory of deleted VMs."""
        return self.root / "trash"

    def present(self) -> None:
        """Raise Gone, AnotherStorage or TooNew unless the marker is that of this storage."""
        expect(self.root, self.uid)

    def capacity(self) -> Capacity:
        """Its sizes now; walks all its files. Raises as `present`."""
        self.present()
        known = os.statvfs(self.root)
        return Capacity(
            total=known.f_blocks * known.f_frsize,
            free=known.f_bavail * known.f_frsize,
            allocated=allocated(self.root),
        )

    def users(self, digest: str) -> list[str]:
        """Files of VMs, of the trash and of the volumes whose header names an image as their backing file."""
        self.present()
        return [str(path.relative_to(self.root)) for path in self._overlays() if _builds_on(path, digest)]

    def _overlays(self) -> list[pathlib.Path]:
        return [path for part in ("vms", "trash", "volumes") for path in sorted((self.root / part).rglob("*.qcow2"))]

    def sweep(self, *, keep_uploads: float = 7 * 86400.0) -> list[str]:
        """Remove what a crash left half made, before anything else is done here; the names that went.

        Unfinished uploads stay for `keep_uploads` seconds, and what another host may be making for a day.
        Raises as `present`.
        """
        self.present()
        swept = [f"incoming/{name}" for name in self.library.intake.sweep(keep_uploads)]
        for part, depth in (("images", 0), ("volumes", 1), ("vms", 2), ("trash", 2)):
            swept += [
                f"{part}/{name}" for name in half_made.sweep(self.root / part, depth=depth, untouched=self._untouched)
            ]
        swept += [f"images/{name}" for name in self.library.sweep(untouched=self._untouched)]
        return swept


def create(root: pathlib.Path, uid: str, host: str = "") -> Directory:
    """Make a storage in a new or empty directory; one of this uid that is there already is opened.

    Raises NotEmpty, AnotherStorage, TooNew, OSError.
    """
    root.mkdir(mode=0o711, parents=True, exist_ok=True)
    if not (root / MARKER).exists():
        strangers = sorted(name for name in os.listdir(root) if name not in _PARTS and not _ours_in_the_making(name))
        if strangers:
            raise NotEmpty(path=str(root), first=strangers[0])
    else:
        expect(root, uid)
    _make_parts(root, host)
    if not (root / MARKER).exists():
        # the marker comes last: what has it is whole
        document = {"version": _VERSION, "uid": uid, "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        files.write_durably(root / MARKER, yaml.safe_dump(document, sort_keys=False))
    return Directory(root, uid, host)


def open(root: pathlib.Path, uid: str | None = None, host: str = "") -> Directory:  # noqa: A001 - the word for it
    """Open a storage, of this uid where it is known. Raises Gone, AnotherStorage, TooNew."""
    found = uid_at(root)
    if uid is not None and found != uid:
        raise AnotherStorage(path=str(root), found=found, wanted=uid)
    _make_parts(root, host)
    return Directory(root, found, host)


def uid_at(root: pathlib.Path) -> str:
    """The uid of the storage at `root`. Raises Gone and TooNew."""
    marker = root / MARKER
    try:
        document: Any = yaml.safe_load(marker.read_text())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Gone(path=str(root)) from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise TooNew(path=str(marker), fault=str(error)) from error
    if not isinstance(document, dict) or not isinstance(document.get("uid"), str):
        raise TooNew(path=str(marker), fault="it has no uid")
    if document.get("version") != _VERSION:
        raise TooNew(path=str(marker), fault=f"its version is {document.get('version')}")
    return str(document["uid"])


def allocated(root: pathlib.Path) -> int:
    """Bytes that the files below a directory take; a file with several names counts once."""
    total, seen = 0, set[tuple[int, int]]()
    for directory, _, names in os.walk(root):
        for name in names:
            try:
                known = os.lstat(os.path.join(directory, name))
            except FileNotFoundError:
                continue  # removed while we walked
            if known.st_nlink == 1 or (known.st_dev, known.st_ino) not in seen:
                seen.add((known.st_dev, known.st_ino))
                total += known.st_blocks * 512
    return total


def _make_parts(root: pathlib.Path, host: str) -> None:
    for part, mode in _PARTS.items():
        (root / part).mkdir(mode=mode, exist_ok=True)
    (root / "incoming" / host).mkdir(mode=_PARTS["incoming"], exist_ok=True)


def expect(root: pathlib.Path, uid: str) -> None:
    """Raise Gone, AnotherStorage or TooNew unless the storage of this uid is at `root`."""
    found = uid_at(root)
    if found != uid:
        raise AnotherStorage(path=str(root), found=found, wanted=uid)


def _ours_in_the_making(name: str) -> bool:
    return name == "lost+found" or name.endswith(half_made.SUFFIX)


def _builds_on(path: pathlib.Path, digest: str) -> bool:
    try:
        backing = qcow2.read_header(path).backing
    except refusals.Refused:
        return False
    return backing is not None and pathlib.PurePath(backing).name.startswith(f"{digest}.")
