"""From bare hosts to a cluster with storage, step by step, each told in a line; what is done already is passed by."""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from tests import built
from tests.ground import bmc, ground, init, machine

_BOOT = 90.0  # seconds that a daemon has until it answers
_BOUND = 120.0  # seconds for one command
_LOOK = 0.1

T = TypeVar("T")


class Failed(Exception):
    """A step did not lead to what it was for."""


@contextlib.contextmanager
def step(words: str) -> Iterator[None]:
    """Says what is done, and how long it took."""
    begin = time.monotonic()
    done = "FAILED"
    try:
        yield
        done = "ok"
    finally:
        print(f"  {words:<56} {time.monotonic() - begin:6.1f} s  {done}", flush=True)


def up(here: ground.Ground, asked: argparse.Namespace) -> None:
    """Everything, until the cluster stands."""
    begin = time.monotonic()
    with step(f"a switch, and {asked.hosts} BMCs on it"):
        here.make(asked.hosts, central=asked.storage == "central")
        here.start_bmcs()
    machines = here.machines()
    first = machines[0]
    for some in ([first], machines[1:]):
        if some:
            with step(f"{', '.join(one.name for one in some)}: power on"):
                _boot(some, like=first)
    if bocage(first, "cluster", "show")["incarnation"] is None:
        with step(f"{first.name}: a cluster by itself"):
            bocage(first, "cluster", "init", "--address", first.address)
    joined = {one["name"] for one in bocage(first, "cluster", "show")["hosts"]}
    for one in machines[1:]:
        if one.name not in joined:
            with step(f"{one.name} joins"):
                word = bocage(first, "cluster", "invite")["word"]
                bocage(one, "cluster", "join", word, "--address", one.address)
    hosts = {one["metadata"]["name"]: one for one in bocage(first, "host", "list")["items"]}
    with step("each host knows its BMC"):
        for one in machines:
            if not hosts[one.name]["spec"].get("bmc"):
                url = f"redfish+http://{bmc.USER}@{machine.SWITCH_ADDRESS}:{one.bmc_port}"
                bocage(first, "host", "set", one.name, "--bmc", url, stdin=one.bmc_password)
        for one in machines:
            until(f"{one.name} saw its BMC", functools.partial(_knows_its_bmc, first, one))
    _give_storage(first, machines, central=asked.storage == "central")
    print(f"\nUp after {time.monotonic() - begin:.1f} s. What next:")
    where = " --storage array" if asked.storage == "central" else ""
    print(f"  script/cluster exec host1 -- bocage vm create web1 --image tiny --memory 128M{where} --start")
    print("  script/cluster exec host1 -- bocage vm list")
    print("  script/cluster kill host2")
    print("  script/cluster exec host1 -- bocage failover show")
    print("  script/cluster down")


def _boot(machines: list[machine.Machine], *, like: machine.Machine) -> None:
    for one in machines:
        if not (one.home / "cache").exists() and (like.home / "cache").exists():
            shutil.copytree(like.home / "cache", one.home / "cache")  # on one machine QEMU can do the same for all
        one.on()
        one.connect()
    for one in machines:
        wait(one)


def _give_storage(first: machine.Machine, machines: list[machine.Machine], *, central: bool) -> None:
    """A storage that all hosts reach, where it is central, and the image `tiny` there."""
    if central and "array" not in _names(bocage(first, "storage", "list")):
        with step("storage 'array', which all hosts reach"):
            bocage(first, "storage", "create", "array", "--kind", "shared", "--path", str(init.ARRAY))
            until("all hosts reach it", lambda: _is_reached(first, len(machines)))
    if "tiny" not in _names(bocage(first, "image", "list")):
        with step("image 'tiny'"):
            at = ("--storage", "array") if central else ()
            bocage(first, "image", "add", str(built.tiny_image()), "--name", "tiny", *at)


def _names(listed: Any) -> set[str]:
    return {one["metadata"]["name"] for one in listed["items"]}


def _is_reached(first: machine.Machine, hosts: int) -> bool:
    told = bocage(first, "storage", "show", "array")["status"]["hosts"]
    return sum(one["state"] == "ready" for one in told.values()) == hosts


def heal(here: ground.Ground, one: machine.Machine) -> None:
    """Have all of a host well again: BMC, power, cable; and it goes on, if it stood still."""
    here.start_bmcs()
    one.wake_bmc()
    off = one.power() == "Off"
    if off:
        one.on()
    else:
        one.groups.thaw()
    one.connect()
    with step(f"{one.name} {'boots' if off else 'is well again'}"):
        wait(one)


def wait(one: machine.Machine) -> None:
    """Until its daemon answers."""
    until(f"the daemon of {one.name} answers", lambda: answers(one), within=_BOOT)


def until(what: str, holds: Callable[[], T], *, within: float = _BOUND) -> T:
    """What it says, once that is true of it. Raises Failed."""
    deadline = time.monotonic() + within
    while not (found := holds()):
        if time.monotonic() > deadline:
            raise Failed(f"{what}: not within {within:.0f} s")
        time.sleep(_LOOK)
    return found


def answers(one: machine.Machine) -> bool:
    """Whether its daemon does."""
    try:
        return one.run("bocage", "daemon", "status", "--json", within=10.0).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def bocage(one: machine.Machine, *command: str, stdin: str = "") -> Any:
    """What a command says as JSON. Raises Failed."""
    done = one.run("bocage", *command, "--json", stdin=stdin, within=_BOUND)
    if done.returncode == 0:
        return said(done)
    raise Failed(f"'bocage {' '.join(command)}' on {one.name}: {done.stderr.strip() or done.stdout.strip()}")


def said(done: subprocess.CompletedProcess[str]) -> Any:
    """The document that a command printed."""
    return json.loads(done.stdout or "null")


def _knows_its_bmc(first: machine.Machine, one: machine.Machine) -> bool:
    seen = bocage(first, "host", "show", one.name)["status"].get("bmc")
    return bool(seen and seen["own"])
