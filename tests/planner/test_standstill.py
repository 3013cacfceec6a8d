"""A cluster that is shut down and started again, stage by stage, whoever looks at it when."""

import datetime
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as some

from bocage.model import standstill as model
from bocage.model import vm
from bocage.planner import standstill
from tests.planner import things

NOW = datetime.datetime(2026, 1, 31, 3, 0, tzinfo=datetime.UTC)
OTHER = "5f0c9f1e-6f0a-4c53-9c1e-0d1f5a3f7c99"
BOOTS = {things.HOST: "boot1", OTHER: "boot2"}
OTHER_BOOTS = {things.HOST: "boot3", OTHER: "boot4"}


def uid(number: int) -> str:
    return str(uuid.UUID(int=number + 1))


def machine(number: int, state: str = "running", power: str = "running", **autostart: object) -> vm.VM:
    return things.machine(
        uid=uid(number),
        name=f"vm{number}",
        power=power,
        autostart=autostart,
        status=vm.VMStatus(state=vm.State(state), host=things.HOST),
    )


def after(seconds: float) -> datetime.datetime:
    return NOW + datetime.timedelta(seconds=seconds)


def turned(machines: dict[str, vm.VM], which: str, state: vm.State) -> None:
    one = machines[which]
    machines[which] = one.model_copy(update={"status": one.status.model_copy(update={"state": state})})


@given(some.data())
def test_nobody_goes_off_before_those_that_wait_for_it_and_all_come_back_in_that_order(data):
    """Each look starts from what the store holds: whoever made the last one may be dead."""
    machines, ran = dict[str, vm.VM](), set[str]()
    for number in range(data.draw(some.integers(0, 6))):
        leaders = data.draw(some.sets(some.integers(0, number - 1))) if number else set()
        power = data.draw(some.sampled_from(["running", "running", "stopped"]))
        one = machine(
            number, power, power, order=data.draw(some.integers(0, 2)), after=tuple(uid(at) for at in sorted(leaders))
        )
        machines[one.uid] = one
        ran |= {one.uid} if power == "running" else set()
    of = standstill.begin(machines.values(), by="root", now=NOW)
    for _ in range(2 * len(machines) + 2):
        assert all(of.holds(each) for each in machines.keys() - ran)
        for each in [each for each in ran if of.holds(each)]:
            waiting = [other for other in ran if each in machines[other].spec.autostart.after]
            assert all(of.holds(other) for other in waiting)
        going = standstill.left(of, machines)
        if going and data.draw(some.booleans()):
            turned(machines, data.draw(some.sampled_from(going)), vm.State.STOPPED)
        elif going:
            for each in going:
                turned(machines, each, vm.State.STOPPED)
        found = standstill.step(model.Standstill.model_validate_json(of.model_dump_json()), machines, BOOTS, now=NOW)
        assert found is not None
        of = found
    while of.phase == "stopping":
        for each in standstill.left(of, machines):
            turned(machines, each, vm.State.STOPPED)
        of = standstill.step(of, machines, BOOTS, now=NOW) or of
    assert of.phase == "down"
    assert all(of.holds(each) for each in machines)
    assert standstill.step(of, machines, BOOTS, now=NOW) == of
    now: model.Standstill | None = standstill.step(of, machines, OTHER_BOOTS, now=NOW)
    started = list[str]()
    while now is not None:
        assert now.phase == "starting"
        for each in standstill.left(now, machines):
            assert not set(machines[each].spec.autostart.after) & ran - set(started)
        for each in standstill.left(now, machines):
            turned(machines, each, vm.State.RUNNING)
            started.append(each)
        now = standstill.step(now, machines, OTHER_BOOTS, now=NOW)
    assert set(started) == ran


def test_a_guest_that_does_not_switch_off_is_named_and_holds_the_rest_up():
    web, db = machine(1, after=(uid(0),)), machine(0)
    machines = {one.uid: one for one in (web, db)}
    of = standstill.begin(machines.values(), by="root", now=NOW, within=30)
    assert (of.holds(web.uid), of.holds(db.uid)) == (True, False)
    assert standstill.step(of, machines, BOOTS, now=after(20)) == of
    late = standstill.step(of, machines, BOOTS, now=after(60))
    assert late is not None
    assert (late.stuck, late.up_to, late.phase) == ((web.uid,), 1, "stopping")
    assert standstill.start(late, now=after(70)).stuck == ()
    asked = standstill.again(late, within=5, kill=True, now=after(70))
    assert (asked.kill, asked.within, asked.stuck, asked.stages) == (True, 5, (), of.stages)
    assert standstill.step(asked, machines, BOOTS, now=after(71)) == asked
    gone = standstill.step(asked, machines, BOOTS, silent=[things.HOST], now=after(71))
    assert gone is not None
    assert gone.up_to == 0  # its host is silent, and the plug was asked for


