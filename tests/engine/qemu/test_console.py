"""The serial line: its log, its one writer, and waiting for what it says."""

import asyncio
import contextlib
import dataclasses
import os
import pathlib
import signal
import time

import pytest

from bocage.engine import base, block
from bocage.engine.qemu import console, processes
from bocage.engine.qemu import record as records
from bocage.model import vm as model
from tests.engine.qemu import running
from tests.engine.qemu.vms import Vms, until

MiB = 1 << 20

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

# One that says 00000001, 00000002 and so on in hexadecimal, as fast as it can, for ever.
COUNTS = (
    bytes.fromhex(
        "6631ff 6647 b90800"  # edi = 0; next: edi + 1; eight times:
        "66c1c704 89f8 240f 3c0a 1c69 2f e80900 e2ee"  # its highest digit, put
        "b00a e80200 ebe2"  # a line feed, put; next
        "88c4 bafd03 ec a820 74fb baf803 88e0 ee c3"  # put: until bit 5 of port 0x3fd: something may go; send it
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


def booting(vms: Vms, sector: bytes) -> base.Plan:
    """A VM that boots a sector."""
    plan = vms.plan("sata")
    disk = vms.root / "boot.raw"
    disk.write_bytes(sector + bytes(1 << 20))
    return dataclasses.replace(plan, chains={**plan.chains, "disk0": (block.File(disk, "raw"),)})


def line_of(plan: base.Plan) -> console.Console:
    return console.Console.of(plan.name, plan.directory, plan.runtime)


async def answering(vms: Vms) -> tuple[base.Plan, console.Console]:
    """A running VM whose serial line answers."""
    plan = booting(vms, ANSWERS)
    await vms.start(plan)
    return plan, line_of(plan)


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
    other = line_of(plan)
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


async def said_once(vms: Vms) -> None:
    """Somebody holds the line, slow and then stopped; the guest goes on, and its log has each character once."""
    plan = booting(vms, COUNTS)
    line = line_of(plan)
    await vms.start(plan)

    async def slow() -> None:
        async with line.writer():
            while True:
                await asyncio.sleep(0.01)
                time.sleep(0.1)  # noqa: ASYNC251 - as a loop that has much else to do

    await until(lambda: line.end > 0)
    holder = running.in_child(slow)
    try:
        await until(lambda: line.end > MiB, within=120)
        os.kill(holder, signal.SIGSTOP)
        stood = line.end
        await until(lambda: line.end > stood + MiB, within=120)
        os.kill(holder, signal.SIGCONT)
        stood = line.end
        await until(lambda: line.end > stood + MiB, within=120)
    finally:
        running.kill(holder)
    said = (plan.directory / "serial.log").read_bytes()
    said = said[said.index(b"00000001\n") : said.rindex(b"\n") + 1]
    assert said == b"".join(b"%08X\n" % number for number in range(1, len(said) // 9 + 1))


async def test_the_log_has_each_character_once_and_the_guest_goes_on_whatever_the_one_who_types_does(vms):
    await said_once(vms)


async def test_what_the_guest_does_not_read_is_waited_for_until_another_takes_over_or_the_vm_ends(vms):
    plan = booting(vms, ANSWERS)
    line = line_of(plan)
    machine = await vms.start(plan, paused=True)
    async with line.writer() as write:
        pasting = asyncio.ensure_future(write(b"x" * MiB))
        await asyncio.sleep(0.1)
        assert not pasting.done()
        async with line.writer(take_over=True) as theirs:
            with pytest.raises(console.TakenOver):
                await pasting
            pasting = asyncio.ensure_future(theirs(b"x" * MiB))
            await asyncio.sleep(0.1)
            assert not pasting.done()
            await machine.kill()
            with pytest.raises(base.NotRunning):
                await pasting


@pytest.mark.parametrize("place", ["file", "link", "directory"])
async def test_what_a_vm_left_in_place_of_its_line_is_not_written(tmp_path, place):
    (tmp_path / "io").mkdir()
    precious = tmp_path / "precious"
    precious.write_text("x")
    keys = tmp_path / "io" / "tty.in"
    {"file": keys.touch, "link": lambda: keys.symlink_to(precious), "directory": keys.mkdir}[place]()
    with pytest.raises(base.NotRunning):
        await line_in(tmp_path).writer().__aenter__()
    assert precious.read_text() == "x"
