"""The user ids that VMs' processes run under: no two VMs of this machine have the same, whatever home they are of."""

import os
import pathlib

import pytest

from bocage.node.place import uids

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give others' ids away")


def directories(home: pathlib.Path) -> list[pathlib.Path]:
    made = [home / "vms" / name for name in ("one", "two")]
    for path in made:
        path.mkdir(parents=True)
    return made


def of(home: pathlib.Path, paths: list[pathlib.Path]) -> list[int]:
    given = uids.Uids(home)
    found = [given.of(path.name, path, [home / "vms"]) for path in paths]
    return [one for one in found if one is not None]


def test_vms_of_one_home_and_of_two_have_ids_of_their_own(tmp_path: pathlib.Path):
    homes = [tmp_path / "a", tmp_path / "b"]
    given = [one for home in homes for one in of(home, directories(home))]
    assert len(set(given)) == 4
    assert all(uids.FIRST <= one < 2**31 for one in given)


def test_an_id_stays_where_the_log_bears_it_and_one_of_another_home_does_not(tmp_path: pathlib.Path):
    one, two = directories(tmp_path)
    first, second = of(tmp_path, [one, two])
    for path, owner in ((one, second), (two, 1000)):
        (path / "serial.log").touch()
        os.chown(path / "serial.log", owner, owner)
    assert of(tmp_path, [one, two]) == [second, first]
