"""One VM's disks while it runs: those that come and go, the files that each is a chain of, other storage."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from bocage.model import vm as model


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """A part of something that is no file, in bytes."""

    node: Mapping[str, Any]  # as QEMU's block layer takes it
    offset: int
    size: int
    password: str = dataclasses.field(default="", repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class File:
    """One file of a disk's chain."""

    path: pathlib.Path
    format: str  # `qcow2` or `raw`
    own: bool = False  # whether it belongs to this one VM, not to an image that others rest on, too
    piece: Piece | None = None  # where it lies instead: then there is nothing at `path`


@dataclasses.dataclass(frozen=True, slots=True)
class Carried:
    """A disk that is carried to other files while the guest writes to it: they are there, the first of them empty."""

    disk: model.Disk
    chain: tuple[File, ...]


class Disks(Protocol):
    """Disks and CDs that come and go. Each call can be made again."""

    async def there(self, name: str) -> bool:
        """Whether the machine has a disk of this name."""
        ...

    async def attach(self, disk: model.Disk, chain: Sequence[File]) -> None:
        """Give the guest a disk; not an error when it is there."""
        ...

    async def detach(self, name: str) -> None:
        """Take a disk away; not an error when it is gone."""
        ...

    async def grow(self, name: str, size: int) -> None:
        """Make a disk larger; the guest is told. `size` in bytes."""
        ...

    async def change_cd(self, name: str, image: pathlib.Path | None) -> None:
        """Put another image into a CD drive, or none; a guest that has locked the tray is not asked."""
        ...


class Layers(Protocol):
    """The chain of files that each disk is, made longer by a snapshot and shorter by a merge."""

    async def goes_on_in(self, overlays: Mapping[str, pathlib.Path]) -> tuple[str, ...]:
        """Which of these disks, by name, are written to in these files."""
        ...

    async def go_on_in(self, disks: Sequence[model.Disk], overlays: Mapping[str, pathlib.Path]) -> None:
        """At one instant, have disks go on in empty files, by disk name, whose headers name what is written to now.

        All or none; those that do so already stay. What was written before is on the disk when this returns.
        """
        ...

    async def merge(
        self, disk: str, file: pathlib.Path, into: pathlib.Path, *, report: Callable[[int, int], None]
    ) -> None:
        """Write what a file of a disk's chain holds into the one below it, and leave it out of the chain then.

        Not the file that the guest writes to. One that is merged already, or not in the chain, is no error.
        """
        ...

    async def stand_alone(self, disk: str, *, report: Callable[[int, int], None]) -> None:
        """Copy what a disk has of its image into the lowest file that is its own, and leave the image out then."""
        ...

    async def cease(self) -> None:
        """Break off what `merge` and `stand_alone` began and nobody waits for; each chain stays as good as it was."""
        ...


class Carrying(Protocol):
    """All disks go to other storage, and the firmware's variables with them."""

    async def follow(
        self,
        mark: str,
        disks: Sequence[Carried],
        firmware: pathlib.Path | None,
        *,
        report: Callable[[int, int], None],
    ) -> None:
        """Fill other files with what disks hold, and from now on with what is written, until `go_over` or `stay`.

        Of each chain the lower files are whole already. `firmware` is a copy of the firmware's variables; `mark` is of
        eight hexadecimal digits. What an earlier attempt left goes first.
        """
        ...

    async def go_over(self, disks: Sequence[str]) -> None:
        """Have all disks go on in the other files, which hold the same: all or none. Its vCPUs must stand."""
        ...

    async def gone_over(self, mark: str, disks: Sequence[str], *, firmware: bool) -> bool | None:
        """Whether these disks are in the files of that move; None: some are and some are not."""
        ...

    async def stay(self) -> None:
        """Have nothing follow any more, and let go of the files that it does not use: the others, or the old ones."""
        ...
