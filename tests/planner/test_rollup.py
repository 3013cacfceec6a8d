"""The history in rings: what was measured is found again, at each fineness, whatever is missing."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bocage.model import sample
from bocage.planner import rates, rollup
from bocage.planner.rollup import HOURS, MINUTES, SECONDS

NOON = 1_700_000_000 // 86_400 * 86_400 + 43_200


def point(**values: float | None) -> rollup.Point:
    row = rates.row(values)
    return rollup.Point(row, row)


def value(row: sample.Row, metric: str) -> float | None:
    return row[sample.METRICS.index(metric)]


def minute(start: int, **values: float | None) -> bytes:
    return rollup.piece(SECONDS, [point(**values)] * SECONDS.steps)


@given(st.one_of(st.none(), st.just(0.0), st.floats(min_value=1e-9, max_value=1e16)))
def test_a_value_comes_back_to_within_a_twentieth_of_a_percent(given_value: float | None):
    held = rollup.piece(SECONDS, [point(cpu=given_value), *[None] * 11])
    found = rollup.points(SECONDS, NOON, held)
    if given_value is None:
        assert found == {}
    else:
        assert math.isclose(value(found[NOON].average, "cpu") or 0.0, given_value, rel_tol=5e-4)


@pytest.mark.parametrize("level", rollup.LEVELS)
def test_a_piece_has_one_length_whatever_is_in_it(level: rollup.Level):
    empty = rollup.piece(level, [None] * level.steps)
    full = rollup.piece(level, [point(cpu=random.random())] * level.steps)
    assert len(empty) == len(full)
    assert rollup.points(level, 0, empty) == {}
    assert rollup.points(level, 0, full[:-1]) == {}  # cut off: nothing rather than nonsense
    assert len(rollup.points(level, 0, full)) == level.steps


def test_no_two_pieces_that_are_kept_at_once_share_a_place():
    places = [level.place(NOON + number * level.piece) for level in rollup.LEVELS for number in range(level.kept)]
    assert sorted(places) == list(range(rollup.PLACES))


def test_rings_reach_back_an_hour_a_day_and_a_year_beyond_the_open_piece_of_the_next_level():
    for finer, level in zip(rollup.LEVELS, rollup.LEVELS[1:], strict=False):
        assert finer.kept * finer.piece >= 2 * level.piece
        assert level.step == finer.piece
    assert HOURS.kept * HOURS.piece >= 366 * 86_400


def test_averages_are_averaged_and_peaks_are_the_largest():
    low, high = point(cpu=1.0, memory=10.0), point(cpu=3.0, memory=None)
    folded = rollup.fold([low, None, high])
    assert folded
    assert (value(folded.average, "cpu"), value(folded.peak, "cpu")) == (2.0, 3.0)
    assert value(folded.average, "memory") == 10.0  # of what was measured
    again = rollup.fold([folded, point(cpu=0.0)])
    assert again
    assert value(again.peak, "cpu") == 3.0
    assert rollup.fold([None, None]) is None


def test_a_latency_counts_by_its_operations():
    busy, idle = point(disk_reads=99.0, disk_read_latency=0.001), point(disk_reads=1.0, disk_read_latency=1.0)
    folded = rollup.fold([busy, idle, point(disk_reads=0.0)])
    assert folded
    assert math.isclose(value(folded.average, "disk_read_latency") or 0, (99 * 0.001 + 1.0) / 100)
    assert value(folded.peak, "disk_read_latency") == 1.0


def test_coarse_pieces_are_made_of_the_finer_ones_that_there_are():
    minutes = {NOON + 60 * number: minute(NOON, cpu=float(number)) for number in range(30)}
    hour = rollup.raised(MINUTES, NOON, minutes)
    assert hour
    found = rollup.points(MINUTES, NOON, hour)
    assert sorted(found) == sorted(minutes)
    assert math.isclose(value(found[NOON + 29 * 60].average, "cpu") or 0, 29.0, rel_tol=1e-3)
    day = rollup.raised(HOURS, HOURS.begins(NOON), {NOON: hour})
    assert day
    of_day = rollup.points(HOURS, HOURS.begins(NOON), day)
    assert list(of_day) == [NOON]
    assert math.isclose(value(of_day[NOON].average, "cpu") or 0, 14.5, rel_tol=1e-2)
    assert math.isclose(value(of_day[NOON].peak, "cpu") or 0, 29.0, rel_tol=1e-2)
    assert rollup.raised(HOURS, HOURS.begins(NOON) + HOURS.piece, {NOON: hour}) is None


def test_what_has_no_coarse_piece_yet_is_folded_from_the_finer_ones():
    until = NOON + 3600 + 90.0  # a minute and a half into the second hour
    hour = rollup.raised(MINUTES, NOON, {NOON + 60 * number: minute(NOON, cpu=1.0) for number in range(60)})
    assert hour
    pieces = {MINUTES: {NOON: hour}, SECONDS: {NOON + 3600: minute(NOON + 3600, cpu=2.0)}}
    fresh = {NOON + 3660 + 5 * number: point(cpu=3.0) for number in range(6)}
    for since, step, expected in (
        (until - 7200, 60, [1.0] * 60 + [2.0, 3.0]),
        (until - 86_400 * 30, 3600, [1.0, 2.5]),
    ):
        course = rollup.course(pieces, fresh, since=since, until=until, most=2000)
        known = [value(point.average, "cpu") for point in course.points if point]
        assert course.step == step
        assert known == pytest.approx(expected, rel=0.01)
        assert course.points[-1] is not None
        assert course.points[0] is None


@given(
    span=st.integers(min_value=10, max_value=rollup.LONGEST),
    most=st.integers(min_value=1, max_value=2000),
    offset=st.integers(min_value=0, max_value=86_400),
)
def test_a_course_has_no_more_steps_than_were_asked_for_and_ends_now(span: int, most: int, offset: int):
    until = float(NOON + offset)
    course = rollup.course({}, {}, since=until - span, until=until, most=most)
    assert len(course.points) <= most + 1  # the first step may begin before the span
    assert course.start <= until - span
    assert until <= course.start + course.step * len(course.points) < until + course.step
