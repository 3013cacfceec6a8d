"""One host of a ground: a machine that is booted, cut off, frozen, killed like any other, only quicker."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import secrets
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence

from tests.ground import init, kernel

PROJECT = pathlib.Path(__file__).parents[2]
NETWORK, SWITCH_ADDRESS, BRIDGE = "10.91.0", "10.91.0.254", "bcgl"
BMC_PORT = 8000  # and the number of the host


@dataclasses.dataclass(frozen=True, slots=True)
class Machine:
    """A host by its number. What it is stands in its directory, what it does in the kernel."""

    root: pathlib.Path  # of the ground
    tag: str
    number: int
    central: bool
    bare: bool = False  # no daemon: something else of a cluster is run on it

    @property
    def name(self) -> str:
        return f"host{self.number}"

    @property
    def address(self) -> str:
        return f"{NETWORK}.{self.number}"

    @property
    def path(self) -> pathlib.Path:
        return self.root / "hosts" / self.name

    @property
    def home(self) -> pathlib.Path:
        return self.path / "home"

    @property
    def switch(self) -> str:
        """The network namespace that the bridge is in."""
        return f"bcgl-{self.tag}"

    @property
    def net(self) -> str:
        return f"{self.switch}-{self.name}"

    @property
    def uuid(self) -> str:
        return str(uuid.UUID((self.path / "etc" / "machine-id").read_text().strip()))

    @property
    def bmc_password(self) -> str:
        return (self.path / "bmc-password").read_text().strip()

    @property
    def groups(self) -> kernel.Groups:
        return kernel.Groups(f"bcgl-{self.tag}/{self.name}")

    def make(self, hosts: int) -> None:
        """Its directory: what lies on its disk, and what is its own of it."""
        etc = self.path / "etc"
        etc.mkdir(parents=True, exist_ok=True)
        self.home.mkdir(exist_ok=True, mode=0o711)
        others = [f"{NETWORK}.{number} host{number}" for number in range(1, hosts + 1)]
        for file, content in (
            (etc / "machine-id", uuid.uuid4().hex),
            (etc / "hostname", self.name),
            (etc / "hosts", "\n".join(["127.0.0.1 localhost", *others])),
            (self.path / "bmc-password", secrets.token_hex(8)),
        ):
            if not file.exists():
                file.touch(mode=0o600 if "password" in file.name else 0o644)
                file.write_text(content + "\n")

    def on(self) -> None:
        """Give it power, and boot it. Nothing when it has it."""
        with self._turn():
            if self._pid():
                return
            self._clear()
            kernel.ip(f"netns add {self.net}")
            kernel.ip(
                f"link add {self.name} type veth peer name eth0 netns {self.net}",
                f"link set {self.name} master {BRIDGE} up",
                within=self.switch,
            )
            kernel.ip(
                "link set lo up",
                f"addr add {self.address}/24 dev eth0",
                "link set eth0 up",
                f"route add default via {SWITCH_ADDRESS}",
                within=self.net,
            )
            plan = {
                "name": self.name,
                "root": str(self.root),
                "etc": str(self.path / "etc"),
                "home": str(self.home),
                "array": str(self.root / "array") if self.central else "",
                "net": self.net,
                "groups": f"bcgl-{self.tag}/{self.name}",
                "bare": self.bare,
                "environment": self._environment(),
            }
            with (self.path / "boot.log").open("ab") as log:
                done = subprocess.run(
                    [sys.executable, "-m", "tests.ground.init", json.dumps(plan)],
                    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, check=True, cwd=PROJECT, text=True,
                    env={"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": str(PROJECT)},
                )  # fmt: skip
            pid = int(done.stdout)
            self._record.write_text(json.dumps({"pid": pid, "start": kernel.start_time(pid)}))

    def off(self) -> None:
        """Cut its power. When it returns nothing of it runs, and nothing that it has sent is on its way."""
        with self._turn():
            if pid := self._pid():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._clear()

    def power(self) -> str:
        """Redfish's PowerState: a machine whose first process has died of itself is off once all of it is gone."""
        if self._pid():
            return "On"
        if self._record.exists():
            self.off()
        return "Off"

    @property
    def bmc_port(self) -> int:
        return BMC_PORT + self.number

    def bmc_delay(self) -> float:
        """Seconds from an order, which its BMC answers at once, to the deed."""
        with contextlib.suppress(FileNotFoundError):
            return float((self.path / "bmc-delay").read_text())
        return 0.0

    def slow_bmc(self, delay: float) -> None:
        """Have its BMC take an order at once, and do it so many seconds later."""
        (self.path / "bmc-delay").write_text(str(delay))

    @property
    def bmc_is_of(self) -> str:
        """The host that the BMC at its address is wired to."""
        with contextlib.suppress(FileNotFoundError):
            return (self.path / "bmc-is-of").read_text()
        return self.name

    def wire_bmc(self, to: Machine) -> None:
        """Have the BMC at its address be that of another host."""
        (self.path / "bmc-is-of").write_text(to.name)

    def silence_bmc(self) -> None:
        """Have its BMC dead: no answer, and no refusal either."""
        self.wake_bmc()
        rule = f"add rule inet bmc input tcp dport {self.bmc_port} drop comment {self.name}"
        table = "add table inet bmc; add chain inet bmc input { type filter hook input priority 0; }"
        self._nft(f"{table}; {rule}")

    def wake_bmc(self) -> None:
        for rule in self._silenced():
            self._nft(f"delete rule inet bmc input handle {rule}")

    @property
    def bmc_silent(self) -> bool:
        return bool(self._silenced())

    def _silenced(self) -> list[int]:
        told = self._nft("list table inet bmc", check=False)
        rules = [one["rule"] for one in json.loads(told or '{"nftables": []}')["nftables"] if "rule" in one]
        return [int(rule["handle"]) for rule in rules if rule.get("comment") == self.name]

    def _nft(self, command: str, *, check: bool = True) -> str:
        line = ["ip", "netns", "exec", self.switch, "nft", "-j", command]
        return subprocess.run(line, capture_output=True, text=True, check=check).stdout

    def cut(self) -> None:
        """Pull its network cable."""
        kernel.ip(f"link set {self.name} down", within=self.switch)

    def connect(self) -> None:
        kernel.ip(f"link set {self.name} up", within=self.switch)

    @property
    def connected(self) -> bool:
        told = subprocess.run(
            ["ip", "-n", self.switch, "-j", "link", "show", self.name], capture_output=True, text=True, check=False
        )
        return told.returncode == 0 and "UP" in json.loads(told.stdout)[0]["flags"]

    def command(self, *command: str) -> list[str]:
        """The line that runs a command on it. Whoever runs it goes into `groups` first."""
        if not (pid := self._pid()):
            raise Off(f"{self.name} is off; 'script/cluster heal {self.name}' boots it")
        given = [f"{name}={value}" for name, value in init.environment({}).items()]
        if terminal := os.environ.get("TERM"):
            given.append(f"TERM={terminal}")
        namespaces = ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup")
        return ["nsenter", "--target", str(pid), *namespaces, "--", "env", "-i", "-C", "/", *given, *command]

    def run(self, *command: str, stdin: str = "", within: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a command on it to its end."""
        return subprocess.run(
            self.command(*command), input=stdin, text=True, capture_output=True, check=False, timeout=within,
            preexec_fn=self.groups.enter,
        )  # fmt: skip

    def pids(self, *words: str, program: str = "") -> list[int]:
        """Its processes, as they are numbered outside: all, or those of a program, with these words as arguments."""
        return [pid for pid in self.groups.pids() if not (words or program) or _says(pid, words, program)]

    def inside(self, path: str | pathlib.PurePath) -> pathlib.Path:
        """A file of its own, as it is reached from outside. Raises Off."""
        if not (pid := self._pid()):
            raise Off(f"{self.name} is off")
        return pathlib.Path(f"/proc/{pid}/root") / str(path).lstrip("/")

    def set_environment(self, **variables: str) -> None:
        """What its daemon gets beside what all have, from its next boot on."""
        (self.path / "environment.json").write_text(json.dumps(variables))

    def _environment(self) -> dict[str, str]:
        with contextlib.suppress(FileNotFoundError):
            given: dict[str, str] = json.loads((self.path / "environment.json").read_text())
            return given
        return {}

    @property
    def _record(self) -> pathlib.Path:
        return self.path / "power.json"

    def _pid(self) -> int:
        """Its first process, as it is numbered outside; 0 when it is off."""
        try:
            held = json.loads(self._record.read_text())
        except (OSError, ValueError):
            return 0
        pid = int(held["pid"])
        return pid if kernel.start_time(pid) == held["start"] != 0 else 0

    def _clear(self) -> None:
        """Nothing is left of a life: no process, no packet, no socket, no group."""
        if kernel.namespaces(self.switch):
            with contextlib.suppress(OSError):
                kernel.ip(f"link delete {self.name}", within=self.switch)
        self.groups.end()
        if self.net in kernel.namespaces(self.net):
            kernel.destroy_sockets(self.net)
            kernel.drop_namespace(self.net)
        self._record.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """One at a time switches it, be it the BMC or a person."""
        with (self.path / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


class Off(Exception):
    """The machine has no power."""


def _says(pid: int, words: Sequence[str], program: str) -> bool:
    try:
        line = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return False
    return line[0].endswith(program) and all(word in line for word in words)


def replace_process(machine: Machine, command: Sequence[str]) -> None:
    """Become a command that runs on a machine."""
    line = machine.command(*command)
    machine.groups.enter()
    os.execvp(line[0], line)
