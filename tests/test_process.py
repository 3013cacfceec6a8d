from __future__ import annotations

import asyncio
import pathlib

import pytest

from bocage import errors, process


async def test_what_a_program_says_comes_back():
    assert await process.run("sh", "-c", "cat; echo there", stdin=b"hello ", within=10) == b"hello there\n"


async def test_a_failure_carries_its_words_and_a_line_to_paste():
    with pytest.raises(process.Failed) as caught:
        await process.run("sh", "-c", "echo 'it broke' >&2; exit 3", within=10)
    assert (caught.value.program, caught.value.status_words, caught.value.output) == ("sh", "exit code 3", "it broke")
    assert caught.value.command == "sh -c 'echo '\"'\"'it broke'\"'\"' >&2; exit 3'"


async def test_a_signal_is_named():
    with pytest.raises(process.Failed) as caught:
        await process.run("sh", "-c", "kill -SEGV $$", within=10)
    assert caught.value.status_words == "signal SIGSEGV"


async def test_a_program_that_is_not_there_is_told_by_name():
    with pytest.raises(process.Missing) as caught:
        await process.run("no-such-program-at-all", within=1)
    assert "no-such-program-at-all" in str(caught.value)


async def test_at_the_bound_the_whole_group_is_ended(tmp_path: pathlib.Path):
    note = tmp_path / "pid"
    with pytest.raises(errors.TimedOut):
        await process.run("sh", "-c", f"sleep 60 & echo $! > {note}; wait", within=0.5)
    await _gone(int(note.read_text()))


async def test_cancelled_it_leaves_nothing_running(tmp_path: pathlib.Path):
    note = tmp_path / "pid"
    running = asyncio.create_task(process.run("sh", "-c", f"echo $$ > {note}; exec sleep 60", within=60))
    while not (note.exists() and note.read_text().strip()):
        await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await _gone(int(note.read_text()))


async def test_each_line_is_told_as_it_comes():
    lines: list[str] = []
    await process.run("printf", "10%%\\r20%%\\rdone\\n", within=10, each_line=lines.append)
    assert lines == ["10%", "20%", "done"]


async def _gone(pid: int) -> None:
    """Wait until a process is no more, or waits for its parent only."""
    async with asyncio.timeout(10):
        while _state(pid) not in ("", "Z"):
            await asyncio.sleep(0.01)


def _state(pid: int) -> str:
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return ""
