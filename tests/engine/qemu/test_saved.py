"""What a save does with its file when nobody waits for it any more."""

import asyncio
import contextlib
import os
import pathlib
import threading
from typing import Any

import pytest

from bocage import files
from bocage.engine import base
from bocage.engine.qemu import saved


class Monitor:
    async def execute(self, command: str, arguments: Any = None) -> dict[str, int]:
        assert command == "query-memory-size-summary"
        return {"base-memory": 1 << 20}


async def test_a_thread_that_takes_room_never_works_on_another_file(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    begun, goes_on, found = threading.Event(), threading.Event(), list[int]()

    def slow(descriptor: int, *_: int) -> None:
        begun.set()
        goes_on.wait()
        found.append(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "posix_fallocate", slow)
    descriptor = os.open(tmp_path / "memory", os.O_RDWR | os.O_CREAT)
    wanted = os.fstat(descriptor).st_ino
    taking = asyncio.create_task(saved._has_room(Monitor(), tmp_path, descriptor))  # type: ignore[arg-type]
    await asyncio.to_thread(begun.wait)
    taking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await taking
    os.close(descriptor)
    others = [os.open(tmp_path / "disk", os.O_RDWR | os.O_CREAT) for _ in range(8)]  # one has its number now
    goes_on.set()
    try:
        async with asyncio.timeout(60):
            while not found:
                await asyncio.sleep(0.01)
        assert found == [wanted]
    finally:
        for one in others:
            os.close(one)


class Writes:
    """A QEMU that has written its memory as soon as it is told to."""

    def __init__(self, status: str = "running") -> None:
        self.said: list[str] = []
        self._status = status

    async def execute(self, command: str, arguments: Any = None) -> dict[str, Any]:
        self.said.append(command)
        return {"status": "completed"} if command == "query-migrate" and "migrate" in self.said else {}

    async def look(self) -> base.Run:
        return base.Run.RUNNING

    async def status(self) -> str:
        return self._status

    async def name_descriptor(self, descriptor: int, name: str) -> None:
        os.write(descriptor, b"memory")


async def test_a_save_that_nobody_wants_any_more_never_comes_to_be_whole_beside_a_vm_that_goes_on(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    begun, goes_on, over = threading.Event(), threading.Event(), threading.Event()
    sync = os.fsync

    def slow(descriptor: int) -> None:
        begun.set()
        goes_on.wait()
        sync(descriptor)
        over.set()

    monkeypatch.setattr(os, "fsync", slow)
    at, to = Writes(), tmp_path / "saved.state"
    saving = asyncio.create_task(saved.write(at, to, report=lambda *_: None))  # type: ignore[arg-type]
    await asyncio.to_thread(begun.wait)
    saving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await saving
    assert at.said[-1] == "cont"
    goes_on.set()
    await asyncio.to_thread(over.wait)
    while any(thread.name == "reach" for thread in threading.enumerate()):  # until nobody is there who could
        await asyncio.sleep(0.01)
    assert list(tmp_path.iterdir()) == []


async def test_vcpus_stand_when_a_save_is_broken_off_whose_file_is_about_to_get_its_name(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    begun, goes_on, rename = threading.Event(), threading.Event(), files.rename_durably

    def slow(source: pathlib.Path, destination: pathlib.Path) -> None:
        begun.set()
        goes_on.wait()
        rename(source, destination)

    monkeypatch.setattr(files, "rename_durably", slow)
    at, to = Writes(), tmp_path / "saved.state"
    saving = asyncio.create_task(saved.write(at, to, report=lambda *_: None))  # type: ignore[arg-type]
    await asyncio.to_thread(begun.wait)
    saving.cancel()
    goes_on.set()
    with pytest.raises(asyncio.CancelledError):
        await saving
    assert "cont" not in at.said
    assert to.exists()  # which is removed durably before they go on


async def test_vcpus_stand_when_it_is_not_known_whether_the_name_would_last(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    def broken(_: pathlib.Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(files, "sync_directory", broken)
    at, to = Writes(), tmp_path / "saved.state"
    with pytest.raises(saved.SaveFailed):
        await saved.write(at, to, report=lambda *_: None)  # type: ignore[arg-type]
    assert "cont" not in at.said
    assert to.exists()


async def test_a_machine_that_was_written_goes_on_only_when_what_was_written_is_gone_durably(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    """Its daemon died before it had ended the process."""

    def broken(_: pathlib.Path) -> None:
        assert not to.exists()
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(files, "sync_directory", broken)
    at, to = Writes("postmigrate"), tmp_path / "saved.state"
    to.write_bytes(b"earlier")
    with pytest.raises(OSError, match="Input/output error"):
        await saved.write(at, to, report=lambda *_: None)  # type: ignore[arg-type]
    assert "cont" not in at.said


async def test_a_save_that_was_given_up_cannot_give_its_file_the_name_after_that_was_forgotten(tmp_path: pathlib.Path):
    to = tmp_path / "saved.state"
    beside = tmp_path / "saved.state.part"
    beside.write_bytes(b"memory")
    assert not saved.unlink(to)
    with pytest.raises(FileNotFoundError):
        files.rename_durably(beside, to)
    to.write_bytes(b"memory")
    assert saved.unlink(to)
    assert list(tmp_path.iterdir()) == []
