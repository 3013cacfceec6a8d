"""What the kernel tells of a mirror. The real ones are in tests/server: the kernel of a container has none."""

from __future__ import annotations

import pathlib

import pytest

from bocage.model import ground
from bocage.storage import mirror


@pytest.fixture
def device(tmp_path: pathlib.Path) -> pathlib.Path:
    """As md(4) has it: two disks, both there."""
    for name in ("vdb", "vdc"):
        (tmp_path / "slaves" / name).mkdir(parents=True)
        (tmp_path / "md" / f"dev-{name}").mkdir(parents=True)
        (tmp_path / "md" / f"dev-{name}" / "state").write_text("in_sync\n")
    tell(tmp_path, raid_disks="2", degraded="0", sync_action="idle", sync_completed="none")
    return tmp_path


def tell(device: pathlib.Path, **told: str) -> None:
    for name, value in told.items():
        (device / "md" / name).write_text(value + "\n")


def test_a_whole_mirror(device: pathlib.Path):
    assert mirror.read(device) == ground.Mirror(disks=2, working=2, members=("/dev/vdb", "/dev/vdc"))


def test_one_whose_first_filling_goes_on_lacks_nothing(device: pathlib.Path):
    tell(device, sync_action="resync", sync_completed="10 / 100")
    found = mirror.read(device)
    assert found is not None
    assert (found.working, found.rebuilt_percent) == (2, None)


def test_one_that_lacks_a_disk(device: pathlib.Path):
    tell(device, degraded="1")
    (device / "md" / "dev-vdc" / "state").write_text("faulty,write_error\n")
    assert mirror.read(device) == ground.Mirror(disks=2, working=1, members=("/dev/vdb",))


@pytest.mark.parametrize(("completed", "percent"), [("512 / 2048", 25), ("delayed", None), ("none", None)])
def test_one_that_fills_another(device: pathlib.Path, completed: str, percent: int | None):
    tell(device, degraded="1", sync_action="recover", sync_completed=completed)
    found = mirror.read(device)
    assert found is not None
    assert (found.working, found.members, found.rebuilt_percent) == (1, ("/dev/vdb", "/dev/vdc"), percent)


def test_any_other_device_is_none(tmp_path: pathlib.Path):
    assert mirror.read(tmp_path) is None
    assert mirror.look(tmp_path) is None
