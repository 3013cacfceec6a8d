"""Schedules: right across summer time, over missed hours and under clocks that jump."""

import datetime
import zoneinfo

import hypothesis
import pytest
from hypothesis import strategies as st

from bocage.model.schedule import Period, SnapshotSchedule
from bocage.planner import retention

PARIS = zoneinfo.ZoneInfo("Europe/Paris")
ZONES = ("Europe/Paris", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "UTC", "America/Sao_Paulo")


def schedule(text: str, **more: object) -> SnapshotSchedule:
    keep = SnapshotSchedule.model_validate(text).keep
    return SnapshotSchedule.model_validate({"keep": keep, **more})


def utc(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC)


def taken(*texts: str) -> list[retention.Taken]:
    return [retention.Taken(uid=text, name=text, when=utc(text)) for text in texts]


def lived(of: SnapshotSchedule, start: str, hours: float, zone=PARIS, *, every: float = 0.25) -> list[retention.Taken]:
    """What there is when the schedule was looked at every so many hours."""
    present: list[retention.Taken] = []
    now = utc(start)
    for _ in range(round(hours / every)):
        decision = retention.decide(of, present, now=now, zone=zone)
        if decision.take:
            present.append(retention.Taken(uid=now.isoformat(), name="", when=now))
            decision = retention.decide(of, present, now=now, zone=zone)
            assert not decision.take
        gone = {one.uid for one in decision.drop}
        present = [one for one in present if one.uid not in gone]
        now += datetime.timedelta(hours=every)
    return present


def test_a_day_of_hours_and_a_week_of_days():
    left = lived(schedule("hourly=24,daily=7"), "2026-06-01T00:00", 24 * 20)
    assert len(left) == 24 + 7 - 1, "the present day's first is one of the hours"
    days = [one.when.astimezone(PARIS) for one in left[:6]]
    assert all(day.hour == 0 for day in days)


def test_the_hour_that_comes_twice_is_two_hours():
    left = lived(schedule("hourly=30"), "2026-10-24T22:00", 25)  # the day of 25 hours, from midnight in Paris
    walls = [one.when.astimezone(PARIS).strftime("%d %H %z") for one in left]
    assert len(left) == 25
    assert walls[2:4] == ["25 02 +0200", "25 02 +0100"]


def test_the_day_of_23_hours_has_23_and_one_of_the_day():
    left = lived(schedule("hourly=30"), "2026-03-28T23:00", 23)
    assert len(left) == 23
    assert len(lived(schedule("daily=9"), "2026-03-26T23:00", 24 * 5 - 2)) == 5


def test_a_day_that_begins_in_the_hour_left_out_begins_at_its_end():
    of = schedule("daily=9", at="02:30")
    [before, day, after] = [one.when for one in lived(of, "2026-03-28T01:30", 24 * 3 - 1)]
    assert before == utc("2026-03-28T01:30")
    assert day == utc("2026-03-29T01:00"), "03:00 summer time"
    assert after == utc("2026-03-30T00:30")


def test_a_day_that_begins_in_the_hour_that_comes_twice_begins_once():
    of = schedule("daily=9", at="02:30")
    found = [one.when for one in lived(of, "2026-10-24T00:30", 24 * 3)]
    assert found == [utc("2026-10-24T00:30"), utc("2026-10-25T00:30"), utc("2026-10-26T01:30")]


def test_what_was_missed_is_made_up_for_once():
    decision = retention.decide(
        schedule("hourly=24"), taken("2026-06-01T03:00"), now=utc("2026-06-09T17:42"), zone=PARIS
    )
    assert decision.take
    assert decision.due == utc("2026-06-09T17:00")
    assert decision.next == utc("2026-06-09T18:00")
    assert decision.drop == ()


