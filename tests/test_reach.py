"""Storages that hang, as threads that wait for a word: nobody waits for them, and nothing is believed of them."""

from __future__ import annotations

import asyncio
import os
import pathlib
import threading
from typing import Any

import pytest

from bocage import files, reach

_MOMENT = 0.2  # seconds of patience with what does not come back; with all else there is as much as ever


class Hung:
    """A call that comes to nothing until it is let go on."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._goes_on = threading.Event()
        self.begun = threading.Event()
        self.over = threading.Event()

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.begun.set()
        self._goes_on.wait()
        try:
            return self._call(*arguments, **named)
        finally:
            self.over.set()

    async def go_on(self) -> None:
        self._goes_on.set()
        await asyncio.to_thread(self.over.wait)


async def test_a_name_that_is_taken_by_another_since_is_not_taken_for_one_that_goes(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    way, one = reach.Way(tmp_path), tmp_path / "one"
    one.mkdir()
    removing = Hung(files.remove_tree)
    with monkeypatch.context() as patch:
        patch.setattr(files, "remove_tree", removing)
        await way.put_away(one, "first")  # its removal takes for ever, its name is free
        await asyncio.to_thread(removing.begun.wait)
    assert not one.exists()
    one.mkdir()  # what another attempt has made meanwhile
    await way.put_away(one, "second")
    assert not one.exists(), "it would have counted on"
    with monkeypatch.context() as patch:
        patch.setattr(reach, "PATIENCE", _MOMENT)
        assert not await reach.gone(one), "the first is there still"
    await removing.go_on()
    assert await reach.gone(one)


async def test_nothing_is_known_of_a_name_that_is_being_taken_away(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    way, one = reach.Way(tmp_path), tmp_path / "one"
    one.mkdir()
    renaming = Hung(files.rename_durably)
    with monkeypatch.context() as patch:
        patch.setattr(files, "rename_durably", renaming)
        patch.setattr(reach, "PATIENCE", _MOMENT)
        for name in ("first", "second"):
            with pytest.raises(reach.Hangs):
                await way.put_away(one, name)
    assert one.exists()
    await renaming.go_on()
    assert await reach.gone(one)


async def test_a_file_that_opens_late_or_closes_never_holds_up_nobody(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    way, path = reach.Way(tmp_path), tmp_path / "deep" / "file"
    path.parent.mkdir()
    closing, opening = Hung(os.close), Hung(os.open)
    with monkeypatch.context() as patch:
        patch.setattr(os, "close", closing)
        async with reach.opened(path, os.O_WRONLY | os.O_CREAT) as descriptor:
            os.write(descriptor, b"heron")
    assert os.fstat(descriptor).st_size == 5, "it closes when its storage answers"
    await closing.go_on()
    await way.free()
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", opening)
        patch.setattr(reach, "PATIENCE", _MOMENT)
        with pytest.raises(reach.Hangs):
            async with reach.opened(path, os.O_RDONLY):
                raise AssertionError("it is not open")
    assert way._left != [], "it is known to hang, by the storage and not by the directory"
    await opening.go_on()
    await way.free()
    own = [pathlib.Path("/proc/self/fd") / one for one in os.listdir("/proc/self/fd")]
    assert str(path) not in {os.readlink(one) for one in own if os.path.lexists(one)}
