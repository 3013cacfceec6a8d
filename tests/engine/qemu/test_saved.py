"""What a save does with its file when nobody waits for it any more."""

import asyncio
import contextlib
import os
import pathlib
import threading
from typing import Any

import pytest

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
