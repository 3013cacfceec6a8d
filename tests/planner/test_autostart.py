from __future__ import annotations

import datetime

from bocage.model import base
from bocage.planner import autostart
from tests.planner import things

FIRST = datetime.datetime(2026, 5, 1, tzinfo=datetime.UTC)


def made(name: str, *, power: str = "stopped", day: int = 0, deleted: bool = False, **start: object):
    created = FIRST + datetime.timedelta(days=day)
    metadata = {"created": created, "deleted": created if deleted else None}
    return things.machine(uid=base.new_uid(), name=name, metadata=metadata, power=power, autostart=start)


def order(*machines) -> list[str]:
    names = {machine.uid: machine.name for machine in machines}
    return [names[turn.uid] for turn in autostart.turns(machines)]


def test_lower_orders_start_first_and_within_one_the_older():
    web = made("web", enabled=True, order=20)
    late = made("late", enabled=True, order=10, day=2)
    early = made("early", enabled=True, order=10, day=1)
    assert order(web, late, early) == ["early", "late", "web"]


def test_those_start_that_should_with_the_host_and_those_that_ran_but_none_that_was_stopped_saved_or_deleted():
    assert order(
        made("wanted", enabled=True),
        made("ran", power="running"),
        made("stopped"),
        made("saved", power="saved", enabled=True),
        made("deleted", enabled=True, deleted=True),
    ) in (["wanted", "ran"], ["ran", "wanted"])


def test_the_first_of_an_order_waits_for_all_before_it_and_each_has_its_delay():
    turns = autostart.turns(
        [
            made("a", enabled=True, order=1, delay=5),
            made("b", enabled=True, order=1, day=1),
            made("c", enabled=True, order=2, delay=7),
        ]
    )
    assert [(turn.first_of_its_order, turn.delay) for turn in turns] == [(True, 5.0), (False, 0.0), (True, 7.0)]
