"""The serial line: its log, its one writer, and waiting for what it says."""

import asyncio
import contextlib
import dataclasses
import pathlib
import time

import pytest

from bocage.engine import base
from bocage.engine.qemu import console, processes
from bocage.engine.qemu import record as records
from bocage.model import vm as model
from tests.engine.qemu.vms import Vms, until

# A boot sector that answers each byte with the one after it: what comes back is no echo.
ANSWERS = (
    bytes.fromhex(
        "bafd03 ec a801 74fb"  # again: until bit 0 of port 0x3fd: something came
        "baf803 ec fec0 88c4"  # ah = the byte from port 0x3f8, plus one
        "bafd03 ec a820 74fb"  # until bit 5 of port 0x3fd: something may go
        "baf803 88e0 ee ebe0"  # send it; and again
    ).ljust(510, b"\0")
    + b"\x55\xaa"
)


def line_in(directory: pathlib.Path) -> console.Console:
    return console.Console.of("web1", directory, directory)


def say(directory: pathlib.Path, text: str) -> None:
    with (directory / "serial.log").open("a", newline="") as log:
        log.write(text)


def started_at(directory: pathlib.Path, offset: int) -> None:
    identity = processes.Identity(1, 1)
    isolation = model.Isolation()
    record = records.Record("u", "web1", identity, 1, directory, isolation, paused=False, serial_start=offset)
    records.write(directory / "process.json", record)


async def answering(vms: Vms) -> tuple[base.Plan, console.Console]:
    """A running VM whose serial line answers."""
    plan = vms.plan("sata")
    disk = vms.root / "answers.raw"
    disk.write_bytes(ANSWERS + bytes(1 << 20))
    plan = dataclasses.replace(plan, chains={**plan.chains, "disk0": (base.File(disk, "raw"),)})
    await vms.start(plan)
    return plan, console.Console.of(plan.name, plan.directory, plan.runtime)


async def test_what_was_said_since_the_last_start_is_found_at_once(tmp_path):
    say(tmp_path, "tiny: ready one\r\n")
    started_at(tmp_path, 17)
    say(tmp_path, "SeaBIOS\r\ntiny: ready two\r\n")
    assert await line_in(tmp_path).expect(pattern="^tiny: ready", within=5) == "tiny: ready two"


async def test_what_is_said_later_is_waited_for(tmp_path):
    say(tmp_path, "")
    waiting = asyncio.create_task(line_in(tmp_path).expect(pattern="b.c", within=10))
    for piece in ("a\r\nab", "b\x1b[1mb\x1b[0m", "cd", "\r\n"):
        await asyncio.sleep(0.02)
        assert not waiting.done()
        say(tmp_path, piece)
    assert await waiting == "abbbcd"


async def test_a_line_without_an_end_is_no_line_yet(tmp_path):
    say(tmp_path, "login: ")
    with pytest.raises(console.NotSaid) as late:
        await line_in(tmp_path).expect(pattern="login", within=0.2)
    assert (late.value.pattern, late.value.bound, late.value.status) == ("login", 0.2, 504)


@pytest.mark.parametrize("pattern", ["(", "a{99999999999}", "(?P<x>a)(?P<x>b)"])
async def test_what_is_no_expression_is_refused(tmp_path, pattern):
    say(tmp_path, "")
    with pytest.raises(console.BadPattern):
        await line_in(tmp_path).expect(pattern=pattern, within=5)


async def test_an_expression_that_takes_for_ever_is_cut_off(tmp_path):
    say(tmp_path, "a" * 60 + "\n")
    begun = time.monotonic()
    with pytest.raises(console.BadPattern, match="too long"):
        await line_in(tmp_path).expect(pattern="^(a+)+$b", within=20)
    assert time.monotonic() - begun < 10


async def test_typing_to_a_vm_that_is_off_is_refused(tmp_path):
    say(tmp_path, "")
    with pytest.raises(base.NotRunning):
        await line_in(tmp_path).expect(send="x", pattern="x", within=5)


async def test_what_is_typed_arrives_and_the_answer_is_logged_with_nobody_watching(vms):
    plan, line = await answering(vms)
    log = plan.directory / "serial.log"

    async def typed() -> None:
        async with line.writer() as write:
            await write(b"HAL")

    async with asyncio.timeout(30):
        while b"IBM" not in log.read_bytes():  # until the sector runs
            await typed()
            await asyncio.sleep(0.1)
    before = line.end
    async with line.writer() as write:
        await write(b"x" * 400)  # hung up at once: none of it is lost
    await until(lambda: log.read_bytes()[before:].count(b"y") == 400, within=60)


async def test_a_second_writer_waits_its_turn_or_takes_over_whoever_made_the_console(vms):
    plan, line = await answering(vms)
    other = console.Console.of(plan.name, plan.directory, plan.runtime)
    async with line.writer() as write:
        with pytest.raises(console.Taken):
            await other.writer().__aenter__()
        async with other.writer(take_over=True) as theirs:
            with pytest.raises(console.TakenOver):
                await write(b"a")
            await theirs(b"a")
    async with line.writer() as write:
        await write(b"a")


async def test_every_watcher_sees_the_same_from_where_it_began(vms):
    plan, line = await answering(vms)
    log = plan.directory / "serial.log"
    seen: list[bytearray] = [bytearray(), bytearray()]

    async def watch(into: bytearray, offset: int | None) -> None:
        async with contextlib.aclosing(line.watch(offset)) as said:
            async for data in said:
                into += data

    watching = [asyncio.create_task(watch(into, 0)) for into in seen]
    async with line.writer() as write:
        async with asyncio.timeout(30):
            while b"IBM" not in log.read_bytes():
                await write(b"HAL")
                await asyncio.sleep(0.1)
    await until(lambda: all(bytes(into) == log.read_bytes() for into in seen))
    for task in watching:
        task.cancel()
    await asyncio.wait(watching)
