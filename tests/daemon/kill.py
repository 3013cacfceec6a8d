"""One round of the first fault: the daemon is killed at a random moment while something is being done.

Then: the guest's counter has not stopped, there is no second process, no orphan, no half file, and the
wanted state is reached. A few rounds run with the tests, hundreds in the soak.
"""

from __future__ import annotations

import contextlib
import random
import re
import time

from bocage.client import problems
from tests.daemon.host import Host

DEEDS = ("create", "start", "stop", "save", "move", "delete", "clone", "reset")
_COUNT = re.compile(rb"tiny: count (\d+)\r?\n")


def counter(host: Host, name: str) -> int:
    """The last number that the guest has counted to."""
    log = host.path / "storage" / "local" / "vms" / host.vm(name)["metadata"]["uid"] / "serial.log"
    found = _COUNT.findall(log.read_bytes())
    return int(found[-1]) if found else 0


def prepare(host: Host) -> None:
    """The witness: a VM that counts all the time and that nothing is done to. And a second storage."""
    host.create("witness", start=True)
    host.api.vms.expect("witness", "^tiny: ready", timeout=100)
    host.api.vms.expect("witness", "count 1$", send="tiny count", timeout=60)
    host.done(host.api.storage.create({"name": "other", "path": str(host.path / "other")}))


def play(host: Host, dice: random.Random, number: int) -> str:
    """One deed, one kill; raises AssertionError when anything is not as it must be. Returns what was done."""
    deed, name = dice.choice(DEEDS), f"vm{number}"
    before, pid = counter(host, "witness"), host.vm("witness")["status"]["pid"]
    if deed != "create":
        host.create(name, start=deed in ("stop", "save", "reset"))
        if deed == "stop":
            host.api.vms.expect(name, "^tiny: ready", timeout=100)
    wanted = _ask(host, deed, name)
    time.sleep(dice.uniform(0.0, {"create": 0.3, "stop": 1.5}.get(deed, 0.25)))
    host.kill()
    host.start()
    if wanted is not None:
        _reached(host, deed, name)
    witness = host.vm("witness")
    assert (witness["status"]["state"], witness["status"]["pid"]) == ("running", pid), witness["status"]
    host.until(lambda: counter(host, "witness"), lambda now: now > before)
    _nothing_odd(host)
    _clear(host, name)
    return deed


def _ask(host: Host, deed: str, name: str) -> object | None:
    """Ask for the deed. None when the daemon was killed before it had taken it."""
    api = host.api.vms
    with contextlib.suppress(problems.Broken, problems.Unreachable):
        match deed:
            case "create":
                return api.create({"name": name, "image": "tiny", "memory": "128M", "start": True})
            case "start":
                return api.start(name)
            case "stop":
                return api.stop(name)
            case "move":
                return api.move(name, storage="other")
            case "delete":
                return api.remove(name)
            case "clone":
                return api.clone(name, f"{name}-copy")
            case _:
                return api.act(name, deed)
    return None


def _reached(host: Host, deed: str, name: str) -> None:
    match deed:
        case "create" | "start" | "reset":
            host.becomes(name, "running")
        case "stop":
            host.becomes(name, "stopped")
        case "save":
            host.becomes(name, "saved")
        case "move":
            wanted = host.api.storage.get("other")["metadata"]["uid"]
            host.until(lambda: host.vm(name), lambda one: one["spec"]["storage"] == wanted)
        case "clone":
            host.until(lambda: host.vm(f"{name}-copy"), lambda one: one["status"]["ready"])
        case "delete":
            uids = [one["metadata"]["name"] for one in host.api.vms.list()["items"]]
            assert name not in uids
    for task in host.api.tasks.list()["items"]:
        host.ended(task)


def _nothing_odd(host: Host) -> None:
    """Each running VM has one QEMU, each QEMU a running VM, and no file is half made."""
    machines = host.api.vms.list()["items"]
    running = sorted(one["status"]["pid"] for one in machines if one["status"].get("pid"))
    host.until(lambda: sorted(one.identity.pid for one in host.qemus()), lambda pids: pids == running, within=10)
    host.until(host.half_made, lambda left: left == [], within=30)


def _clear(host: Host, name: str) -> None:
    for one in (name, f"{name}-copy"):
        with contextlib.suppress(problems.ProblemError):
            host.done(host.api.vms.remove(one, force=True, purge=True))
