"""The ground itself: what is killed is gone, what is healed is well, and nothing is left in the end."""

from __future__ import annotations

import base64
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import pytest

from tests.ground import bmc, ground, kernel, machine

pytestmark = [pytest.mark.fault, pytest.mark.skipif(os.geteuid() != 0, reason="only root makes namespaces")]

_BOUND = 60.0
_SENDER = """
import os, signal, socket, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork(): os._exit(0)
os.setsid()
for number in range(3): os.dup2(os.open(os.devnull, os.O_RDWR), number)
line = socket.create_connection((sys.argv[1], int(sys.argv[2])))
line.sendall(b"before")
while not os.path.exists("/run/cut"): time.sleep(0.01)
line.sendall(b"after")  # to where nobody hears it: it stays in the socket
open("/run/sent", "w").close()
time.sleep(600)
"""
_LISTENER = """
import socket, sys
server = socket.create_server((sys.argv[1], 0))
print(server.getsockname()[1], flush=True)
line, _ = server.accept()
while piece := line.recv(100): print(piece.decode(), flush=True)
"""


@pytest.fixture
def here() -> Iterator[ground.Ground]:
    """A ground of two hosts, with nothing on yet but the BMCs."""
    made = ground.Ground(pathlib.Path(tempfile.mkdtemp(prefix="bocage-ground-", dir="/var/tmp")))
    try:
        made.make(2, central=True)
        made.start_bmcs()
        yield made
    finally:
        made.down()


def test_a_host_whose_bmc_is_told_so_is_gone_with_all_that_it_ran_and_all_that_it_sent(here: ground.Ground) -> None:
    one = here.machines()[0]
    assert power(here, one) == "Off"
    order(here, one, "On")
    before = life(one)
    (one.home / "disk").write_text("stays")
    with in_switch(here, _LISTENER, machine.SWITCH_ADDRESS) as listener:
        assert listener.stdout
        port = listener.stdout.readline().strip()
        assert one.run(sys.executable, "-c", _SENDER, machine.SWITCH_ADDRESS, port).returncode == 0
        assert listener.stdout.readline() == "before\n"
        one.cut()
        one.run("touch", "/run/cut")
        until(lambda: one.run("test", "-e", "/run/sent").returncode == 0)
        one.groups.freeze()  # one that hangs dies as well
        pids = one.pids()
        assert len(pids) > 2

        order(here, one, "ForceOff")
        assert power(here, one) == "Off"
        assert one.pids() == []
        assert not any(kernel.start_time(pid) for pid in pids)
        assert kernel.namespaces(one.net) == []
        order(here, one, "On")
        assert one.connected
        assert life(one) != before  # another life of the same machine, with what was on its disk and nothing else
        assert one.run("cat", "/srv/bocage/disk").stdout == "stays"
        assert one.run("test", "-e", "/run/cut").returncode != 0
        listener.kill()
        assert listener.stdout.read() == ""


def test_a_host_sees_what_is_its_own_alone_and_what_all_share(here: ground.Ground) -> None:
    one, two = here.machines()
    for each in (one, two):
        each.on()
    assert [each.run("hostname").stdout.strip() for each in (one, two)] == ["host1", "host2"]
    assert one.uuid != two.uuid
    assert one.run("cat", "/etc/machine-id").stdout.strip() == one.uuid.replace("-", "")
    one.run("touch", "/srv/array/shared", "/srv/bocage/own", "/run/own")
    assert two.run("test", "-e", "/srv/array/shared").returncode == 0
    assert two.run("test", "-e", "/srv/bocage/own").returncode != 0
    assert two.run("test", "-e", "/run/own").returncode != 0
    assert two.run("ls", str(here.root)).stdout == ""
    group = "/sys/fs/cgroup/freezer/bocage-test"
    if one.run("mkdir", group).returncode == 0:  # of version 1
        assert two.run("test", "-e", group).returncode != 0
    assert two.address in one.run("getent", "hosts", "host2").stdout


