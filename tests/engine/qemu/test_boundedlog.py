import asyncio
import contextlib
import os

import pytest

from bocage import files
from bocage.engine.qemu import boundedlog, qmp
from tests.engine.qemu import running


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


def append(path, data):
    with open(path, "ab") as file:
        file.write(data)


def lines(first, last):
    return b"".join(b"line %07d\n" % number for number in range(first, last))  # 13 bytes each


def test_trimming_frees_the_old_part_and_moves_no_offset(log):
    append(log, lines(0, 20_000))
    size, whole = log.stat().st_size, log.read_bytes()
    start = boundedlog.trim(log, 65_536)
    assert log.stat().st_size == size
    assert size - 65_536 - os.stat(log).st_blksize < start <= size - 65_536
    assert start == boundedlog.start_offset(log)
    assert files.allocated(log) < 65_536 + 4 * 4096
    assert log.read_bytes()[start:] == whole[start:]


def test_a_log_that_is_trimmed_again_and_again_stays_small_and_readable(log):
    written = b""
    for number in range(0, 40_000, 2_000):
        more = lines(number, number + 2_000)
        written += more
        append(log, more)
        start = boundedlog.trim(log, 65_536)
        assert files.allocated(log) <= 65_536 + 4 * 4096
        assert boundedlog.read(log, 0, 1 << 20) == boundedlog.Piece(start, written[start:])


def test_what_is_short_enough_is_left_whole(log):
    append(log, b"short\n")
    assert boundedlog.trim(log, 65_536) == 0
    assert log.read_bytes() == b"short\n"


def test_an_empty_log_starts_at_its_end(log):
    log.touch()
    assert boundedlog.start_offset(log) == 0
    assert boundedlog.read(log, 0, 100) == boundedlog.Piece(0, b"")


def test_reading_stops_at_the_limit_and_at_the_end(log):
    append(log, b"0123456789")
    piece = boundedlog.read(log, 2, 3)
    assert piece == boundedlog.Piece(2, b"234")
    assert piece.end == 5
    assert boundedlog.read(log, 10, 3).data == b""
    assert boundedlog.read(log, 50, 3).data == b""


def test_the_last_lines_are_told(log):
    assert boundedlog.tail_lines(log, 3) == []
    append(log, b"one\ntwo\nthr\xff\xc3\xa9e\nfour")
    assert boundedlog.tail_lines(log, 2) == ["thr\N{REPLACEMENT CHARACTER}ée", "four"]
    assert boundedlog.tail_lines(log, 10, start=4) == ["two", "thr\N{REPLACEMENT CHARACTER}ée", "four"]
    assert boundedlog.tail_lines(log, 0) == []
    append(log, lines(0, 100_000))
    boundedlog.trim(log, 8192)
    assert boundedlog.tail_lines(log, 2) == ["line 0099998", "line 0099999"]


@pytest.mark.parametrize("act", [boundedlog.start_offset, lambda path: boundedlog.trim(path, 0)])
def test_neither_a_link_nor_a_pipe_is_opened(tmp_path, act):
    precious = tmp_path / "precious"
    precious.write_bytes(bytes(100_000))
    link, pipe = tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(precious)
    os.mkfifo(pipe)
    for path in (link, pipe):
        with pytest.raises(OSError, match=r"symbolic links|not a regular file|No such device"):
            act(path)
    assert files.allocated(precious) >= 100_000


class Reader:
    """Collects what `follow` gives, and waits for a part of it."""

    def __init__(self, path, offset=0):
        self.pieces = []
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._read(path, offset))

    async def _read(self, path, offset):
        async with contextlib.aclosing(boundedlog.follow(path, offset)) as pieces:
            async for piece in pieces:
                self.pieces.append(piece)
                self._news.set()

    @property
    def data(self):
        return b"".join(piece.data for piece in self.pieces)

    async def until(self, data):
        async with asyncio.timeout(10):
            while self.data != data:
                await self._news.wait()
                self._news.clear()

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task


