"""Schedules on a host: what the planner decides is asked for, once, and done."""

from __future__ import annotations

import asyncio
import datetime
from typing import Any

import pytest

from bocage.model import base, snapshot, vm, work
from bocage.model.schedule import SnapshotSchedule
from bocage.node.rounds import scheduling
from bocage.planner import layers
from bocage.store import resources
from tests.node.house import BLANK, House
from tests.node.test_snapshots import done, whole


@pytest.fixture
def moment(monkeypatch: pytest.MonkeyPatch) -> dict[str, datetime.datetime]:
    """What the schedules take for now."""
    held = {"now": datetime.datetime(2026, 10, 24, 21, 59, tzinfo=datetime.UTC)}
    monkeypatch.setattr(base, "now", lambda: held["now"])
    return held


async def scheduled(house: House, text: str, **request: Any) -> vm.VM:
    made = await house.create(**{**BLANK, **request})
    wanted = SnapshotSchedule.model_validate(text)
    return await house.resources.change(
        vm.VM, "default", made.uid, lambda one: resources.with_spec(one, snapshots=wanted)
    )


async def settled(house: House, made: vm.VM) -> dict[str, snapshot.Snapshot]:
    """Its snapshots, when none is being made or deleted."""
    found = await house.until(
        lambda: house.kept(made), lambda known: all(one.status.state == "ready" for one in known.values())
    )
    await house.until(lambda: open_tasks(house), lambda count: count == 0)
    assert found is not None
    return await house.kept(made)


async def open_tasks(house: House) -> int:
    return sum(not one.status.state.ended for one in (await house.resources.list(work.Task)).items)


async def test_hours_are_kept_while_it_runs_and_none_is_added_while_it_is_off(
    house: House, moment: dict[str, datetime.datetime]
):
    made = await scheduled(house, "hourly=3", start=True)
    rounds = scheduling.Scheduling(house.node.shop, house.node.crew)
    for _ in range(6):
        moment["now"] += datetime.timedelta(hours=1)
        await rounds.look()
        await settled(house, made)
        rounds.see("vm", "spec")  # as the next round after half a minute
        await rounds.look()
        await settled(house, made)
    names = list(await house.kept(made))
    assert len(names) == 3
    assert names[-1] == "auto-20261025t035900z"
    done(await house.ask("vm.kill", made))
    await house.resources.change_status(
        vm.VM, "default", made.uid, lambda one: one.status.model_copy(update={"since": moment["now"]})
    )
    moment["now"] += datetime.timedelta(hours=2)
    rounds.see("vm", "spec")
    await rounds.look()
    last = await settled(house, made)
    assert len(last) == 3, "one more, since it has changed after the last one, and one less"
    for _ in range(3):
        moment["now"] += datetime.timedelta(hours=2)
        rounds.see("vm", "spec")
        await rounds.look()
    assert list(await settled(house, made)) == list(last)
    await whole(house, made)


async def test_it_stops_where_the_chain_is_as_deep_as_it_may_be_and_goes_on_when_it_is_not(
    house: House, moment: dict[str, datetime.datetime], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(layers, "MOST_DEEP", 2)
    made = await scheduled(house, "hourly=9", start=True)
    rounds = scheduling.Scheduling(house.node.shop, house.node.crew)

    async def an_hour_later() -> list[str]:
        moment["now"] += datetime.timedelta(hours=1)
        rounds.see("vm", "spec")
        await rounds.look()
        return list(await settled(house, made))

    first, second = [(await an_hour_later())[-1] for _ in range(2)]
    assert await an_hour_later() == [first, second]
    [refused] = [one for one in (await house.resources.list(work.Task)).items if one.status.problem]
    assert refused.status.problem is not None
    assert refused.status.problem.type == "snapshot-too-deep"
    assert (await house.events()).count("snapshot-not-made") == 1
    done(await house.forget(made, first))
    assert len(await an_hour_later()) == 2
    await house.ask("vm.kill", made)
    await whole(house, made)


async def test_one_that_cannot_be_made_is_tried_once_in_its_hour(house: House, moment: dict[str, datetime.datetime]):
    made = await scheduled(house, "hourly=3")
    bare = resources.with_spec(made, disks=(), boot=vm.Boot())
    await house.resources.change(vm.VM, "default", made.uid, lambda one: one.model_copy(update={"spec": bare.spec}))
    rounds = scheduling.Scheduling(house.node.shop, house.node.crew)
    for _ in range(3):
        rounds.see("vm", "spec")
        await rounds.look()
        await house.until(lambda: open_tasks(house), lambda count: count == 0)
        await asyncio.sleep(0)
    assert (await house.events()).count("snapshot-not-made") == 1
