"""Snapshots and their schedules from the command line: what is sent, and what is shown of the answer."""

from __future__ import annotations

from tests.cli.conftest import Bocage
from tests.fake_api import FakeApi

WEB1 = "/projects/default/vms/web1"


def test_what_is_said_of_a_snapshot_is_sent_as_it_was_given(api: FakeApi, bocage: Bocage):
    api.on("PATCH", f"{WEB1}/snapshots/before", {"metadata": {"name": "before", "title": "T"}})
    ended = bocage("vm", "snapshot", "set", "web1", "before", "--title", "T", "--notes", "", "--tag", "a")
    assert (ended.code, ended.out) == (0, "the snapshot before of web1 is changed\n")
    assert api.asked[0].document == {"title": "T", "notes": "", "tags": ["a"]}
    assert '"title": "T"' in bocage("vm", "snapshot", "set", "web1", "before", "--title", "T", "--json").out
    assert bocage("vm", "snapshot", "set", "web1", "before").code == 2


def test_a_trial_of_a_schedule_is_of_the_one_that_was_given_memory_and_all(api: FakeApi, bocage: Bocage):
    moment = "2026-11-29T01:00:00Z"
    plan = {"zone": "UTC", "take": True, "due": moment, "next": moment, "keep": [], "drop": []}
    api.on("GET", f"{WEB1}/schedule", {**plan, "memory": True}, {**plan, "memory": False})
    trial = ("vm", "snapshot", "schedule", "web1", "hourly=24")
    assert "memory" in bocage(*trial, "--memory", "--dry-run").out
    assert "memory" not in bocage(*trial, "--dry-run").out
    assert [one.path.partition("?")[2] for one in api.asked] == ["keep=hourly%3D24&memory=true", "keep=hourly%3D24"]
    api.on("PATCH", WEB1, {})
    bocage(*trial, "--memory")
    assert api.asked_for("PATCH")[0].document == {"snapshots": {"keep": {"hourly": 24}, "memory": True}}
    assert "?" not in api.asked[-1].path, "what is shown is what counts now"


def test_how_a_schedule_is_to_be_without_what_it_keeps_is_not_taken_for_one(bocage: Bocage):
    for how in (("--memory",), ("--at", "03:00"), ("--zone", "Europe/Paris")):
        ended = bocage("vm", "snapshot", "schedule", "web1", *how)
        assert (ended.code, "hourly=24,daily=7" in ended.err) == (2, True)
