from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bocage.model import vm
from bocage.planner import lifecycle
from bocage.planner.lifecycle import Do, Process, Step, World


def world(power: vm.Power = vm.Power.RUNNING, process: Process = Process.NONE, **fields: object) -> World:
    return World(power=power, now=1000.0, process=process, **fields)  # type: ignore[arg-type]


def test_a_vm_that_should_run_and_does_not_is_started():
    assert lifecycle.decide(world()).do is Do.START


def test_a_vm_that_is_as_it_should_be_is_left_alone():
    assert lifecycle.decide(world(process=Process.RUNNING)) == Step(Do.NOTHING)
    assert lifecycle.decide(world(vm.Power.STOPPED)) == Step(Do.NOTHING)
    assert lifecycle.decide(world(vm.Power.PAUSED, Process.PAUSED)) == Step(Do.NOTHING)
    assert lifecycle.decide(world(vm.Power.SAVED, saved=True)) == Step(Do.NOTHING)


def test_disks_are_made_before_anything_else():
    assert lifecycle.decide(world(ready=False)).do is Do.PREPARE


def test_a_crash_is_noted_before_it_is_mended():
    assert lifecycle.decide(world(ended=True)).do is Do.NOTE_CRASH


def test_a_guest_that_switches_itself_off_stays_off():
    assert lifecycle.decide(world(ended=True, orderly=True)).do is Do.NOTE_SWITCHED_OFF


def test_a_guest_that_switches_itself_off_comes_back_when_the_policy_says_always():
    always = vm.Restart(policy="always")
    assert lifecycle.decide(world(ended=True, orderly=True, policy=always)).do is Do.NOTE_CRASH


def test_a_restart_waits_for_its_back_off_and_doubles_it():
    policy = vm.Restart(delay=2.0)
    waiting = lifecycle.decide(world(failed=999.0, policy=policy))
    assert (waiting.do, waiting.again, waiting.waits) == (Do.NOTHING, 1.0, lifecycle.BackOff)
    assert lifecycle.decide(world(failed=998.0, policy=policy)).do is Do.START
    assert lifecycle.backoff(policy, 3) == 16.0
    assert lifecycle.backoff(policy, 1000) == lifecycle.LONGEST_BACKOFF


def test_a_restart_ends_at_its_limit_until_a_person_starts_it():
    policy = vm.Restart(limit=2)
    worn = world(failed=0.0, restarts=2, policy=policy)
    assert lifecycle.decide(worn).waits is lifecycle.GaveUp
    assert lifecycle.decide(dataclasses.replace(worn, asked_to_start=True)).do is Do.START


def test_without_a_restart_policy_it_stays_down():
    assert lifecycle.decide(world(failed=0.0, policy=vm.Restart(policy="never"))).waits is lifecycle.NoRestart


def test_the_power_button_is_pressed_again_since_some_systems_ignore_the_first():
    stopping = world(vm.Power.STOPPED, Process.RUNNING, stopping=990.0, presses=1)
    assert lifecycle.decide(stopping) == Step(Do.NOTHING, again=10.0)
    assert lifecycle.decide(dataclasses.replace(stopping, stopping=980.0)).do is Do.ASK_TO_STOP
    assert lifecycle.decide(dataclasses.replace(stopping, stopping=980.0, presses=2)).do is Do.NOTHING


@pytest.mark.parametrize(("then", "wanted"), [("leave", Do.GIVE_UP_STOPPING), ("kill", Do.KILL)])
def test_at_the_bound_of_a_stop_its_policy_says_what_happens(then: str, wanted: Do):
    policy = vm.StopPolicy.model_validate({"within": 30.0, "then": then})
    late = world(vm.Power.STOPPED, Process.RUNNING, stopping=970.0, presses=2, stop=policy)
    assert lifecycle.decide(late).do is wanted