def test_a_clock_that_jumps_a_year_costs_one_period_and_no_more():
    days = [f"2026-06-{day:02}T00:00" for day in range(1, 8)]
    of = schedule("daily=7")
    ahead = retention.decide(of, taken(*days), now=utc("2027-06-07T12:00"), zone=PARIS)
    assert ahead.take
    assert ahead.drop == ()
    back = retention.decide(of, taken(*days, "2027-06-07T12:00"), now=utc("2026-06-08T00:30"), zone=PARIS)
    assert back.take, "one of a time that has not come is not counted"
    assert back.drop == ()
    assert back.keep[-1] == retention.Kept(taken("2027-06-07T12:00")[0], ())


def test_weeks_begin_on_monday_months_and_years_with_their_first_day():
    for period, expected in (
        (Period.WEEKLY, "2026-11-23T00:00"),
        (Period.MONTHLY, "2026-11-01T00:00"),
        (Period.YEARLY, "2026-01-01T00:00"),
    ):
        assert retention.begin(period, "00:00", utc("2026-11-28T18:00"), datetime.UTC) == utc(expected)
    assert retention.begin(Period.MONTHLY, "02:00", utc("2026-11-01T01:00"), datetime.UTC) == utc("2026-10-01T02:00")


def test_a_zone_of_half_hours_has_its_own_hours():
    kathmandu = zoneinfo.ZoneInfo("Asia/Kathmandu")  # +05:45
    assert retention.begin(Period.HOURLY, "00:00", utc("2026-11-28T18:00"), kathmandu) == utc("2026-11-28T17:15")
    assert retention.begin(Period.HOURLY, "00:30", utc("2026-11-28T18:00"), datetime.UTC) == utc("2026-11-28T17:30")


def test_what_makes_no_sense_is_refused():
    for wrong in ("hourly", "hourly=0", "hourly=24;daily=7", "fortnightly=2", ""):
        with pytest.raises(ValueError, match=r"keep|period|greater|Input|kept"):
            SnapshotSchedule.model_validate(wrong)
    with pytest.raises(ValueError, match="no time zone"):
        schedule("hourly=1", zone="Europe/Atlantis")
    assert str(schedule("daily=7,hourly=24")) == "hourly=24,daily=7"


@hypothesis.settings(deadline=None)
@hypothesis.given(
    st.sampled_from(list(Period)),
    st.integers(0, 23),
    st.sampled_from([0, 15, 30]),
    st.datetimes(utc("2020-01-01").replace(tzinfo=None), utc("2035-01-01").replace(tzinfo=None)),
    st.sampled_from(ZONES),
)
def test_every_moment_lies_in_one_period_and_the_next_begins_where_it_ends(period, hour, minute, when, zone):
    at, when, place = f"{hour:02}:{minute:02}", when.replace(tzinfo=datetime.UTC), zoneinfo.ZoneInfo(zone)
    of = SnapshotSchedule(keep={period: 3}, at=at)
    decision = retention.decide(of, [], now=when, zone=place)
    assert decision.due <= when < decision.next
    assert retention.begin(period, at, decision.due, place) == decision.due
    assert retention.begin(period, at, decision.next, place) == decision.next
    assert retention.begin(period, at, decision.next - datetime.timedelta(seconds=1), place) == decision.due


@hypothesis.settings(deadline=None)
@hypothesis.given(st.lists(st.integers(0, 24 * 60), max_size=60, unique=True), st.integers(1, 5), st.integers(1, 5))
def test_never_more_goes_than_has_to_and_what_stays_stays(minutes, hourly, daily):
    of = schedule(f"hourly={hourly},daily={daily}")
    start = utc("2026-10-20T00:00")
    known = [retention.Taken(str(m), "", start + datetime.timedelta(minutes=17 * m)) for m in minutes]
    now = start + datetime.timedelta(days=30)
    decision = retention.decide(of, known, now=now, zone=PARIS)
    assert {one.uid for one in known} == {one.taken.uid for one in decision.keep} | {one.uid for one in decision.drop}
    assert len(decision.keep) <= hourly + daily
    again = retention.decide(of, [one.taken for one in decision.keep], now=now, zone=PARIS)
    assert again.drop == ()
