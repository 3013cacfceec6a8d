"""The file of samples: it keeps what it is given, within its bound, and never stands in anybody's way."""

from __future__ import annotations

import os
import pathlib
import random

import pytest

from bocage.model import sample
from bocage.node import history
from bocage.planner import rates, rollup

DAY = 86_400
START = 1_700_000_000 // DAY * DAY
BOUND = 2 << 20  # bytes for each VM


@pytest.fixture
async def kept(tmp_path: pathlib.Path):
    made = history.History(tmp_path / "samples.db")
    yield made
    await made.close()


def minute(uid: str, start: int, cpu: float) -> history.Minute:
    row = rates.row({"cpu": cpu})
    points = [rollup.Point(row, row)] * rollup.SECONDS.steps
    return history.Minute(uid, start, rollup.piece(rollup.SECONDS, points))


async def course(kept: history.History, uid: str, *, until: int, span: int) -> list[float | None]:
    pieces = await kept.read(uid, since=until - span)
    found = rollup.course(pieces, {}, since=until - span, until=until, most=100_000)
    return [point.average[0] if point else None for point in found.points]


def size(path: pathlib.Path) -> int:
    return sum(one.stat().st_size for one in path.glob("samples.db*"))


async def test_an_hour_is_there_by_seconds_a_day_by_minutes_and_the_rest_by_hours(kept: history.History):
    until = START + 2 * DAY
    for at in range(START, until, 60):
        await kept.write([minute("one", at, cpu=1.0 + at // 3600 % 24), minute("other", at, cpu=99.0)])
    seconds = await course(kept, "one", until=until, span=3600)
    assert len(seconds) == 720
    assert seconds == pytest.approx([24.0] * 720, rel=0.01)
    minutes = await course(kept, "one", until=until, span=DAY)
    assert len(minutes) == 1440
    assert minutes[::60] == pytest.approx([1.0 + hour for hour in range(24)], rel=0.01)
    hours = await course(kept, "one", until=until, span=30 * DAY)
    assert [hour for hour in hours if hour is not None] == pytest.approx(
        [1.0 + hour for hour in range(24)] * 2, rel=0.01
    )


async def test_what_a_daemon_left_half_done_the_next_one_finishes(tmp_path: pathlib.Path):
    first = history.History(tmp_path / "samples.db")
    for at in range(START + DAY - 1800, START + DAY, 60):  # the last half hour of a day
        await first.write([minute("one", at, cpu=3.0)])
    await first.close()
    second = history.History(tmp_path / "samples.db")
    later = START + DAY + 5 * 3600
    await second.write([minute("host", later, cpu=0.0)])  # the VM itself does not run any more
    pieces = await second.read("one", since=START)
    assert list(pieces[rollup.MINUTES]) == [START + DAY - 3600]
    assert list(pieces[rollup.HOURS]) == [START]
    await second.close()


@pytest.mark.slow
async def test_two_years_of_samples_stay_within_two_mebibytes_for_each_vm(tmp_path: pathlib.Path):
    dice = random.Random(4)
    names = [f"vm-{number}" for number in range(2)]
    kept = history.History(tmp_path / "samples.db")
    largest = 0

    def full(uid: str, start: int) -> history.Minute:
        rows = [tuple(dice.uniform(0, 1e9) for _ in sample.METRICS) for _ in range(rollup.SECONDS.steps)]
        points = [rollup.Point(row, row) for row in rows]
        return history.Minute(uid, start, rollup.piece(rollup.SECONDS, points))

    # A piece has one length however much was measured in it: a minute of each hour makes all there will be.
    for hour in range(2 * 366 * 24):
        start = START + hour * 3600
        await kept.write([full(uid, start + 60 * dice.randrange(60)) for uid in names])
        if hour % 500 == 0:
            largest = max(largest, size(tmp_path))
    for at in range(start + 3600, start + 4 * 3600, 60):  # and the finest level whole
        await kept.write([full(uid, at) for uid in names])
    places = [len(found) for found in (await kept.read(names[0], since=0)).values()]
    assert places == [rollup.SECONDS.kept, rollup.MINUTES.kept, rollup.HOURS.kept]
    assert max(largest, size(tmp_path)) <= BOUND * len(names)
    await kept.close()


async def test_a_clock_that_is_wrong_for_a_while_costs_neither_the_past_nor_the_bound(
    kept: history.History, tmp_path: pathlib.Path
):
    for at in range(START, START + 1800, 60):
        await kept.write([minute("one", at, cpu=1.0)])
    far = START + 3650 * DAY + DAY // 2  # another place in the ring of minutes
    for at in range(far, far + 1800, 60):
        await kept.write([minute("one", at, cpu=9.0)])
    for at in range(START + 1800, START + 3600, 60):
        await kept.write([minute("one", at, cpu=2.0)])
    for until in (START + 3600, START + 3660):  # before and after the hour is over
        found = await course(kept, "one", until=until, span=7200)
        known = [value for value in found if value is not None]
        assert known[:60] == pytest.approx([1.0] * 30 + [2.0] * 30, rel=0.01)
        await kept.write([minute("one", START + 3600, cpu=3.0)])
    assert size(tmp_path) < BOUND


async def test_a_minute_in_whose_midst_the_daemon_was_restarted_is_kept_whole(kept: history.History):
    row = rates.row({"cpu": 1.0})
    for steps in (range(5), range(6, 12)):
        points = [rollup.Point(row, row) if step in steps else None for step in range(rollup.SECONDS.steps)]
        await kept.write([history.Minute("one", START, rollup.piece(rollup.SECONDS, points))])
    found = await course(kept, "one", until=START + 60, span=60)
    assert [value is None for value in found] == [step == 5 for step in range(12)]


async def test_what_is_forgotten_gives_its_room_back(kept: history.History, tmp_path: pathlib.Path):
    for at in range(START, START + 2 * DAY, 60):
        await kept.write([minute("one", at, cpu=1.0), minute("other", at, cpu=1.0)])
    before = size(tmp_path)
    await kept.keep_only(["other"])
    assert [found for found in (await kept.read("one", since=0)).values() if found] == []
    assert (await kept.read("other", since=0))[rollup.SECONDS]
    await kept.write([minute("other", START + 2 * DAY, cpu=1.0)])
    await kept.close()
    assert size(tmp_path) < before * 0.7


@pytest.mark.parametrize("damage", [b"no database at all" * 1000, b""])
async def test_a_damaged_file_is_put_aside_and_begun_anew(kept: history.History, tmp_path: pathlib.Path, damage: bytes):
    path = tmp_path / "samples.db"
    for at in range(START, START + 3600, 60):
        await kept.write([minute("one", at, cpu=1.0)])
    await kept.close()
    content = bytearray(path.read_bytes())
    content[100 : len(content)] = damage[: len(content) - 100] or os.urandom(len(content) - 100)
    path.write_bytes(damage or content)
    with pytest.raises(OSError, match=r"samples\.db"):
        await kept.read("one", since=0)
    assert (tmp_path / "samples.db.damaged").exists()
    await kept.write([minute("one", START + 3600, cpu=1.0)])
    assert (await kept.read("one", since=0))[rollup.SECONDS]
