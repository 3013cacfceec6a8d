"""The whole of it, as the README shows it: a host's power is cut, and what it ran runs on another, once."""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

from tests.ground import building, ground, machine
from tests.ground.building import bocage, until

pytestmark = [
    pytest.mark.fault,
    pytest.mark.slow,
    pytest.mark.guest,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root makes namespaces"),
]


@pytest.fixture(scope="module")
def here() -> Iterator[ground.Ground]:
    """Three hosts, joined, with a storage that all of them reach."""
    made = ground.Ground(pathlib.Path(tempfile.mkdtemp(prefix="bocage-ground-", dir="/var/tmp")))
    try:
        building.up(made, argparse.Namespace(hosts=3, storage="central"))
        yield made
    finally:
        made.down()


def test_a_vm_of_a_host_whose_power_is_cut_runs_on_another_once(here: ground.Ground) -> None:
    machines = {one.name: one for one in here.machines()}
    first = machines["host1"]
    building.bocage(
        first, "vm", "create", "web1", "--image", "tiny", "--memory", "128M", "--storage", "array", "--start"
    )
    names = {one["metadata"]["uid"]: one["metadata"]["name"] for one in building.bocage(first, "host", "list")["items"]}
    vm = building.bocage(first, "vm", "show", "web1")
    uid, before = vm["metadata"]["uid"], names[vm["status"]["host"]]
    assert running(machines, uid) == [before]

    machines[before].off()
    other = next(one for one in machines.values() if one.name != before)

    def runs_elsewhere() -> bool:
        seen = other.run("bocage", "vm", "show", "web1", "--json")
        return seen.returncode == 0 and building.said(seen)["status"]["host"] != vm["status"]["host"]

    building.until("another host has it", runs_elsewhere)
    ready = other.run("bocage", "vm", "console", "web1", "--expect", "^tiny: ready", "--timeout", "120", within=130)
    assert "tiny: ready" in ready.stdout, ready.stderr
    (after,) = running(machines, uid)
    assert after != before
    told = ended(other, machines[before])
    assert told["proof"] == "power"
    assert [(one["vm"]["name"], one["to"]["name"], bool(one["started"])) for one in told["vms"]] == [
        ("web1", after, True)
    ]

    building.heal(here, machines[before])
    building.until("it lives in the cluster again", lambda: building.bocage(machines[before], "vm", "list") is not None)
    assert running(machines, uid) == [after]


def test_without_its_bmc_nothing_is_started_before_a_person_answers_for_it(here: ground.Ground) -> None:
    asker = here.machines()[0]
    make(asker, "web2")
    victim = here.machine(owner(asker, "web2"))
    asker = next(one for one in here.machines() if one.name != victim.name)
    victim.silence_bmc()
    victim.off()
    until("it asks", lambda: "alarm-failover-bmc-fails" in alarms(asker))
    assert owner(asker, "web2") == victim.name
    bocage(asker, "failover", "confirm", victim.name, "--is-off", victim.name)
    told = ended(asker, victim)
    assert told["proof"] == "person"
    assert {one["vm"]["name"]: bool(one["started"]) for one in told["vms"]}["web2"]
    assert owner(asker, "web2") != victim.name


def make(asker: machine.Machine, name: str) -> None:
    """A VM on the storage that all reach, which runs."""
    bocage(asker, "vm", "create", name, "--image", "tiny", "--memory", "96M", "--storage", "array", "--start")


def owner(asker: machine.Machine, name: str) -> str:
    """The name of the host that has it."""
    names = {one["metadata"]["uid"]: one["metadata"]["name"] for one in bocage(asker, "host", "list")["items"]}
    return str(names.get(bocage(asker, "vm", "show", name)["status"]["host"]))


def ended(asker: machine.Machine, victim: machine.Machine) -> dict[str, Any]:
    """The newest failover of a host, once all of it is done."""

    def newest() -> dict[str, Any] | None:
        with contextlib.suppress(building.Failed):  # the store's leader may have been on it
            every = bocage(asker, "failover", "list")["items"]
            last = [one["status"] for one in every if one["spec"]["host_name"] == victim.name][-1:]
            return last[0] if last and last[0]["state"] == "done" else None
        return None

    told = until(f"what {victim.name} had is elsewhere", newest)
    assert told
    return told


def alarms(asker: machine.Machine) -> set[str]:
    return {one["spec"]["said"]["type"] for one in bocage(asker, "alarm", "list")["items"]}


def running(machines: dict[str, machine.Machine], vm: str) -> list[str]:
    """The hosts on which a QEMU of a VM is, one name for each QEMU."""
    found = []
    for one in machines.values():
        for pid in one.pids():
            try:
                line = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            if b"qemu-system" in line.split(b"\0")[0] and vm.encode() in line:
                found.append(one.name)
    return found
