"""The first process of a host: `python -m tests.ground.init PLAN` makes its namespaces and lives in them.

It prints the pid that it has outside, and then keeps a daemon running as systemd's unit does.
"""

from __future__ import annotations

import json
import os
import pathlib
import signal
import socket
import sys
import time
import uuid
from typing import Any

from tests.ground import kernel

HOME, ARRAY = pathlib.Path("/srv/bocage"), pathlib.Path("/srv/array")
_AGAIN = 1.0  # seconds until a daemon that failed is started anew


def main() -> None:
    plan = json.loads(sys.argv[1])
    kernel.Groups(plan["groups"]).enter()
    kernel.enter_net(plan["net"])
    kernel.unshare(kernel.NEWPID | kernel.NEWNS | kernel.NEWUTS | kernel.NEWIPC | kernel.NEWCGROUP)
    if child := os.fork():
        print(child, flush=True)
        return
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1):
        os.dup2(null, number)
    _furnish(plan)
    _live(plan)


def environment(plan: dict[str, Any]) -> dict[str, str]:
    """What every process of a host has; nothing of what is set outside."""
    path = f"{pathlib.Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {
        "PATH": path,
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "BOCAGE_HOME": str(HOME),
        "BOCAGE_DEFAULT_NETWORK": "user",
        **plan.get("environment", {}),
    }


def _furnish(plan: dict[str, Any]) -> None:
    """A root of its own: what it shares with the others is what machines have alike, and the array."""
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("proc", "/proc", "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
    kernel.mount_groups()
    root = pathlib.Path(plan["root"])
    etc = pathlib.Path(plan["etc"])
    for name in ("machine-id", "hosts", "hostname"):
        if pathlib.Path("/etc", name).exists():
            kernel.mount(str(etc / name), f"/etc/{name}", flags=kernel.MS_BIND)
    for own in ("/run", "/dev/shm", "/srv"):
        kernel.mount("tmpfs", own, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=755")
    pathlib.Path("/run/lock").mkdir()
    life = pathlib.Path("/run/boot_id")
    life.write_text(f"{uuid.uuid4()}\n")
    kernel.mount(str(life), "/proc/sys/kernel/random/boot_id", flags=kernel.MS_BIND)
    for source, at in ((plan["home"], HOME), *([(plan["array"], ARRAY)] if plan["array"] else [])):
        at.mkdir()
        kernel.mount(source, at, flags=kernel.MS_BIND)
    kernel.mount("tmpfs", root, "tmpfs", kernel.MS_RDONLY, "mode=755")  # the others' homes are not this host's to see
    socket.sethostname(plan["name"])


def _live(plan: dict[str, Any]) -> None:
    """Keep the daemon running, and bury whatever dies."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    daemon: int | None = None
    due: float | None = None if plan.get("bare") else 0.0
    while True:
        if daemon is None and due is not None and time.monotonic() >= due:
            daemon = _start(plan)
        try:
            pid, status = os.waitpid(-1, os.WNOHANG if daemon is None else 0)
        except ChildProcessError:
            pid, status = 0, 0
        if pid and pid == daemon:
            daemon = None
            due = None if status == 0 else time.monotonic() + _AGAIN  # stopped in order it stays so
        elif pid == 0:
            time.sleep(0.05)


def _start(plan: dict[str, Any]) -> int:
    """The daemon's pid. By hand: nobody but `_live` may wait for a child here."""
    if pid := os.fork():
        return pid
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        os.chdir("/")
        log = os.open(HOME / "daemon.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.execve(sys.executable, [sys.executable, "-m", "bocage", "daemon", "run"], environment(plan))
    finally:
        os._exit(127)


if __name__ == "__main__":
    main()
