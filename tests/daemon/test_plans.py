"""A plan that would never end by itself, in a real daemon: it ends with whoever asked for it, and with the daemon."""

import http.client
import json
import socket
import sys
from collections.abc import Iterator

import pytest

from tests.daemon import host as hosts

# A daemon that makes the same plan over and over, for as long as it takes, and says when it has begun.
_ENDLESS = """
import math, os, pathlib, sys
from bocage import cli
from bocage.api import plans
from bocage.planner import rebalance

once = rebalance.rebalance

def endless(of, **asked):
    pathlib.Path(os.environ["BOCAGE_HOME"], "planning").touch()
    while (found := once(of, **asked)).complete:
        pass
    return found

rebalance.rebalance, plans._LONGEST = endless, math.inf
sys.exit(cli.main())
"""
_LARGE = {
    "survive": 2,
    "hosts": [{"name": f"host{n}", "memory": "64G", "cpus": 16} for n in range(100)],
    "vms": [{"name": f"vm{n}", "memory": f"{1 + n % 4}G", "host": f"host{n % 40}"} for n in range(1500)],
}


@pytest.fixture
def host() -> Iterator[hosts.Host]:
    with hosts.host() as made:
        made.program = [sys.executable, "-c", _ENDLESS]
        made.start()
        yield made


def computing(host: hosts.Host) -> socket.socket:
    """A connection on which a plan was asked for that has begun."""
    body, begun = json.dumps({"world": _LARGE}).encode(), host.path / "planning"
    begun.unlink(missing_ok=True)
    asking = socket.socket(socket.AF_UNIX)
    asking.settimeout(hosts.BOUND)
    asking.connect(str(host.homes.socket))
    head = "POST /api/v1/plan/rebalance HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    asking.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    host.until(begun.exists, lambda exists: exists)
    return asking


def test_a_plan_ends_with_whoever_asked_and_with_the_daemon(host: hosts.Host):
    computing(host).close()
    small = {**_LARGE, "survive": 0, "vms": [{"name": "new", "memory": "1G"}]}
    assert host.api.plan.place({"world": small, "vm": "new"})["host"] == "host0"  # one at a time: the other has ended
    with computing(host) as asking:
        assert host.stop() == 0
        answer = http.client.HTTPResponse(asking)
        answer.begin()
        assert (answer.status, json.load(answer)["type"]) == (503, "urn:bocage:problem:plan-given-up")
