"""Why a VM is as it is: state in, chain out."""

import datetime
from typing import Any

import pytest

from bocage import words
from bocage.model import base, ground, vm, work
from bocage.node import notes
from bocage.planner import lifecycle, why
from tests.planner import test_definition as made

NOW = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)
NETWORK = made.NETWORK


def machine(power: str = "stopped", **status: object) -> vm.VM:
    defined = made.define(image="tiny").vm
    values = {"ready": True, **status}
    spec = defined.spec.model_copy(update={"power": vm.Power(power)})
    return defined.model_copy(update={"spec": spec, "status": vm.VMStatus.model_validate(values)})


def task(
    action: str,
    state: str = "done",
    *,
    at: datetime.datetime = NOW,
    params: dict[str, Any] | None = None,
    **status: object,
) -> work.Task:
    made_ = work.task(action, asked_by="unix:0", **(params or {}))
    return made_.model_copy(
        update={
            "metadata": made_.metadata.model_copy(update={"created": at}),
            "status": work.TaskStatus.model_validate({"state": state, **status}),
        }
    )


def ended(type_: str, at: datetime.datetime, **params: object) -> vm.End:
    """An end by itself, in words of a node's, which the planner knows by their type alone."""
    return vm.End(when=at, reason=base.Saying(type=type_, params={"name": "web1", "last_lines": [], **params}))


def minutes(count: int) -> datetime.datetime:
    """A moment so many minutes from now."""
    return NOW + datetime.timedelta(minutes=count)


def ask(subject: vm.VM, **world: object) -> list[words.Message]:
    host = made.HOST.model_copy(
        update={"status": made.HOST.status.model_copy(update={"seen": NOW - datetime.timedelta(seconds=5)})}
    )
    volumes = [volume(subject)]
    given = {"host": host, "storage": made.LOCAL, "volumes": volumes, "now": NOW, **world}
    return why.why(subject, **given)  # type: ignore[arg-type]


def volume(subject: vm.VM, **status: object) -> ground.Volume:
    return made.DATA.model_copy(
        update={
            "metadata": made.DATA.metadata.model_copy(update={"uid": subject.spec.disks[0].volume}),
            "status": ground.VolumeStatus.model_validate({"state": "ready", **status}),
        }
    )


def types(chain: list[words.Message]) -> list[str]:
    return [link.type for link in chain]


def test_every_link_has_a_sentence_and_what_is_wrong_has_a_hint():
    subject = machine("running", state="crashed", restarts=2, next_try=NOW + datetime.timedelta(seconds=9))
    chain = ask(subject, host=None, storage=None, volumes=[])
    assert all(words.say(link) for link in chain)
    assert {"why-no-host", "why-waits-until", "why-disk-gone"} <= set(types(chain))
    assert all(words.advise(link) for link in chain[-2:])


def test_a_vm_that_nobody_started_says_so():
    assert types(ask(machine())) == ["why-is", "why-never-started"]


def test_neither_does_one_that_was_only_made():
    assert types(ask(machine(), tasks=[task("vm.create")])) == ["why-is", "why-never-started"]
    assert types(ask(machine(), tasks=[task("vm.create"), task("vm.start", "failed")]))[-1] != "why-never-started"


def test_a_stopped_vm_names_who_stopped_it():
    chain = ask(machine(state="stopped", since=NOW), tasks=[task("vm.start"), task("vm.stop")])
    assert types(chain) == ["why-is-since", "why-asked"]
    assert chain[1].params["by"] == "unix:0"
    assert words.advise(chain[1]) == "'bocage vm start web1' undoes that"


def test_an_earlier_stop_is_not_blamed_for_what_the_guest_did_itself():
    off = base.Saying(type="vm-switched-off", params={"name": "web1"})
    chain = ask(machine(state="stopped", reason=off), tasks=[task("vm.stop"), task("vm.start")])
    assert [link.type for link in chain][2:] == ["why-stays-off"]
    assert "bocage vm start web1" in words.advise(chain[-1])
    assert "why-asked" not in types(ask(machine(state="stopped"), tasks=[task("vm.stop"), task("vm.start")]))


