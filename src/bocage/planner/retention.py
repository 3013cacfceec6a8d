"""When a schedule's next snapshot is due and which of the old ones go: from the clock and what is there, to a decision.

Periods are those of the wall clock of a time zone. An hour that comes twice when summer time ends is two hours; a day
that begins in the hour that is left out when it starts begins at that hour's end.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterable, Sequence

from bocage.model.schedule import Period, SnapshotSchedule

_HOUR = datetime.timedelta(hours=1)
_DAY = datetime.timedelta(days=1)
_NONE = datetime.timedelta()


@dataclasses.dataclass(frozen=True, slots=True)
class Taken:
    """A snapshot that the schedule made."""

    uid: str
    name: str
    when: datetime.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class Kept:
    """A snapshot that stays, for the periods whose first one it is; none when it is of a time that has not come."""

    taken: Taken
    periods: tuple[Period, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Decision:
    """What a schedule wants at one moment. `due` is when the present period began, `next` when the next one does."""

    take: bool
    due: datetime.datetime
    next: datetime.datetime
    keep: tuple[Kept, ...]
    drop: tuple[Taken, ...]


def decide(
    schedule: SnapshotSchedule, taken: Iterable[Taken], *, now: datetime.datetime, zone: datetime.tzinfo
) -> Decision:
    """What to do at `now`, an aware time; `taken` may hold snapshots of the future, after a clock that was wrong.

    Counted are periods that have a snapshot, not those that went by: a VM that was off for a year, or a clock that
    jumped, costs none of them. One that is missing is taken once, however many were missed.
    """
    known = sorted(taken, key=lambda one: (one.when, one.uid))
    past = [one for one in known if one.when <= now]
    due = begin(schedule.shortest, schedule.at, now, zone)
    reasons: dict[str, list[Period]] = {one.uid: [] for one in known}
    for period, count in schedule.keep.items():
        for uid in _firsts(period, schedule.at, past, zone)[-count:]:
            reasons[uid].append(period)
    future = [one.uid for one in known if one.when > now]
    keep = tuple(Kept(one, tuple(reasons[one.uid])) for one in known if reasons[one.uid] or one.uid in future)
    held = {one.taken.uid for one in keep}
    return Decision(
        take=not any(one.when >= due for one in past),
        due=due,
        next=_after(schedule.shortest, schedule.at, now, zone),
        keep=keep,
        drop=tuple(one for one in known if one.uid not in held),
    )


def begin(period: Period, at: str, when: datetime.datetime, zone: datetime.tzinfo) -> datetime.datetime:
    """When the period began that holds `when`; UTC."""
    hours, minutes = map(int, at.split(":"))
    if period is Period.HOURLY:
        local = when.astimezone(zone)  # without summer time, which is half an hour in some places
        standard = when.astimezone(datetime.UTC) + (local.utcoffset() or _NONE) - (local.dst() or _NONE)
        past = datetime.timedelta(
            minutes=(standard.minute - minutes) % 60, seconds=standard.second, microseconds=standard.microsecond
        )
        return when.astimezone(datetime.UTC) - past
    day = when.astimezone(zone).date() + _DAY  # tomorrow's may have begun already, where `at` lies in a gap
    while (moment := _instant(day, hours, minutes, zone)) > when or _first_day(period, day) != day:
        day -= _DAY
    return moment


def _after(period: Period, at: str, when: datetime.datetime, zone: datetime.tzinfo) -> datetime.datetime:
    """When the period begins that follows on the one which holds `when`; UTC."""
    if period is Period.HOURLY:
        return begin(period, at, when, zone) + _HOUR
    hours, minutes = map(int, at.split(":"))
    day = begin(period, at, when, zone).astimezone(zone).date()
    while True:
        day += _DAY
        if _first_day(period, day) == day and (moment := _instant(day, hours, minutes, zone)) > when:
            return moment


def _first_day(period: Period, day: datetime.date) -> datetime.date:
    match period:
        case Period.WEEKLY:  # from Monday (ISO 8601)
            return day - _DAY * day.weekday()
        case Period.MONTHLY:
            return day.replace(day=1)
        case Period.YEARLY:
            return day.replace(month=1, day=1)
        case _:
            return day


def _instant(day: datetime.date, hours: int, minutes: int, zone: datetime.tzinfo) -> datetime.datetime:
    """When a wall clock shows this time of a day: the first time of two, the gap's end where it never does; UTC."""
    local = datetime.datetime.combine(day, datetime.time(hours, minutes), zone)
    back = local.astimezone(datetime.UTC).astimezone(zone)
    if back.replace(tzinfo=None) == local.replace(tzinfo=None):
        return local.astimezone(datetime.UTC)
    # Left out (PEP 495): both readings are off by the gap, to its two sides; its end lies between them.
    early, late = sorted(local.replace(fold=fold).astimezone(datetime.UTC) for fold in (0, 1))
    offset = early.astimezone(zone).utcoffset()
    while late - early > datetime.timedelta(seconds=1):
        middle = early + (late - early) / 2
        early, late = (middle, late) if middle.astimezone(zone).utcoffset() == offset else (early, middle)
    return late.replace(microsecond=0)


def _firsts(period: Period, at: str, past: Sequence[Taken], zone: datetime.tzinfo) -> list[str]:
    """The first snapshot of each period that has one, the oldest period first."""
    found: dict[datetime.datetime, str] = {}
    for one in past:
        found.setdefault(begin(period, at, one.when, zone), one.uid)
    return list(found.values())
