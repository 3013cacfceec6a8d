"""The whole of it, as the README shows it: a host's power is cut, and what it ran runs on another, once."""

from __future__ import annotations

import argparse
import os
import pathlib
import tempfile
from collections.abc import Iterator

import pytest

from tests.ground import building, ground, machine

pytestmark = [
    pytest.mark.fault,
    pytest.mark.slow,
    pytest.mark.guest,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root makes namespaces"),
]


@pytest.fixture
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

    building.heal(here, machines[before])
    building.until("it lives in the cluster again", lambda: building.bocage(machines[before], "vm", "list") is not None)
    assert running(machines, uid) == [after]


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
