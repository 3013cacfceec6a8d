"""A whole ground: a switch that all hosts are plugged into, their BMCs on it, an array that they all reach."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

from tests.ground import kernel, machine

DEFAULT = pathlib.Path("/var/lib/bocage-ground")
_MOST = 50  # hosts
_MAC = "02:00:00:00:00:fe"  # else the bridge takes that of a port, and another one when that host is off


class Refused(Exception):
    """What was asked for makes no sense as things are."""


@dataclasses.dataclass(frozen=True, slots=True)
class Ground:
    """A ground by its directory. Its names in the kernel come from that path, so any number stand side by side."""

    root: pathlib.Path

    @property
    def tag(self) -> str:
        return hashlib.sha256(os.fsencode(self.root)).hexdigest()[:6]

    @property
    def switch(self) -> str:
        return f"bcgl-{self.tag}"

    @property
    def exists(self) -> bool:
        return self._plan.exists()

    @property
    def central(self) -> bool:
        return bool(json.loads(self._plan.read_text())["central"])

    def machines(self) -> list[machine.Machine]:
        """Its hosts. Raises Refused where there is no ground."""
        if not self.exists:
            raise Refused("there is no ground; 'script/cluster up --hosts 3' makes one")
        plan = json.loads(self._plan.read_text())
        like = (plan["central"], plan.get("bare", False))
        return [machine.Machine(self.root, self.tag, number, *like) for number in range(1, plan["hosts"] + 1)]

    def machine(self, name: str) -> machine.Machine:
        found = {one.name: one for one in self.machines()}
        if name not in found:
            raise Refused(f"there is no host {name}; there are {', '.join(found)}")
        return found[name]

    def make(self, hosts: int, *, central: bool, bare: bool = False) -> None:
        """Directories and switch; not an error when they are there. Raises Refused when another ground is there.

        On `bare` hosts there is no daemon.
        """
        if not 1 <= hosts <= _MOST:
            raise Refused(f"a ground has 1 to {_MOST} hosts")
        wanted = {"hosts": hosts, "central": central} | ({"bare": True} if bare else {})
        if self.exists:
            if (present := json.loads(self._plan.read_text())) != wanted:
                raise Refused(f"there is one already: {present}; 'script/cluster down' takes it away")
        else:
            if self.root.exists() and any(self.root.iterdir()):
                raise Refused(f"{self.root} holds something else")
            self.root.mkdir(parents=True, exist_ok=True)
            self.root.chmod(0o711)  # VMs run as users of their own
            self._plan.write_text(json.dumps(wanted))
        if central:
            (self.root / "array").mkdir(exist_ok=True, mode=0o711)
        for one in self.machines():
            one.make(hosts)
        if self.switch not in kernel.namespaces(self.switch):
            kernel.ip(f"netns add {self.switch}")
            kernel.ip(
                "link set lo up",
                f"link add {machine.BRIDGE} address {_MAC} type bridge",
                f"addr add {machine.SWITCH_ADDRESS}/24 dev {machine.BRIDGE}",
                f"link set {machine.BRIDGE} up",
                within=self.switch,
            )

    def start_bmcs(self) -> None:
        """Have the BMCs answer; returns when they do."""
        if self._bmcs():
            return
        line = [sys.executable, "-m", "tests.ground.bmc", str(self.root)]
        with (self.root / "bmc.log").open("ab") as log:
            started = subprocess.Popen(
                line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, cwd=machine.PROJECT,
                start_new_session=True, env={"PATH": os.environ.get("PATH", os.defpath)},
                preexec_fn=kernel.Groups(f"{self.switch}/bmcs").enter,
            )  # fmt: skip
        assert started.stdout
        if started.stdout.readline() != b"ready\n":
            raise Refused(f"the BMCs did not start; {self.root}/bmc.log says more")
        kernel.Groups(self.switch).weigh(len(self.machines()))
        record = {"pid": started.pid, "start": kernel.start_time(started.pid)}
        (self.root / "bmc.json").write_text(json.dumps(record))

    def keep_logs(self, at: pathlib.Path) -> None:
        """Copy what its hosts' programs have logged."""
        for log in self.root.glob("hosts/*/home/**/*.log"):
            host, name = log.relative_to(self.root / "hosts").parts[0], log.name
            shutil.copy(log, at / f"{host}-{name}")

    def down(self) -> None:
        """Take all of it away, also what an earlier run left behind."""
        kernel.Groups(self.switch).end()
        for name in reversed(kernel.namespaces(self.switch)):
            kernel.destroy_sockets(name)
            kernel.drop_namespace(name)
        if self.exists:
            shutil.rmtree(self.root)

    @property
    def _plan(self) -> pathlib.Path:
        return self.root / "ground.json"

    def _bmcs(self) -> int:
        with contextlib.suppress(OSError, ValueError):
            held = json.loads((self.root / "bmc.json").read_text())
            if kernel.start_time(int(held["pid"])) == held["start"] != 0:
                return int(held["pid"])
        return 0
