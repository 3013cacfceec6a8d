from __future__ import annotations

import asyncio
import os
import pathlib

import pytest

from bocage import files, home


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a"
    files.write_durably(path, "one", mode=0o600)
    assert path.read_text() == "one"
    assert path.stat().st_mode & 0o777 == 0o600

    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="No space"):
        files.write_durably(path, "two")
    assert path.read_text() == "one"
    assert os.listdir(tmp_path) == ["a"]


def test_a_link_is_replaced(tmp_path: pathlib.Path):
    files.link_durably(tmp_path / "l", "x")
    files.link_durably(tmp_path / "l", "y")
    assert os.readlink(tmp_path / "l") == "y"


def test_a_tree_and_a_file_and_nothing_can_be_removed(tmp_path: pathlib.Path):
    (tmp_path / "d/e").mkdir(parents=True)
    (tmp_path / "f").touch()
    for name in ("d", "f", "g"):
        files.remove_tree(tmp_path / name)
    assert os.listdir(tmp_path) == []


def test_a_link_to_a_directory_is_removed_and_not_what_it_leads_to(tmp_path: pathlib.Path):
    (tmp_path / "d").mkdir()
    (tmp_path / "l").symlink_to("d")
    files.remove_tree(tmp_path / "l")
    assert os.listdir(tmp_path) == ["d"]


def test_the_identity_of_a_home_is_made_once_and_a_damaged_one_is_refused(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("BOCAGE_HOME", str(tmp_path))
    made = home.Home.from_environment()
    first = made.identity()
    assert made.identity() == first
    (tmp_path / "host.json").write_text("{")
    with pytest.raises(home.IdentityDamaged):
        made.identity()
    assert (tmp_path / "host.json").read_text() == "{"


def test_two_homes_have_two_runtime_directories(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    places = set()
    for name in ("a", "b"):
        monkeypatch.setenv("BOCAGE_HOME", str(tmp_path / name))
        places.add(home.Home.from_environment().runtime)
    assert len(places) == 2


def test_a_home_has_one_runtime_directory_whatever_the_session_says(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("BOCAGE_HOME", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    without = home.Home.from_environment().runtime
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert home.Home.from_environment().runtime == without


async def test_what_is_written_meanwhile_is_synced_until_it_is_done_with_whatever_a_sync_says() -> None:
    twice = asyncio.Event()
    calls: list[None] = []

    async def sync() -> None:
        calls.append(None)
        if len(calls) == 1:
            raise OSError
        twice.set()

    async with files.synced_meanwhile(sync):
        await asyncio.wait_for(twice.wait(), 60)
    assert asyncio.all_tasks() == {asyncio.current_task()}
