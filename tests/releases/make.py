"""Makes a home as this release leaves it, which every later one must open: `python -m tests.releases.make`.

Run once when a release is made, as root; it writes `VERSION.tar.zst` beside this file.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pathlib
import subprocess
from collections.abc import Iterator

import pytest

import bocage
from bocage import home
from bocage.model import work
from tests.node.conftest import clear
from tests.node.house import BLANK, House

HERE = pathlib.Path(__file__).parent
AT = pathlib.Path("/var/tmp/bocage-release")
"""Storage is known by its absolute path, so each such home lies in the same place, one at a time."""
TITLE = "kept over releases"


@contextlib.contextmanager
def place() -> Iterator[home.Home]:
    """The place, empty and ours alone; at the end nothing is left of it."""
    with contextlib.ExitStack() as undo, pytest.MonkeyPatch.context() as patch:
        lock = os.open(AT.parent, os.O_RDONLY)  # a file of its own would be left behind
        undo.callback(os.close, lock)
        fcntl.flock(lock, fcntl.LOCK_EX)
        patch.setenv("BOCAGE_HOME", str(AT))
        homes = home.Home.from_environment()
        clear(homes)
        AT.mkdir(mode=0o711)
        try:
            yield homes
        finally:
            clear(homes)


async def fill(homes: home.Home) -> None:
    """One of each: a VM that is blank, one that is linked with a disk more, one in the trash, an image, a storage."""
    house = await House(homes).open()
    try:
        picture = AT / "cache" / "picture.raw"
        picture.write_bytes(b"bocage" + bytes((1 << 20) - 6))
        await house.add_image(picture, "picture")
        picture.unlink()
        await house.storage("second")
        await house.create("plain", title=TITLE, notes="a\nb", tags=["old"], **BLANK)
        nics = [{"mac": "52:54:00:12:34:56"}]
        linked = await house.create("linked", image="picture", memory="32M", nics=nics, autostart={"enabled": True})
        assert (await house.attach(linked, size="2M")).status.state is work.TaskState.DONE
        binned = await house.create("binned", **BLANK)
        assert (await house.ask("vm.delete", binned)).status.state is work.TaskState.DONE
    finally:
        await house.close()


def main() -> None:
    """Write the archive."""
    with place() as homes:
        asyncio.run(fill(homes))
        archive = HERE / f"{bocage.__version__}.tar.zst"
        subprocess.run(
            ["tar", "--create", "--zstd", "--sparse", "--numeric-owner", f"--file={archive}", "--directory", AT, "."],
            check=True,
        )
        print(archive, archive.stat().st_size)


if __name__ == "__main__":
    main()
