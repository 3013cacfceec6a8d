"""Somebody who has broken out of a guest: a program in QEMU's own process, behind exactly the hedges that QEMU has.

It tries what a thief would. That each attempt is a real one is shown by the same program without hedges, which
succeeds with all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import pathlib
import re
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import pytest

from bocage.api import serve
from bocage.engine.qemu import command, confinement, launch, processes
from bocage.model import vm, work
from bocage.node import http
from tests.node.house import BLANK, House
from tests.node.test_wires import free_port, publish

pytestmark = [
    pytest.mark.guest,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root gives each VM a user id of its own"),
]

_SOURCE = pathlib.Path(__file__).with_name("intruder.c")
_DONE, _END = "done", "that was all"


@pytest.fixture
def library() -> Iterator[pathlib.Path]:
    path = pathlib.Path(f"/var/tmp/bocage-test-intruder-{os.getpid()}.so")
    subprocess.run(["tcc", "-shared", "-o", str(path), str(_SOURCE)], check=True)
    path.chmod(0o755)
    yield path
    path.unlink()


@pytest.fixture
def listeners() -> Iterator[Mapping[str, int]]:
    """What listens on this host alone, and answers whoever comes."""
    with contextlib.ExitStack() as undo:
        tcp = undo.enter_context(socket.create_server(("127.0.0.1", 0)))
        udp = undo.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("127.0.0.1", 0))
        abstract = undo.enter_context(socket.socket(socket.AF_UNIX))
        abstract.bind(f"\0bocage-test-{os.getpid()}")
        abstract.listen()
        threading.Thread(target=_answer_tcp, args=(tcp,), daemon=True).start()
        threading.Thread(target=_answer_udp, args=(udp,), daemon=True).start()
        undo.callback(tcp.shutdown, socket.SHUT_RDWR)
        undo.callback(udp.sendto, b"", udp.getsockname())
        yield {"tcp": tcp.getsockname()[1], "udp": udp.getsockname()[1]}


def _answer_tcp(listening: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            end, _ = listening.accept()
            with end, contextlib.suppress(OSError):
                end.send(b"!")
                end.recv(1)


def _answer_udp(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            said, whom = end.recvfrom(16)
            if not said:
                return
            end.sendto(b"!", whom)


@pytest.fixture
def kind() -> str:
    return "user"


@pytest.fixture
def ground(kind: str, request: pytest.FixtureRequest) -> House:
    """A host, by the kind of its default network."""
    made: House = request.getfixturevalue({"user": "tiny_house", "nat": "wired"}[kind])
    return made


@pytest.fixture
async def served(ground: House) -> AsyncIterator[House]:
    """A host with all its sockets."""
    node, homes = ground.node, ground.homes
    async with (
        http.serve(node.shop, node.crew, node.sampling, homes.node_socket),
        serve.serve(ground.resources, homes=homes, host=node.ground.uid),
    ):
        yield ground


@dataclasses.dataclass
class Intrusion:
    """The intruder in the place of one VM's QEMU."""

    house: House
    library: pathlib.Path
    orders: tuple[str, ...] = ()

    def confined(self, real: Callable[..., Any]) -> Callable[..., Any]:
        """`launch.start` that puts the intruder into QEMU, and leaves all else as it is."""

        async def start(order: launch.Order, **options: Any) -> launch.Process:
            if order.argv[0] == command.PROGRAM and self.orders:
                at = order.cwd / "serial.log"  # which it may write, and which is there when it has ended
                environment = {**order.environment, **self.environment(command.PROGRAM, 2, at)}
                view = dataclasses.replace(order.view, read_only=[*order.view.read_only, self.library])
                order = dataclasses.replace(order, environment=environment, view=view)
            process: launch.Process = await real(order, **options)
            return process

        return start

    def environment(self, program: str, mode: int, says: pathlib.Path) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(self.library),
            "INTRUDER_IN": program,
            "INTRUDER_AFTER": str(mode),
            "INTRUDER_ORDERS": "\n".join(self.orders),
            "INTRUDER_SAYS": str(says),
        }