def test_a_paused_guest_is_woken_to_be_able_to_switch_off():
    assert lifecycle.decide(world(vm.Power.STOPPED, Process.PAUSED)).do is Do.RESUME


def test_a_guest_on_a_full_storage_goes_on_when_there_is_room():
    full = world(process=Process.FULL, room=False)
    assert lifecycle.decide(full) == Step(Do.NOTHING, again=2.0)
    assert lifecycle.decide(dataclasses.replace(full, room=True)).do is Do.RESUME


def test_a_guest_that_meets_a_full_storage_again_at_once_goes_on_less_and_less_soon():
    full = world(process=Process.FULL, resumed=995.0, stalls=2)  # the third time: eight seconds
    assert lifecycle.decide(full).do is Do.NOTHING
    assert lifecycle.decide(dataclasses.replace(full, resumed=991.0)).do is Do.RESUME
    assert lifecycle.decide(dataclasses.replace(full, resumed=930.0, stalls=1000)).do is Do.RESUME


def test_a_guest_whose_writes_fail_goes_on_only_at_a_persons_word():
    failed = world(process=Process.FAILED_STORAGE)
    assert lifecycle.decide(failed) == Step(Do.NOTHING)
    assert lifecycle.decide(dataclasses.replace(failed, asked_to_resume=True)).do is Do.RESUME


def test_a_steady_run_starts_the_count_of_restarts_anew():
    running = world(process=Process.RUNNING, restarts=3, started=900.0)
    assert lifecycle.decide(running) == Step(Do.NOTHING, again=500.0)
    assert lifecycle.decide(dataclasses.replace(running, started=400.0)).do is Do.FORGET_RESTARTS


def test_memory_is_thrown_away_by_a_pulled_plug_alone():
    saved = world(vm.Power.STOPPED, saved=True)
    assert lifecycle.decide(saved).do is Do.KEEP_SAVED
    assert lifecycle.decide(dataclasses.replace(saved, kill=True)).do is Do.DROP_SAVED


def test_a_reboot_asks_the_guest_then_starts_what_went_off_whatever_the_policy():
    asked = world(process=Process.RUNNING, reboot=True, policy=vm.Restart(policy="never"))
    assert lifecycle.decide(asked).do is Do.ASK_TO_REBOOT
    waiting = dataclasses.replace(asked, stopping=999.0, presses=1)
    assert lifecycle.decide(waiting) == Step(Do.NOTHING, again=19.0)
    off = dataclasses.replace(waiting, process=Process.NONE, ended=True, orderly=True)
    assert lifecycle.decide(off).do is Do.NOTE_OFF
    assert lifecycle.decide(dataclasses.replace(off, ended=False)).do is Do.START


def test_a_reboot_has_the_bound_of_a_stop_and_leaves_the_guest_running():
    late = world(process=Process.RUNNING, reboot=True, stopping=800.0, presses=3)
    assert lifecycle.decide(late).do is Do.GIVE_UP_REBOOTING
    by_its_agent = dataclasses.replace(late, guest_reboots=True)
    assert lifecycle.decide(by_its_agent).do is Do.GIVE_UP_REBOOTING
    assert lifecycle.decide(dataclasses.replace(by_its_agent, stopping=900.0)) == Step(Do.NOTHING, again=80.0)


def test_what_is_started_while_it_still_goes_off_is_off_first_and_then_runs():
    going = world(process=Process.RUNNING, stopping=990.0, pressed=990.0, asked_to_start=True)
    assert lifecycle.decide(going) == Step(Do.NOTHING, again=170.0)
    off = dataclasses.replace(going, process=Process.NONE, ended=True, orderly=True, stopping=None)
    assert lifecycle.decide(off).do is Do.NOTE_OFF
    assert lifecycle.decide(dataclasses.replace(going, stopping=0.0)).do is Do.FORGET_STOPPING