def descriptors():
    """What this process has open; the one with which it looks is closed before it is read."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return sorted(found)


async def test_following_gives_what_is_there_and_what_comes(log):
    append(log, b"one\n")
    async with Reader(log) as reader:
        await reader.until(b"one\n")
        append(log, b"two\n")
        await reader.until(b"one\ntwo\n")
        append(log, b"three\n")
        await reader.until(b"one\ntwo\nthree\n")
        assert [piece.offset for piece in reader.pieces] == [0, 4, 8]


async def test_following_can_begin_at_an_offset(log):
    append(log, b"one\ntwo\n")
    async with Reader(log, 4) as reader:
        await reader.until(b"two\n")
        assert reader.pieces[0].offset == 4


async def test_several_can_follow_one_log(log):
    log.touch()
    async with Reader(log) as first, Reader(log) as second:
        append(log, b"x")
        await first.until(b"x")
        await second.until(b"x")


async def test_following_goes_on_with_the_file_that_took_the_name(log, tmp_path):
    append(log, b"old\n")
    async with Reader(log) as reader:
        await reader.until(b"old\n")
        append(tmp_path / "new", b"new\n")
        os.rename(tmp_path / "new", log)
        await reader.until(b"old\nnew\n")
        assert reader.pieces[-1].offset == 0
        append(log, b"more\n")
        await reader.until(b"old\nnew\nmore\n")
        log.unlink()
        append(log, b"again\n")
        await reader.until(b"old\nnew\nmore\nagain\n")


async def test_following_survives_trimming(log):
    append(log, lines(0, 10_000))
    async with Reader(log) as reader:
        await reader.until(lines(0, 10_000))
        boundedlog.trim(log, 4096)
        append(log, b"more\n")
        await reader.until(lines(0, 10_000) + b"more\n")


async def test_what_happens_in_other_files_beside_it_wakes_nobody(log, tmp_path):
    append(log, b"x")
    async with Reader(log) as reader:
        await reader.until(b"x")
        append(tmp_path / "disk", bytes(1000))
        append(log, b"y")
        await reader.until(b"xy")


async def test_a_follower_that_is_cancelled_leaves_no_descriptor(log):
    append(log, b"x")
    before = descriptors()
    async with Reader(log) as reader:
        await reader.until(b"x")
        assert descriptors() != before
    assert descriptors() == before


@pytest.mark.parametrize("more", [b"", b"z"])
async def test_a_follower_that_has_an_end_gives_all_that_was_there_by_then(log, more):
    append(log, b"a")
    before = descriptors()
    end = asyncio.get_running_loop().create_future()

    async def whole() -> bytes:
        return b"".join([piece.data async for piece in boundedlog.follow(log, 0, until=end)])

    reading = asyncio.create_task(whole())
    await asyncio.sleep(0.05)
    append(log, more)
    end.set_result(None)  # before the loop can hear of the change
    assert await asyncio.wait_for(reading, 10) == b"a" + more
    assert await asyncio.wait_for(whole(), 10) == b"a" + more
    assert descriptors() == before


async def test_a_missing_log_is_told_and_leaves_no_descriptor(log):
    before = descriptors()
    with pytest.raises(FileNotFoundError):
        await anext(boundedlog.follow(log, 0))
    assert descriptors() == before


async def test_a_pipe_in_place_of_the_log_does_not_stop_the_loop(log):
    append(log, b"x")
    async with Reader(log) as reader:
        await reader.until(b"x")
        log.unlink()
        os.mkfifo(log)
        await asyncio.sleep(0)
        log.unlink()
        append(log, b"y")
        await reader.until(b"xy")


async def test_qemus_serial_log_is_written_with_nobody_attached_and_can_be_trimmed_under_it(ground, start):
    """The log of a socket with `wait=off` is what `bocage vm log` shows: it must not need a reader."""
    serial = ground / "vm" / "serial.log"
    chardev = f"socket,id=tty,path={ground}/vm/tty,server=on,wait=off,logfile={serial},logappend=on"
    boot = ground / "boot"
    boot.write_bytes(_boot_sector(b"HELLO\r\n"))
    argv = running.qemu(ground, "-chardev", chardev, "-serial", "chardev:tty", "-drive", f"file={boot},format=raw")
    (ground / "vm").mkdir()
    append(serial, lines(0, 10_000))
    began = boundedlog.trim(serial, 0)
    end = serial.stat().st_size
    await start(*argv)
    async with await qmp.connect(ground / "vm" / "qmp", within=20) as monitor:
        async with Reader(serial, end) as reader:
            await monitor.execute("cont")
            await reader.until(b"HELLO\r\n")
        assert began <= end
        boundedlog.trim(serial, 0)
        await monitor.execute("system_reset")
        async with Reader(serial, end + 7) as reader:
            await reader.until(b"HELLO\r\n")
        await monitor.execute("quit")


def _boot_sector(text):
    """A PC boot sector that writes `text` to the first serial port and halts (16-bit code)."""
    code = bytes.fromhex("fa fc 31c0 8ed8 be 1f7c")  # cli; cld; ds = 0; si = text
    code += bytes.fromhex("baf803")  # dx = 0x3f8
    code += bytes.fromhex("ac 84c0 7403 ee ebf8 f4 ebfd")  # lodsb; until 0: out dx, al; hlt for ever
    return (code.ljust(0x1F, b"\x90") + text).ljust(510, b"\0") + b"\x55\xaa"