def test_a_reason_that_repeats_the_state_is_left_out():
    paused = base.Saying(type="vm-paused", params={"name": "web1"})
    chain = ask(machine("paused", state="paused", reason=paused, accelerator="tcg"), tasks=[task("vm.pause")])
    assert types(chain) == ["why-is", "why-asked"]
    assert words.advise(chain[1]) == "'bocage vm resume web1' undoes that"


def test_a_start_that_failed_is_said_once():
    problem = base.Saying.of(words.Unknown(name="qemu", said="no such machine"))
    reason = base.Saying(type="vm-start-did-not-work", params={"name": "web1", "reason": problem.text})
    chain = ask(machine("running", state="crashed", reason=reason, problem=problem))
    assert types(chain)[1:] == ["why-should-be", "unknown-message"]


def test_one_that_ended_by_itself_and_runs_again_says_so():
    crash = ended("vm-crashed", minutes(-5), reason="killed")
    subject = machine("running", state="running", restarts=1, last_end=crash)
    chain = ask(subject, tasks=[task("vm.start", at=minutes(-9))])
    assert types(chain)[1:4] == ["why-asked", "why-came-back", crash.reason.message.type]
    assert chain[2].params["when"] == "2026-01-01 11:55:00 UTC"
    started_by_hand = [task("vm.start", at=minutes(-9)), task("vm.start", at=minutes(-1))]
    assert "why-came-back" not in types(ask(subject, tasks=started_by_hand))


def test_one_that_came_back_with_its_host_says_so():
    subject = machine("running", state="running", last_end=ended("vm-host-restarted", minutes(-5)))
    assert types(ask(subject)) == ["why-is", "why-came-back-with-host"]


def test_one_that_another_host_took_over_says_so():
    taken = ended("vm-taken-over", minutes(-5), host="host2")
    subject = machine("running", state="running", last_end=taken)
    assert types(ask(subject)) == ["why-is", "why-taken-over", taken.reason.message.type]


def test_what_it_ended_of_comes_with_when_it_is_tried_again():
    crashed = base.Saying.of(lifecycle.NoRestart(name="web1"))
    subject = machine(
        "running", state="crashed", reason=crashed, restarts=3, next_try=NOW + datetime.timedelta(seconds=30)
    )
    chain = ask(subject)
    assert types(chain) == ["why-is", "why-should-be", "restart-never", "why-waits-until"]
    assert chain[-1].params["next"] == 4


def test_at_the_limit_it_is_said_that_nothing_more_is_tried():
    assert "why-no-more-tries" in types(ask(machine("running", state="crashed", restarts=5)))


def test_a_start_that_failed_gives_the_tasks_own_reason():
    problem = base.Saying.of(words.Unknown(name="qemu", said="no such machine"))
    chain = ask(machine(), tasks=[task("vm.start", "failed", problem=problem)])
    assert types(chain) == ["why-is", "why-task-failed", "unknown-message"]
    assert "bocage task show" in words.advise(chain[1])


def test_a_failure_that_something_followed_explains_nothing():
    chain = ask(machine("running", state="running"), tasks=[task("vm.start", "failed"), task("vm.start")])
    assert types(chain) == ["why-is", "why-asked"]


def test_what_is_under_way_is_told_with_its_step():
    step = base.Saying.of(words.Unknown(name="step", said="copying"))
    chain = ask(machine("running", ready=False), tasks=[task("vm.create", "running", step=step)])
    assert types(chain)[2:4] == ["why-being-done", "unknown-message"]


@pytest.mark.parametrize(("state", "expected"), [("failed", "why-disk-failed"), ("pending", "why-disk-being-made")])
def test_a_disk_that_is_not_there_yet_or_never_will_be(state, expected):
    subject = machine("running", ready=False)
    assert expected in types(ask(subject, volumes=[volume(subject, state=state)]))