@pytest.fixture
def intrusion(served: House, library: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Intrusion:
    made = Intrusion(served, library)
    monkeypatch.setattr(launch, "start", made.confined(launch.start))
    return made


async def results(house: House, path: pathlib.Path, orders: tuple[str, ...]) -> dict[str, str]:
    """What came of each attempt, once all are made."""
    text = await house.until(lambda: _text(path), lambda text: _END in text)
    found = {order: re.search(rf"^{re.escape(order)}: (.*)$", text, re.MULTILINE) for order in orders}
    return {order: match[1] for order, match in found.items() if match}


async def _text(path: pathlib.Path) -> str:
    return path.read_text(errors="replace").replace("\r", "") if path.exists() else ""


@contextlib.asynccontextmanager
async def unhedged(intrusion: Intrusion, says: pathlib.Path) -> AsyncIterator[None]:
    """The intruder without any hedge, as root."""
    environment = {**os.environ, **intrusion.environment("sleep", 0, says)}
    process = await asyncio.create_subprocess_exec("sleep", "100", env=environment)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def attempts(house: House, victim: vm.VM, intruder: vm.VM, listening: Mapping[str, int]) -> tuple[str, ...]:
    """All that a thief would want, apart from what seccomp ends the process for."""
    homes, theirs, own = house.homes, house.place(victim), house.place(intruder)
    runtime = homes.vm_runtime(victim.uid)
    disk = next((theirs.path / "disks").iterdir())
    image = next((homes.local_storage / "images").rglob("*.raw"), None) or next(
        path for path in (homes.local_storage / "images").rglob("*") if path.is_file()
    )
    pid, me = victim.status.pid, os.getpid()
    interface = next(name for _, name in socket.if_nameindex() if name != "lo")
    return (
        *(f"{verb} {disk}" for verb in ("read", "write")),
        f"read {theirs.serial_log}",
        f"read {theirs.definition}",
        f"write {own.definition}",
        f"list {theirs.path}",
        f"list {homes.local_storage / 'trash'}",
        f"create {homes.local_storage}/vms/planted",
        f"write {image}",
        f"read {homes.database}",
        f"write {homes.database}",
        f"read {homes.samples}",
        f"read {homes.path / 'host.json'}",
        f"list {runtime}",
        f"read {homes.vm_runtime(intruder.uid) / 'process.json'}",
        f"create {homes.vm_runtime(intruder.uid) / 'status.planted'}",
        *(f"connect {runtime / 'io' / name}" for name in ("qmp", "hmp", "vnc", "qga")),
        f"connect {homes.socket}",
        f"connect {homes.node_socket}",
        f"abstract bocage-test-{os.getpid()}",
        f"tcp 127.0.0.1 {listening['tcp']}",
        f"udp 127.0.0.1 {listening['udp']}",
        f"interface {interface}",
        "raw x",
        "packet x",
        f"signal {pid}",
        f"signal {me}",
        "signal 1",
        f"trace {pid}",
        "read /etc/shadow",
        "read /etc/passwd",
        "list /root",
        "list /proc",
        "list /sys",
        "read /var/lib/dpkg/status",
        "write /dev/net/tun",
        "create /usr/planted",
    )


@pytest.mark.parametrize("kind", ["user", "nat"])
async def test_who_breaks_out_of_a_guest_gets_nowhere(
    served: House, intrusion: Intrusion, listeners: Mapping[str, int], tmp_path: pathlib.Path, kind: str
):
    victim = await served.create("victim", image="tiny", memory="96M", start=True)
    rate = {"inward": "10M"} if kind == "nat" else None
    thief = await served.create(
        "thief",
        image="tiny",
        memory={"startup": "128M", "minimum": "96M", "maximum": "256M"},
        cpus={"cores": 2},
        firmware="uefi",
        disks=[{"size": "8M", "limits": {"iops": 500}}],
        seed={"hostname": "thief"},
        board={"tpm": "crb", "sound": "hda", "watchdog": {"model": "i6300esb"}},
        nics=[{"rate": rate, "publish": [publish(free_port())]}],
        ports=[
            {"name": "printer", "kind": "parallel", "number": 1, "to": "file"},
            {"name": "scales", "number": 2, "to": "listen", "address": f"127.0.0.1:{free_port()}"},
            {"name": "till", "number": 3, "to": "connect", "address": f"127.0.0.1:{free_port()}"},
        ],
        share={"cpu": {"weight": 200, "cap": 1.5}, "memory_overhead": "1G", "disks": {"iops": 1000}},
    )
    own = next((served.place(thief).path / "disks").iterdir())
    served.homes.samples.touch()  # which would be there in a minute
    intrusion.orders = (*attempts(served, victim, thief, listeners), f"write {own}")
    planted = [pathlib.Path(order.split()[1]) for order in intrusion.orders if order.startswith("create ")]
    assert (await served.ask("vm.start", thief)).status.state is work.TaskState.DONE
    running = await served.becomes(thief, vm.State.RUNNING)
    assert running.status.isolation.missing == ()

    held = await results(served, served.place(thief).serial_log, intrusion.orders)
    assert held.keys() == set(intrusion.orders)
    assert [order for order, result in held.items() if result == _DONE] == [f"write {own}"]
    assert [path for path in planted if path.exists()] == []
    assert (await served.read(victim)).status.state is vm.State.RUNNING

    async with unhedged(intrusion, tmp_path / "says"):
        free = await results(served, tmp_path / "says", intrusion.orders)
    for path in planted:
        path.unlink()
    assert {order: result for order, result in free.items() if result != _DONE} == {}


@pytest.mark.parametrize("order", ["setuid 0", "unshare x", "mount /tmp", "exec /bin/sh"])
async def test_who_asks_the_kernel_for_more_is_refused_or_ends(
    served: House, intrusion: Intrusion, tmp_path: pathlib.Path, order: str
):
    thief = await served.create("thief", **BLANK, restart={"policy": "never"})
    intrusion.orders = (order,)
    await served.ask("vm.start", thief)
    log = served.place(thief).serial_log

    async def over() -> bool:
        pid = (await served.read(thief)).status.pid
        return not any(_named(task) == "intruder" for task in pathlib.Path(f"/proc/{pid}/task").glob("*"))

    await served.until(over, bool)
    assert _DONE not in await _text(log)

    if not order.startswith("mount"):  # which would stay
        async with unhedged(intrusion, tmp_path / "says"):
            await served.until(lambda: _text(tmp_path / "says"), lambda text: _DONE in text)


def _named(task: pathlib.Path) -> str:
    try:
        return (task / "comm").read_text().strip()
    except OSError:  # it has ended
        return ""


async def test_what_is_told_of_a_process_is_what_the_kernel_holds_it_by(served: House):
    made = await served.create("box", image="tiny", memory="96M", start=True)
    actor = served.node.crew.of(made.uid)
    assert actor
    assert actor.standing.machine
    found = actor.standing.machine.confinement()
    status = pathlib.Path(f"/proc/{found.pid}/status").read_text()
    assert f"Uid:\t{found.uid}\t{found.uid}\t{found.uid}\t{found.uid}" in status
    assert found.uid not in (0, os.geteuid())
    assert set(found.capabilities.values()) == {()}
    assert (found.seccomp, found.threads_unfiltered, found.new_privileges) == ("filter", 0, False)
    assert {"mnt", "net", "ipc", "uts"} <= set(found.own_namespaces)
    assert found.interfaces == ("lo",)
    assert found.gaps == ()
    seen = {one.path: one for one in found.mounts}
    disk = next((served.place(made).path / "disks").iterdir())
    assert seen[str(disk)].writable
    assert not seen["/usr"].writable
    assert not [path for path in seen if path.startswith(str(served.homes.database))]
    assert any(one.what == str(disk) and one.writable for one in found.opened)
    assert any(str(served.homes.vm_runtime(made.uid) / "io" / "qmp") in one.what for one in found.opened)


async def test_a_process_that_is_held_by_nothing_has_every_gap():
    found = confinement.read(processes.identify(os.getpid()))
    kinds = {gap.type for gap in found.gaps}
    assert {"isolation-gap-root", "isolation-gap-capabilities", "isolation-gap-privileges"} <= kinds
    assert {"isolation-gap-seccomp", "isolation-gap-mounts", "isolation-gap-network"} <= kinds
    assert "sys_admin" in found.capabilities["effective"]
