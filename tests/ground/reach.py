"""A host's daemon as it is reached from outside, and what a cluster is waited for to be."""

from __future__ import annotations

import hashlib
import os
import pathlib
import sys
import time
from typing import Any

from bocage import errors
from bocage.client import connection, rest
from tests.ground import building, ground, init, machine

RUNTIME = pathlib.PurePath("/run/bocage", hashlib.sha256(os.fsencode(init.HOME)).hexdigest()[:8])
"""Of a host's daemon, on that host."""
_LOOK = 0.2
SETTLED = 240.0  # seconds until a cluster is as it should be, on a machine that has much else to do
Unreachable = (errors.Problem, machine.Off, OSError)
"""Why a host says nothing."""
_TRANSFER = """
import httpx, ssl, sys
papers, address, uid = sys.argv[1:]
trusted = ssl.create_default_context(cafile=f"{papers}/ca.crt")
trusted.load_cert_chain(f"{papers}/host.crt", f"{papers}/host.key")
with httpx.Client(verify=trusted, base_url=f"https://{address}:2379/v3/", timeout=30.0) as etcd:
    members = etcd.post("cluster/member/list", json={}).json()["members"]
    (to,) = [one["ID"] for one in members if one["name"] == uid]
    etcd.post("maintenance/transfer-leadership", json={"targetID": to}).raise_for_status()
"""


def api(one: machine.Machine) -> rest.Client:
    """A client of its daemon. Raises Off."""
    return rest.Client(connection.Connection(connection.Address(socket=str(one.inside(RUNTIME / "api.sock")))))


def uids(asked: rest.Client) -> dict[str, str]:
    """The uids of hosts by name."""
    return {one["metadata"]["name"]: one["metadata"]["uid"] for one in asked.hosts.list()["items"]}


def etcd_leader(asked: rest.Client) -> str:
    """The host whose member leads; empty: none does."""
    return next((str(one["host"]) for one in asked.cluster.show()["members"] if one["leads"]), "")


def have_etcd_led_by(here: ground.Ground, one: machine.Machine) -> None:
    """Have a host's member of etcd lead."""
    with api(one) as asked:
        if (leads := etcd_leader(asked)) == one.name:
            return
        leader, uid = here.machine(leads), uids(asked)[one.name]
    papers = init.HOME / "cluster"
    done = leader.run(sys.executable, "-c", _TRANSFER, str(papers), leader.address, uid, within=SETTLED)
    if done.returncode:
        raise building.Failed(done.stderr)


def well(here: ground.Ground, *, within: float = SETTLED) -> None:
    """Wait until each host lives in the cluster and is heard, each member of etcd votes, and no failover is open.

    Raises building.Failed, which says what is wrong.
    """
    deadline = time.monotonic() + within
    while missing := wrong(here):
        if time.monotonic() > deadline:
            raise building.Failed(missing)
        time.sleep(_LOOK)


def wrong(here: ground.Ground) -> str:
    """What is not well yet."""
    for one in here.machines():
        try:
            with api(one) as asked:
                if missing := _missing(asked, len(here.machines())):
                    return f"{one.name}: {missing}"
        except Unreachable as problem:
            return f"{one.name}: {problem}"
    return ""


def _missing(asked: rest.Client, hosts: int) -> str:
    members = asked.cluster.show()["members"]
    if sum(one["votes"] and one["answers"] for one in members) != hosts or not any(one["leads"] for one in members):
        return f"members {members}"
    standing: dict[str, Any] = asked.failovers.standing()
    if not standing["leader"]:
        return "nobody leads"
    lives = [one for one in standing["hosts"] if _lives(one)]
    if len(lives) != hosts:
        return f"hosts {standing['hosts']}"
    still = [one["metadata"]["name"] for one in asked.failovers.list()["items"] if one["status"]["ended"] is None]
    return f"failovers {still}" if still else ""


def _lives(host: dict[str, Any]) -> bool:
    return bool(host["state"] == "beats" and any(one["there"] for one in host["proofs"] if one["kind"] == "power"))