def test_a_full_storage_is_named_when_the_vm_is_not_as_it_should_be():
    full = made.LOCAL.model_copy(
        update={"status": ground.StorageStatus(state="ready", total_bytes=100 << 30, free_bytes=1 << 30)}
    )
    chain = ask(machine("running", state="paused"), storage=full)
    assert "migrate" not in words.advise(next(link for link in chain if link.type == "why-storage-full"))
    assert "why-storage-full" not in types(ask(machine("running", state="running"), storage=full))


def test_a_storage_that_is_away_says_why():
    away = made.LOCAL.model_copy(
        update={
            "status": ground.StorageStatus(
                state="unavailable", reason=base.Saying.of(words.Unknown(name="mount", said="gone"))
            )
        }
    )
    assert types(ask(machine("running"), storage=away))[-2:] == ["why-storage-away", "unknown-message"]


def test_a_network_that_failed_is_named():
    failed = NETWORK.model_copy(update={"status": ground.NetworkStatus(state="failed")})
    assert "why-network-down" in types(ask(machine("running"), networks=[failed]))
    assert "why-network-down" not in types(ask(machine("running"), networks=[NETWORK]))


def test_a_host_that_was_not_heard_of_is_told():
    silent = made.HOST.model_copy(
        update={"status": made.HOST.status.model_copy(update={"seen": NOW - datetime.timedelta(minutes=5)})}
    )
    chain = ask(machine("running", state="unknown"), host=silent)
    assert next(link for link in chain if link.type == "why-host-silent").params["ago"] == 300.0


def test_the_silence_of_a_host_explains_nothing_while_nothing_depends_on_it():
    silent = made.HOST.model_copy(
        update={"status": made.HOST.status.model_copy(update={"seen": NOW - datetime.timedelta(minutes=5)})}
    )
    assert "why-host-silent" not in types(ask(machine("running", state="running"), host=silent))
    waiting = task("vm.start", "pending")
    old = waiting.metadata.model_copy(update={"created": NOW - datetime.timedelta(minutes=3)})
    chain = ask(machine("running"), host=silent, tasks=[waiting.model_copy(update={"metadata": old})])
    assert "why-host-silent" in types(chain)


def test_a_running_vm_says_what_waits_and_why_it_is_slow():
    subject = machine(
        "running",
        state="running",
        applied_generation=1,
        accelerator="tcg",
        qemu={"running": "7.2.0", "installed": "10.0.0"},
    )
    subject = subject.model_copy(update={"metadata": subject.metadata.model_copy(update={"generation": 2})})
    reason = base.Saying.of(words.Unknown(name="kvm", said="crawls"))
    slow = made.HOST.model_copy(
        update={"status": made.HOST.status.model_copy(update={"accelerator_reason": reason, "seen": NOW})}
    )
    assert types(ask(subject, host=slow))[-4:] == [
        "why-changes-wait",
        "why-old-qemu",
        "why-emulated",
        "unknown-message",
    ]


def test_a_vm_that_stops_says_how_long_its_guest_has():
    chain = ask(machine("stopped", state="stopping"))
    assert types(chain) == ["why-is", "why-guest-is-asked"]
    assert "why-should-be" not in types(chain)
    hurried = ask(machine("stopped", state="stopping"), tasks=[task("vm.stop", "running", params={"within": 7.0})])
    assert hurried[1].params["within"] == 7.0


def test_in_the_trash_nothing_else_matters():
    subject = machine()
    gone = subject.model_copy(update={"metadata": subject.metadata.model_copy(update={"deleted": NOW})})
    assert types(ask(gone, host=None)) == ["why-is", "why-in-trash"]


def test_nothing_is_said_twice():
    reason = base.Saying.of(lifecycle.GaveUp(name="web1", count=5))
    chain = ask(machine("running", state="crashed", reason=reason, problem=reason))
    assert types(chain).count("restart-gave-up") == 1


def test_what_it_knows_of_the_node_by_name_is_there():
    known = {note.type for note in notes.Note.__subclasses__()}
    assert {why._HOST_RESTARTED, *why._SAYS_THE_STATE} <= known
