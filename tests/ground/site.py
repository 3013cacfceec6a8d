"""A ground whose guests write numbered records, and what must hold of it after whatever befell it."""

from __future__ import annotations

import contextlib
import datetime
import functools
import re
import secrets
import time
from collections.abc import Iterator
from typing import Any

from bocage.client import rest
from tests.ground import building, ground, machine, reach

BOUND = 240.0  # seconds for anything that is waited for
_TYPED = 60.0  # seconds until a guest that was not up yet is asked again
_LOGGED = re.compile(rb"^tiny: log (\d+)\r?$", re.MULTILINE)
_DISK = "/dev/vda"


class Site:
    """A ground that stands, and VMs on it, whose guests write their records behind what their system disks hold."""

    def __init__(self, here: ground.Ground, names: tuple[str, ...] = ("log1", "log2")) -> None:
        self.here, self.machines, self.names = here, here.machines(), names
        self._uids: dict[str, str] = {}
        for name in names:
            building.bocage(
                self.machines[0], "vm", "create", name, "--image", "tiny", "--memory", "96M", "--storage", "array",
                "--disk", "64M", "--network", "none", "--cpu-cap", "0.5", "--start",
            )  # fmt: skip
        with self.asked() as asked:
            self.hosts = {uid: name for name, uid in reach.uids(asked).items()}
            self._uids = {name: asked.vms.get(name)["metadata"]["uid"] for name in names}
            for name in names:
                self.log(asked, name)

    @contextlib.contextmanager
    def asked(self) -> Iterator[rest.Client]:
        """A client of a host that answers."""
        deadline = time.monotonic() + BOUND
        while not (found := next(filter(_answers, self.machines), None)):
            assert time.monotonic() < deadline, "no host answers"
        with reach.api(found) as asked:
            yield asked

    def owner(self, name: str) -> machine.Machine:
        """The host that has a VM."""
        with self.asked() as asked:
            return self.here.machine(self.hosts[asked.vms.get(name)["status"]["host"]])

    def leader(self) -> machine.Machine:
        with self.asked() as asked:
            return self.here.machine(asked.failovers.standing()["leader"])

    def qemus(self) -> dict[str, list[tuple[str, int]]]:
        """For each VM all its processes: the host, and the pid outside."""
        return {name: [(one.name, pid) for one in self.machines for pid in self._of(one, name)] for name in self.names}

    def _of(self, one: machine.Machine, name: str) -> list[int]:
        return one.pids(f"guest={name},process=vm:{name},debug-threads=on", program="qemu-system-x86_64")

    def heal(self) -> None:
        """All hosts have power and network, and their BMCs answer."""
        self.here.start_bmcs()
        for one in self.machines:
            one.wake_bmc()
            if one.power() == "Off":
                one.on()
            else:
                with contextlib.suppress(OSError):  # it is just being switched off, and looked at again
                    one.groups.thaw()
                    one.connect()

    def well(self) -> None:
        """Wait until all is well; one that was fenced while it booted is given power again."""

        deadline = time.monotonic() + BOUND
        self.heal()
        while wrong := reach.wrong(self.here):
            assert time.monotonic() < deadline, wrong
            time.sleep(0.1)
            self.heal()

    def check(self) -> None:
        """Each VM runs, once, where the store says so; its log has no gap, and all that was acknowledged."""
        self.well()
        for name in self.names:
            building.until(f"{name} runs", functools.partial(self._runs, name), within=BOUND)
            with self.asked() as asked:
                verified = self._verified(asked, name)
                said = self.acknowledged(name)
                assert said == sorted(set(said)), f"{name}: records that were acknowledged twice"
                assert verified >= said[-1], f"{name}: {said[-1]} was acknowledged, {verified} is there"
                self.log(asked, name)
        for name, found in self.qemus().items():
            assert [host for host, _ in found] == [self.owner(name).name], (name, found)

    def acknowledged(self, name: str) -> list[int]:
        """The records that its guest said were durable."""
        log = self.here.root / "array" / "vms" / self._uids[name] / "serial.log"
        said: list[int] = []
        for number in map(int, _LOGGED.findall(log.read_bytes())):
            if said and number < said[-1] and str(said[-1] + 1).startswith(str(number)):
                continue  # the host died in the midst of the line
            said.append(number)
        return said

    def log(self, asked: rest.Client, name: str) -> None:
        """Have its guest write records, from the last one on."""
        asked.vms.expect(name, "^tiny: ready", timeout=BOUND)
        asked.vms.expect(name, "^tiny: log [0-9]", send=f"tiny log {_DISK} &", timeout=BOUND)

    def failovers(self) -> list[dict[str, Any]]:
        """The records of all failovers."""
        with self.asked() as asked:
            found: list[dict[str, Any]] = asked.failovers.list()["items"]
            return found

    def phases(self, known: int) -> list[dict[str, Any]]:
        """What the failovers since the first `known` took, in seconds since the host fell silent."""
        return [_phases(one) for one in self.failovers()[known:]]

    def _runs(self, name: str) -> bool:
        with contextlib.suppress(*reach.Unreachable), self.asked() as asked:
            status = asked.vms.get(name)["status"]
            found = self.qemus()[name]
            return status["state"] == "running" and [host for host, _ in found] == [self.hosts[status["host"]]]
        return False

    def _verified(self, asked: rest.Client, name: str) -> int:
        """The last record on its disk."""
        deadline = time.monotonic() + BOUND
        while True:
            token = secrets.token_hex(4)
            with contextlib.suppress(*reach.Unreachable):
                line = f"kill %% 2>/dev/null; wait; echo {token} $(tiny verify {_DISK})"
                said = asked.vms.expect(name, f"^{token} .*", send=line, timeout=_TYPED)
                found = re.search(r"tiny: verified (\d+)", said)
                assert found, f"{name}: {said}"
                return int(found[1])
            assert time.monotonic() < deadline, f"{name} does not verify its log"


def _answers(one: machine.Machine) -> bool:
    try:
        with reach.api(one) as asked:
            return bool(asked.version(within=5.0))
    except reach.Unreachable:
        return False


def _phases(failover: dict[str, Any]) -> dict[str, Any]:
    status = failover["status"]
    silent = _time(status["silent_since"])
    found: dict[str, Any] = {"host": failover["spec"]["host_name"], "proof": status["proof"], "state": status["state"]}
    for name, when in (
        ("ended", status["ended"]),
        *((f"{vm['vm']['name']} {what}", vm[what]) for vm in status["vms"] for what in ("given", "started")),
    ):
        if silent and when:
            found[name] = round(_time(when) - silent, 2)
    return found


def _time(text: str | None) -> float:
    return datetime.datetime.fromisoformat(text).timestamp() if text else 0.0