def test_a_stop_that_was_cancelled_does_not_take_the_vm_away_when_the_guest_obeys_it_late():
    late = world(ended=True, orderly=True, pressed=950.0)
    assert lifecycle.decide(late).do is Do.NOTE_OFF
    assert lifecycle.decide(dataclasses.replace(late, pressed=100.0)).do is Do.NOTE_SWITCHED_OFF


def test_a_silent_monitor_is_waited_for_and_only_a_person_pulls_the_plug():
    silent = world(process=Process.SILENT)
    assert lifecycle.decide(silent).do is Do.NOTHING
    assert lifecycle.decide(dataclasses.replace(silent, kill=True)).do is Do.KILL


def test_a_deleted_vm_is_killed_then_lies_in_the_trash():
    assert lifecycle.decide(world(process=Process.RUNNING, deleted=True)).do is Do.KILL
    assert lifecycle.decide(world(deleted=True)).do is Do.TRASH
    assert lifecycle.decide(world(deleted=True, trashed=True)) == Step(Do.NOTHING)
    assert lifecycle.decide(world(deleted=True, trashed=True, purge=True)).do is Do.PURGE
    assert lifecycle.decide(world(trashed=True)).do is Do.UNTRASH


worlds = st.builds(
    World,
    power=st.sampled_from(vm.Power),
    now=st.just(1000.0),
    process=st.sampled_from(Process),
    saved=st.booleans(),
    ready=st.booleans(),
    deleted=st.booleans(),
    trashed=st.booleans(),
    kill=st.booleans(),
    asked_to_start=st.booleans(),
    ended=st.booleans(),
    orderly=st.booleans(),
    policy=st.builds(vm.Restart, policy=st.sampled_from(["never", "on-crash", "always"]), limit=st.integers(1, 9)),
    stop=st.builds(vm.StopPolicy, within=st.floats(1, 300), then=st.sampled_from(["leave", "kill"])),
    restarts=st.integers(0, 10),
    failed=st.none() | st.floats(0, 1000),
    stopping=st.none() | st.floats(0, 1000),
    pressed=st.none() | st.floats(0, 1000),
    presses=st.integers(0, 5),
    room=st.booleans(),
    purge=st.booleans(),
    asked_to_resume=st.booleans(),
    started=st.none() | st.floats(0, 1000),
    reboot=st.booleans(),
    guest_reboots=st.booleans(),
    resumed=st.none() | st.floats(0, 1000),
    stalls=st.integers(0, 9),
)


@given(worlds)
def test_from_every_state_the_steps_lead_to_rest(start: World):
    """Play the steps in a world where each does what it should, and time passes when only that helps."""
    if start.ended:
        start = dataclasses.replace(start, process=Process.NONE)
    present = start
    for _ in range(60):
        step = lifecycle.decide(present)
        if step.do is Do.PURGE or (step.do is Do.NOTHING and step.again is None):
            break
        present = _after(present, step)
    else:
        assert present.process in (Process.SILENT, Process.FULL, Process.FAILED_STORAGE), (start, present)
        return
    if step.do is Do.PURGE:
        return
    if present.deleted:
        assert present.trashed
        assert present.process is Process.NONE
    elif present.power is vm.Power.STOPPED:
        assert (present.process, present.saved) == (Process.NONE, False)
    elif present.power is vm.Power.SAVED:
        assert present.saved
        assert present.process is Process.NONE
    elif present.process is Process.NONE:
        assert step.waits in (lifecycle.GaveUp, lifecycle.NoRestart)
    else:
        stalled = present.process in (Process.FULL, Process.FAILED_STORAGE)
        assert stalled or present.process.value == present.power.value