def test_it_is_over_when_every_host_was_off_and_is_back_and_not_before():
    of = standstill.begin([machine(0, "stopped")], by="root", now=NOW)
    machines = {uid(0): machine(0, "stopped")}
    down = standstill.step(of, machines, BOOTS, now=NOW)
    assert down is not None
    assert down.phase == "down"
    assert standstill.step(down, machines, {**BOOTS, OTHER: "boot4"}, now=NOW) == down
    assert standstill.step(down, machines, OTHER_BOOTS, silent=[OTHER], now=NOW) == down
    back = standstill.step(down, machines, OTHER_BOOTS, now=NOW)
    assert back is not None
    assert back.phase == "starting"


@pytest.mark.parametrize("seconds", [60, 200])
def test_one_that_does_not_start_holds_up_the_rest_for_a_bounded_time(seconds):
    machines = {one.uid: one for one in (machine(0, "stopped"), machine(1, "stopped", after=(uid(0),)))}
    of = standstill.start(standstill.begin(machines.values(), by="root", now=NOW), now=NOW)
    found = standstill.step(of, machines, BOOTS, now=after(seconds))
    assert found is not None
    assert found.holds(uid(1)) is (seconds == 60)
    assert found.stuck == (() if seconds == 60 else (uid(0),))
    assert standstill.start(found, now=after(seconds + 1)) == found
    back = standstill.again(found, within=None, kill=False, now=after(seconds))
    assert (back.phase, back.holds(uid(1))) == ("stopping", True)


def test_who_starts_in_the_midst_of_a_shutdown_switches_off_nothing_that_still_runs():
    machines = {one.uid: one for one in (machine(0), machine(1, after=(uid(0),)), machine(2, after=(uid(1),)))}
    of = standstill.begin(machines.values(), by="root", now=NOW)
    assert [of.holds(each) for each in machines] == [False, False, True]
    back = standstill.start(of, now=NOW)
    assert [back.holds(each) for each in machines] == [False, False, True]


def test_neither_a_vm_without_a_host_nor_a_host_that_is_gone_holds_it_up():
    lost = machine(0)
    lost = lost.model_copy(update={"status": lost.status.model_copy(update={"host": None})})
    of = standstill.begin([lost], by="root", now=NOW)
    down = standstill.step(of, {lost.uid: lost}, BOOTS, silent=[OTHER], now=NOW)
    assert down is not None
    assert down.phase == "down"
    back = standstill.step(down, {lost.uid: lost}, {**OTHER_BOOTS, OTHER: BOOTS[OTHER]}, silent=[OTHER], now=NOW)
    assert back is not None
    assert back.phase == "starting"


def test_nobody_waits_for_a_vm_that_was_deleted():
    trashed = machine(2)
    trashed = trashed.model_copy(update={"metadata": trashed.metadata.model_copy(update={"deleted": NOW})})
    of = standstill.begin([machine(0), machine(1, after=(uid(0),)), trashed], by="root", now=NOW)
    assert of.stages == ((uid(0),), (uid(1),))
    assert standstill.left(of, {uid(0): machine(0)}) == []
    assert standstill.left(standstill.start(of, now=NOW), {}) == []


def test_it_stays_down_where_no_host_is_known_to_have_been_switched_off():
    of = standstill.begin([], by="root", now=NOW)
    down = standstill.step(of, {}, BOOTS, silent=[things.HOST, OTHER], now=NOW)
    assert down is not None
    assert (down.phase, down.boots) == ("down", {})
    assert standstill.step(down, {}, OTHER_BOOTS, now=NOW) == down


@pytest.mark.parametrize("state", ["stopped", "saved", "crashed"])
def test_whatever_is_off_is_waited_for_no_more(state):
    of = standstill.begin([machine(0)], by="root", now=NOW)
    assert standstill.left(of, {uid(0): machine(0)}) == [uid(0)]
    assert standstill.left(of, {uid(0): machine(0, state)}) == []


@pytest.mark.parametrize(("state", "power"), [("running", "running"), ("paused", "paused"), ("stopped", "stopped")])
def test_whatever_is_as_it_should_be_has_started(state, power):
    of = standstill.start(standstill.begin([machine(0)], by="root", now=NOW), now=NOW)
    assert standstill.left(of, {uid(0): machine(0, "starting")}) == [uid(0)]
    assert standstill.left(of, {uid(0): machine(0, state, power)}) == []
