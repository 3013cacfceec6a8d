"""`bocage failover`: what a person reads at 3 a.m., and the word that is asked for."""

from typing import Any

from tests.cli.conftest import Bocage
from tests.fake_api import FakeApi, Reply


def said(text: str, hint: str = "") -> dict[str, Any]:
    return {"type": "x", "params": {}, "text": text, "hint": hint}


def at(seconds: float) -> str:
    return f"2026-01-31T03:00:{seconds:06.3f}Z"


VMS = [
    {
        "vm": {"kind": "vm", "uid": "u1", "name": "web1"},
        "runs": True,
        "to": {"kind": "host", "uid": "h1", "name": "host1"},
        "given": at(2.4),
        "started": at(3.1),
        "problem": None,
    },
    {"vm": {"kind": "vm", "uid": "u2", "name": "off"}, "runs": False, "to": None, "problem": said("no room anywhere")},
]
FAILOVER: dict[str, Any] = {
    "metadata": {"uid": "01890a5d-ac96-774b-bcce-b302099a8057", "name": "host2-4"},
    "spec": {"host": "h2", "host_name": "host2", "epoch": 4, "confirmed": None},
    "status": {
        "state": "moving",
        "silent_since": at(0),
        "leader": "host1",
        "proof": "power",
        "steps": [{"time": at(1.5), "said": said("the life of host2 was ended")}, {"time": at(2), "said": said("off")}],
        "waits": None,
        "vms": VMS,
        "ended": None,
    },
}
WAITING = {**FAILOVER, "status": {**FAILOVER["status"], "waits": said("no BMC is set", "confirm it"), "vms": []}}


def test_the_newest_failover_is_shown_step_by_step(api: FakeApi, bocage: Bocage):
    api.on("GET", "/failovers?limit=1", {"items": [FAILOVER], "after": None})
    out = bocage("failover", "show").out
    assert "host2-4: what host2 had is given to others" in out
    assert "+1.5 s  the life of host2 was ended" in out
    assert "+2.0 s  off" in out
    assert [line.split() for line in out.splitlines() if line.startswith("web1")] == [
        ["web1", "host1", "+2.4", "s", "+3.1", "s"]
    ]
    assert "is off" in out
    assert "off: no room anywhere" in out


def test_what_is_missing_is_told_with_what_helps(api: FakeApi, bocage: Bocage):
    api.on("GET", "/failovers/host2-4", WAITING)
    out = bocage("failover", "show", "host2-4").out
    assert "no BMC is set" in out
    assert "confirm it" in out


def test_without_any_it_says_so(api: FakeApi, bocage: Bocage):
    api.answer_any("GET", "/failovers", Reply({"items": [], "after": None}))
    assert bocage("failover", "list").err == "no host has fallen silent yet\n"
    assert bocage("failover", "show").code != 0


def test_a_word_is_given_only_with_the_name_typed_again(api: FakeApi, bocage: Bocage):
    api.on("POST", "/failovers/confirm", FAILOVER)
    assert bocage("failover", "confirm", "host2", "--is-off", "host1").code != 0
    assert api.asked == []
    assert "host2-4" in bocage("failover", "confirm", "host2", "--is-off", "host2").out
    assert api.asked[0].document == {"host": "host2", "off": True}


def test_what_would_be_is_shown_with_the_reason_of_those_that_would_wait(api: FakeApi, bocage: Bocage):
    proofs = [
        {"kind": "power", "there": False, "said": said("no BMC is set for host2")},
        {"kind": "person", "there": True, "said": said("a person's word")},
    ]
    vms = [
        {"vm": {"name": "web1"}, "runs": True, "to": "host1", "reason": None},
        {"vm": {"name": "db"}, "runs": True, "to": None, "reason": said("its disk is on host2 alone")},
    ]
    api.on("GET", "/failovers/simulation?host=host2", {"host": "host2", "proofs": proofs, "vms": vms})
    out = bocage("failover", "simulate", "host2").out
    assert "and not by" in out
    assert [line.split()[:3] for line in out.splitlines() if line.startswith(("web1", "db "))] == [
        ["web1", "host1", "is"],
        ["db", "-", "waits"],
    ]
    assert "db: its disk is on host2 alone" in out


def test_hosts_are_listed_with_whether_they_beat_and_who_leads(api: FakeApi, bocage: Bocage):
    hosts = [
        {"metadata": {"name": f"host{n}", "uid": f"h{n}"}, "status": {"cpus": 2, "memory_bytes": 1 << 30}}
        for n in (1, 2)
    ]
    api.on("GET", "/hosts?limit=500", {"items": hosts, "after": None})
    stands = [
        {"host": "h1", "name": "host1", "state": "beats", "since": None, "proofs": []},
        {"host": "h2", "name": "host2", "state": "fenced", "since": at(0), "proofs": []},
    ]
    api.on("GET", "/failovers/standing", {"leader": "host1", "since": at(0), "hosts": stands})
    ended = bocage("host", "list")
    assert ended.out.splitlines()[1].rstrip().endswith("yes")
    assert "silent since" in ended.out
    assert ended.err == "host1 leads\n"
