"""How long a failover would take, by those that were seen and by what bounds say."""

import datetime

from bocage.model import base, standing
from bocage.model.failover import Failover
from bocage.planner import forecast, outages
from tests.planner import things

BEGIN = datetime.datetime(2026, 1, 31, 3, 0, tzinfo=datetime.UTC)
OTHER = "5f0c9f1e-6f0a-4c53-9c1e-0d1f5a3f7c99"


def seen(host: str, given: float | None, started: float | None = None, *, proof: str = "power") -> Failover:
    def after(span: float | None) -> datetime.datetime | None:
        return None if span is None else BEGIN + datetime.timedelta(seconds=span)

    moved = {"vm": {"kind": "vm", "uid": things.MACHINE, "name": "web", "project": "default"}, "runs": True}
    moved |= {"given": after(given), "started": after(started)}
    spec = {"host": host, "host_name": "host2", "epoch": 4}
    status = {"silent_since": BEGIN, "proof": proof, "vms": [moved]}
    about = {"name": "host2-4", "uid": base.timed_uid()}
    return Failover.model_validate({"metadata": about, "spec": spec, "status": status})


def shown(*there: str) -> list[standing.Proof]:
    said = base.Saying.of(outages.WordProves())
    kinds = ("power", "time", "word", "person")
    return [standing.Proof.model_validate({"kind": one, "there": one in there, "said": said}) for one in kinds]


def told(proofs: list[standing.Proof], *failovers: Failover, bound: float | None = None) -> tuple[object, ...]:
    found = forecast.forecast(things.HOST, proofs, failovers, silence=1.5, bound=bound)
    return (found.proof, found.given, found.started, found.seen)


def test_its_own_failovers_count_before_those_of_others():
    bmc = shown("power", "word", "person")
    assert told(bmc) == ("power", None, None, 0)
    assert told(bmc, seen(OTHER, 9.0, 10.0)) == ("power", 9.0, 10.0, 1)
    assert told(bmc, seen(OTHER, 9.0, 10.0), seen(things.HOST, 2.0, 2.5), seen(things.HOST, 3.0)) == (
        "power",
        2.5,
        3.0,
        2,
    )


def test_the_newest_ten_count_and_of_those_what_was_given_away():
    bmc = shown("power")
    assert told(bmc, seen(OTHER, None)) == ("power", None, None, 0)
    old, new = [seen(OTHER, 90.0) for _ in range(20)], [seen(OTHER, 2.0) for _ in range(10)]
    assert told(bmc, *new, *old) == ("power", 2.0, None, 10)


def test_time_proves_nothing_before_its_bound_and_a_person_is_not_forecast():
    assert told(shown("time"), bound=8.0) == ("time", 9.5, None, 0)
    assert told(shown("time"), seen(OTHER, 2.0, 3.0), bound=8.0) == ("time", 9.5, None, 0)
    assert told(shown("time"), seen(OTHER, 12.0, 13.0, proof="time"), bound=8.0) == ("time", 12.0, 13.0, 1)
    assert told(shown("word", "person"), seen(things.HOST, 2.0, 3.0)) == (None, None, None, 0)
