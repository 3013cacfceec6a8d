"""An archive that is written to a file, carried on after its last whole member when it broke off."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping

from bocage import files as durable
from bocage.storage import half_made, threads
from bocage.storage.archive import manifest, writing


def write(job: threads.Job, files: Mapping[str, pathlib.Path], to: pathlib.Path, level: int) -> None:
    """Write or carry on the archive `to`; blocking. Raises as `writing.write`."""
    beside = to.with_name(f".{to.name}{half_made.SUFFIX}")
    noted = Journal(to.with_name(f".{to.name}.journal{half_made.SUFFIX}"))
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "wb") as archive:
        done = noted.read(files, os.fstat(descriptor).st_size)
        end = done[-1].end if done else 0
        archive.truncate(end)
        archive.seek(end)

        def whole(packed: writing.Packed) -> None:
            archive.flush()
            os.fsync(archive.fileno())
            noted.add(dataclasses.replace(packed, end=archive.tell()))

        def sink(data: bytes) -> None:
            archive.write(data)

        writing.write(job, files, sink, level=level, done=done, whole=whole)
        archive.flush()
        os.fsync(archive.fileno())
    durable.rename_durably(beside, to)
    noted.path.unlink()


class Journal:
    """The members that are whole, one line of JSON each."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path

    def read(self, files: Mapping[str, pathlib.Path], size: int) -> list[writing.Packed]:
        """The members, from the first on, that lie within `size` bytes and whose source is as it was.

        The journal is cut off after them.
        """
        done: list[writing.Packed] = []
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []
        with contextlib.suppress(ValueError, TypeError):  # a line cut short ends the list
            for line, name in zip(lines, (manifest.CONTENTS, *files), strict=False):
                packed = writing.Packed(**json.loads(line))
                if packed.name != name or packed.end > size or not writing.unchanged(packed, files):
                    break
                done.append(packed)
        durable.write_durably(self.path, b"".join(lines[: len(done)]), mode=0o600)
        return done

    def add(self, packed: writing.Packed) -> None:
        """Note a member that is whole and on the disk."""
        with open(self.path, "ab") as file:
            file.write(json.dumps(dataclasses.asdict(packed)).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
