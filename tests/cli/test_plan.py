"""`bocage plan`: the planner's answers as a person reads them, in 80 columns."""

import json
import pathlib
from typing import Any

import pytest

from tests.cli.conftest import Bocage
from tests.fake_api import FakeApi


def said(type_: str, text: str, hint: str = "") -> dict[str, Any]:
    return {"type": type_, "params": {}, "text": text, "hint": hint}


def move(vm: str, origin: str, to: str, score: float, because: str = "move-balances") -> dict[str, Any]:
    told = said(because, "it must not be on host1: host1 is draining")
    return {"vm": vm, "origin": origin, "to": to, "score": score, "because": told}


def share(host: str, vms: int) -> dict[str, Any]:
    return {"host": host, "vms": vms, "memory": vms << 30, "memory_room": 8 << 30, "vcpus": vms}


PLACED = {
    "vm": "web1",
    "host": "host2",
    "because": said("placed-only", "host2 is the only host that can have it"),
    "verdicts": [
        {"host": "host2", "reasons": [], "score": 0.25, "memory_left": 3 << 30, "vcpus": 4},
        {"host": "host1", "reasons": [said("host-takes-no-vms", "host1 is draining", "wait until it is ready")]},
    ],
}
PLAN = {
    "before": 1.5,
    "after": 0.5,
    "moves": [move("a", "host1", "host2", 0.75, "move-mends"), move("b", "host1", "host2", 0.5)],
    "hosts_before": [share("host1", 4), share("host2", 0)],
    "hosts_after": [share("host1", 2), share("host2", 2)],
    "stuck": [
        {
            "vm": "c",
            "host": "host1",
            "reasons": [said("host-takes-no-vms", "host1 is draining")],
            "verdicts": [{"host": "host2", "reasons": [said("host-lacks-tag", "host2 has no tag ssd")]}],
        }
    ],
    "unsurvived": [{"vm": "d", "hosts": ["host2"], "reason": said("survive-no-room", "it needs 9G")}],
    "complete": False,
}


def test_the_choice_and_every_refusal_is_told(api: FakeApi, bocage: Bocage):
    api.on("POST", "/plan/place", PLACED)
    ended = bocage("plan", "place", "web1", "--survive", "1")
    assert ended.out.splitlines() == [
        "web1: host2",
        "because host2 is the only host that can have it",
        "",
        "HOST   ANSWER   SCORE  MEMORY LEFT  VCPUS GIVEN",
        "host2  best    0.2500           3G            4",
        "",
        "host1: no",
        "  host1 is draining",
        "    → wait until it is ready",
    ]
    assert api.asked[0].document == {"vm": "web1", "survive": 1}


def test_one_that_is_not_there_is_asked_for_by_what_it_would_be(api: FakeApi, bocage: Bocage):
    api.on("POST", "/plan/place", PLACED)
    asked = ("--memory", "4G", "--cpus", "2", "--storage", "array", "--apart", "web", "--disk", "9G", "--replica")
    assert json.loads(bocage("plan", "place", "new", *asked, "--json").out) == PLACED
    assert api.asked[0].document["new"] == {
        "name": "new",
        "project": "default",
        "memory": "4G",
        "vcpus": 2,
        "storages": ["array"],
        "apart": ["web"],
        "disk": "9G",
        "replicated": True,
    }


def test_a_plan_is_told_step_by_step_with_what_it_cannot_help(api: FakeApi, bocage: Bocage, tmp_path: pathlib.Path):
    api.on("POST", "/plan/rebalance", PLAN)
    (tmp_path / "dump.json").write_text('{"hosts": []}')
    ended = bocage("plan", "rebalance", "--moves", "2", "--from", str(tmp_path / "dump.json"))
    assert ended.out.splitlines() == [
        "score 1.5000 → 0.5000 with 2 moves; more would gain",
        "",
        "STEP  VM  FROM   TO      SCORE",
        "   1  a   host1  host2  0.7500",
        "      it must not be on host1: host1 is draining",
        "   2  b   host1  host2  0.5000",
        "",
        "HOST     VMS   MEMORY  OF  VCPUS",
        "host1  4 → 2  4G → 2G  8G  4 → 2",
        "host2  0 → 2  0B → 2G  8G  0 → 2",
        "",
        "c is on host1, must not be, and cannot leave:",
        "  host1 is draining",
        "  and host2 has no tag ssd",
        "",
        "would not run again:",
        "  d, if host2 died: it needs 9G",
    ]
    assert api.asked[0].document == {"world": {"hosts": []}, "moves": 2}


def test_a_dump_is_text_that_comes_back(api: FakeApi, bocage: Bocage, tmp_path: pathlib.Path):
    api.on("GET", "/plan/world", {"hosts": [], "vms": []})
    (tmp_path / "dump.json").write_text(bocage("plan", "dump").out)
    api.on("POST", "/plan/rebalance", PLAN)
    bocage("plan", "rebalance", "--from", str(tmp_path / "dump.json"))
    assert api.asked[1].document == {"world": {"hosts": [], "vms": []}}


@pytest.mark.parametrize("text", ["{", "null", "[]", "[" * 100_000])
def test_a_file_that_is_no_dump_is_told_before_anything_is_asked(
    text: str, api: FakeApi, bocage: Bocage, tmp_path: pathlib.Path
):
    (tmp_path / "dump.json").write_text(text)
    ended = bocage("plan", "place", "web1", "--from", str(tmp_path / "dump.json"))
    assert ended.code == 2
    assert "bocage plan dump" in ended.err
    assert "report it" not in ended.err
    assert api.asked == []


@pytest.mark.parametrize(
    "options",
    [
        *(("--cpus", "2"), ("--disk", "9G"), ("--replica",), ("--storage", "array"), ("--network", "office")),
        *(("--host-tag", "ssd"), ("--apart", "web"), ("--together", "shop")),
    ],
)
def test_what_a_new_one_would_have_is_not_left_out_in_silence(options: tuple[str, ...], api: FakeApi, bocage: Bocage):
    ended = bocage("plan", "place", "web9", *options)
    assert ended.code == 2
    assert f"{options[0]}: " in ended.err
    assert "--memory" in ended.err
    assert api.asked == []


def test_a_dump_that_no_plan_takes_is_said_to_be_too_large(api: FakeApi, bocage: Bocage, tmp_path: pathlib.Path):
    (tmp_path / "dump.json").write_text(json.dumps({"vms": [{"name": "x" * (1 << 20)}] * 8}))
    ended = bocage("plan", "rebalance", "--from", str(tmp_path / "dump.json"))
    assert ended.code == 2
    assert "8.0M at most" in " ".join(ended.err.split())
    assert api.asked == []