def _after(present: World, step: Step) -> World:
    off: dict[str, object] = {
        "process": Process.NONE,
        "ended": False,
        "stopping": None,
        "pressed": None,
        "presses": 0,
        "failed": None,
    }
    asked: dict[str, object] = {
        "presses": present.presses + 1,
        "pressed": present.now,
        "stopping": present.stopping if present.stopping is not None else present.now,
    }
    forgotten: dict[str, object] = {"stopping": None, "presses": 0, "guest_reboots": False}
    started: dict[str, object] = {
        "saved": False,
        "failed": None,
        "started": present.now,
        "asked_to_start": False,
        "reboot": False,
    }
    effects: dict[Do, dict[str, object]] = {
        Do.NOTHING: {"now": present.now + (step.again or 0.0)},
        Do.PREPARE: {"ready": True},
        Do.START: {**started, "process": Process.RUNNING},
        Do.START_PAUSED: {**started, "process": Process.PAUSED},
        Do.FORGET_RESTARTS: {"restarts": 0},
        Do.ASK_TO_STOP: asked,
        Do.ASK_TO_REBOOT: asked,
        Do.QUIT: {"process": Process.NONE, "ended": True, "orderly": True},
        Do.KILL: {**off, "kill": False},
        Do.GIVE_UP_STOPPING: {**forgotten, "power": vm.Power.RUNNING},
        Do.GIVE_UP_REBOOTING: {**forgotten, "reboot": False},
        Do.FORGET_STOPPING: forgotten,
        Do.PAUSE: {"process": Process.PAUSED},
        Do.RESUME: {"process": Process.RUNNING},
        Do.SAVE: {**off, "saved": True},
        Do.DROP_SAVED: {"saved": False, "kill": False, "power": vm.Power.STOPPED},
        Do.KEEP_SAVED: {"power": vm.Power.SAVED},
        Do.NOTE_SWITCHED_OFF: {**off, "power": _follows(present.power)},
        Do.NOTE_OFF: off,
        Do.NOTE_CRASH: {
            **off,
            "failed": present.now,
            "restarts": present.restarts + 1,
            "asked_to_start": False,
            "reboot": False,
        },
        Do.NOTHING_TO_SAVE: {"power": vm.Power.STOPPED},
        Do.TRASH: {"trashed": True},
        Do.UNTRASH: {"trashed": False},
    }
    return dataclasses.replace(present, **effects[step.do])  # type: ignore[arg-type]


def _follows(power: vm.Power) -> vm.Power:
    return vm.Power.STOPPED if power in (vm.Power.RUNNING, vm.Power.PAUSED) else power


def test_a_vm_whose_host_goes_down_is_asked_to_go_off_and_at_the_bound_its_plug_is_pulled():
    policy = vm.StopPolicy.model_validate({"within": 30.0, "then": "leave"})
    running = world(process=Process.RUNNING, leaving=True, stop=policy)
    assert lifecycle.decide(running).do is Do.ASK_TO_STOP
    assert lifecycle.decide(dataclasses.replace(running, stopping=960.0, presses=2)).do is Do.KILL
    assert lifecycle.decide(dataclasses.replace(running, process=Process.PAUSED)).do is Do.RESUME


def test_what_went_off_because_its_host_goes_down_should_run_all_the_same():
    assert lifecycle.decide(world(ended=True, orderly=True, leaving=True)).do is Do.NOTE_OFF
    assert lifecycle.decide(world(leaving=True)).do is Do.START  # which the node holds back until the host is up again


def test_a_rescue_ends_when_the_vm_is_off_and_not_before():
    assert lifecycle.decide(world(vm.Power.STOPPED, rescue=True)).do is Do.LEAVE_RESCUE
    assert lifecycle.decide(world(vm.Power.STOPPED, rescue=True, saved=True)).do is Do.KEEP_SAVED
    assert lifecycle.decide(world(vm.Power.STOPPED, Process.RUNNING, rescue=True)).do is Do.ASK_TO_STOP
    assert lifecycle.decide(world(rescue=True)).do is Do.START
    always = vm.Restart(policy="always")
    assert lifecycle.decide(world(ended=True, orderly=True, policy=always, rescue=True)).do is Do.NOTE_SWITCHED_OFF