def test_one_that_dies_by_itself_is_off_and_a_dead_bmc_says_nothing(here: ground.Ground) -> None:
    one, two = here.machines()
    for each in (one, two):
        order(here, each, "On")
    first = json.loads((one.path / "power.json").read_text())["pid"]
    os.kill(first, 9)
    until(lambda: power(here, one) == "Off")
    assert one.pids() == []
    assert power(here, two) == "On"
    two.silence_bmc()
    assert two.bmc_silent
    assert not one.bmc_silent
    assert ask(here, two, within=0.5) == ""
    two.wake_bmc()
    assert power(here, two) == "On"


def test_when_it_is_taken_down_nothing_is_left_and_what_stands_beside_it_stays(here: ground.Ground) -> None:
    before = pathlib.Path("/proc/self/mountinfo").read_text()
    beside = ground.Ground(pathlib.Path(tempfile.mkdtemp(prefix="bocage-ground-", dir="/var/tmp")))
    try:
        beside.make(1, central=False)
        beside.start_bmcs()
        (only,) = beside.machines()
        only.on()
        for one in here.machines():
            one.on()
        (here.root / "bmc.json").unlink()  # an earlier run was killed, and knows nothing any more
        pids = [pid for one in here.machines() for pid in one.pids()]
        here.down()
        assert kernel.namespaces(here.switch) == []
        assert not here.root.exists()
        assert not any(kernel.start_time(pid) for pid in pids)
        assert list(pathlib.Path("/sys/fs/cgroup").glob(f"*/{here.switch}*")) == []
        assert str(here.root) not in "".join(commands())
        assert power(beside, only) == "On"
        assert only.run("true").returncode == 0
    finally:
        beside.down()
    namespaces = (beside.switch, here.switch)
    left = set(pathlib.Path("/proc/self/mountinfo").read_text().splitlines()) - set(before.splitlines())
    assert not [line for line in left if any(name in line for name in namespaces)]


def test_it_takes_no_directory_that_holds_something_else(tmp_path: pathlib.Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(ground.Refused):
        ground.Ground(tmp_path).make(1, central=True)
    ground.Ground(tmp_path).down()
    assert (tmp_path / "mine").exists()


def life(one: machine.Machine) -> str:
    return one.run("cat", "/proc/sys/kernel/random/boot_id").stdout.strip()


def power(here: ground.Ground, one: machine.Machine) -> str:
    """As its BMC says."""
    return str(json.loads(ask(here, one))["PowerState"])


def order(here: ground.Ground, one: machine.Machine, what: str) -> None:
    ask(here, one, json.dumps({"ResetType": what}), path="/Actions/ComputerSystem.Reset")


def ask(here: ground.Ground, one: machine.Machine, body: str = "", *, path: str = "", within: float = _BOUND) -> str:
    code = """
import sys, urllib.request
url, who, body, within = sys.argv[1:]
asked = urllib.request.Request(url, body.encode() or None, {"Authorization": who, "Content-Type": "application/json"})
try:
    print(urllib.request.urlopen(asked, timeout=float(within)).read().decode())
except TimeoutError:
    pass
except urllib.error.URLError as error:
    if not isinstance(error.reason, TimeoutError): raise
"""
    who = "Basic " + base64.b64encode(f"{bmc.USER}:{one.bmc_password}".encode()).decode()
    url = f"http://{machine.SWITCH_ADDRESS}:{one.bmc_port}/redfish/v1/Systems/{one.uuid}{path}"
    with in_switch(here, code, url, who, body, str(within)) as asking:
        assert asking.stdout
        said = asking.stdout.read()
        assert asking.wait() == 0
        return said.strip()


def in_switch(here: ground.Ground, code: str, *arguments: str) -> subprocess.Popen[str]:
    """A program at the switch."""
    line = ["ip", "netns", "exec", here.switch, sys.executable, "-c", code, *arguments]
    return subprocess.Popen(line, stdout=subprocess.PIPE, text=True)


def commands() -> Iterator[str]:
    """The command line of every process."""
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield path.read_text().replace("\0", " ")
        except OSError:
            continue


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _BOUND
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)
