"""A whole host in a network namespace of its own: what guests reach, and what is left of it afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from bocage import home
from bocage.engine.qemu import engine, machine, processes
from bocage.model import base, ground, vm, work
from bocage.network import base as network
from bocage.network import dnsmasq, fences, kernel, tap
from tests.network.machines import Machine, eventually, run
from tests.node.house import House

pytestmark = pytest.mark.guest
SMALL = {"image": "tiny", "memory": "128M", "disk": "64M"}
BLANK = {"memory": "32M", "disk": "1M"}
_BOUND = 120  # seconds, for what takes none when the machine is calm


@contextlib.asynccontextmanager
async def again(house: House) -> AsyncIterator[House]:
    """The daemon, ended and started anew."""
    await house.close()
    opened = await House(house.homes).open()
    try:
        yield opened
    finally:
        await opened.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def publish(port: int, to: int = 80, **more: object) -> dict[str, object]:
    return {"host_port": port, "guest_port": to, **more}


async def make_network(house: House, name: str, **spec: object) -> work.Task:
    net = ground.Network(
        metadata=base.Metadata(name=name, project="default"), spec=ground.NetworkSpec.model_validate(spec)
    )
    await house.resources.create(net)
    return await house.ask("network.create", net)


async def network_named(house: House, name: str) -> ground.Network:
    return await house.resources.find(ground.Network, "default", name)


async def up(house: House, name: str, net: str = "default", **more: object) -> vm.VM:
    """A guest with one card on a network, that has said it is up."""
    nics = [{"network": net, "publish": more.pop("publish", [])}]
    made = await house.create(name, start=True, nics=nics, **SMALL, **more)
    await house.says(made, "^tiny: ready")
    return made


async def addressed(house: House, guest: vm.VM) -> str:
    """The address that the guest has, once it has one."""
    wait = "until tiny address | grep -q eth0.*/; do sleep 0.1; done; tiny address"
    line = await house.says(guest, "^tiny: address eth0 [0-9.]+/", send=wait)
    return line.split()[3].split("/")[0]


async def shown(house: House, guest: vm.VM) -> str:
    """The address that the VM's status shows, once it does."""
    found = await house.until(lambda: house.read(guest), lambda one: any(nic.addresses for nic in one.status.nics))
    return found.status.nics[0].addresses[0]


async def greets(house: House, guest: vm.VM, text: str) -> None:
    """Have the guest answer on port 80."""
    web = f"mkdir -p /run/web; echo {text} >/run/web/index.html; httpd -h /run/web; echo serves"
    await house.says(guest, "^serves$", send=web)


async def asks(house: House, guest: vm.VM, where: str) -> str:
    """What the guest gets from a web server, or `none`; the address of a name, when it has one, is asked for first."""
    address = where if where[0].isdigit() else await resolves(house, guest, where)
    ask = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {address} 80 | grep -x [a-z]* || echo none"
    return await house.says(guest, "^[a-z]+$", send=ask) if address else "none"


async def gets(house: House, guest: vm.VM, where: str) -> str:
    """What a web server answers the guest, asked again until it does."""
    address = where if where[0].isdigit() else await house.until(lambda: resolves(house, guest, where), bool)
    ask = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {address} 80 | grep -x [a-z]*"
    return await house.says(guest, "^[a-z]+$", send=f"until {ask}; do usleep 100000; done")


async def resolves(house: House, guest: vm.VM, name: str) -> str:
    """The address of a name, as the guest is told; empty when there is none."""
    ask = f"nslookup {name} | grep -A1 ^Name: || echo Address:"
    line = await house.says(guest, "^Address:", send=ask)
    return line.removeprefix("Address:").strip()


async def reads(port: int, address: str = "127.0.0.1") -> str:
    """What answers on a port of the host, tried again until something does."""
    async with asyncio.timeout(_BOUND):
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection(address, port)
                writer.write(b"GET / HTTP/1.0\r\n\r\n")
                answer = await asyncio.wait_for(reader.read(), 5)
                writer.close()
                if answer:
                    return answer.decode().split("\r\n\r\n")[-1].strip()
            await asyncio.sleep(0.1)


async def closed(port: int) -> None:
    """Wait until nobody listens on a port of the host."""
    async with asyncio.timeout(_BOUND):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                return
            writer.close()
            await asyncio.sleep(0.05)


def links() -> set[str]:
    return {link["ifname"] for link in json.loads(run("ip", "-json", "link", "show"))}


def failed(task: work.Task) -> str | None:
    return task.status.problem.type if task.status.problem else None


@pytest.mark.slow
async def test_guests_of_a_nat_network_know_and_reach_each_other_and_leave_nothing(wired: House) -> None:
    port = free_port()
    assert (await make_network(wired, "lan", kind="nat")).status.state is work.TaskState.DONE
    net = await network_named(wired, "lan")
    alpha = await up(wired, "alpha", "lan")
    beta = await up(wired, "beta", "lan", publish=[publish(port)])
    address = await addressed(wired, beta)
    assert await shown(wired, beta) == address
    assert await addressed(wired, alpha) == await shown(wired, alpha) != address
    await greets(wired, beta, "hello")
    assert await reads(port) == "hello"
    for name in (address, "beta", "beta.lan.internal"):
        assert await gets(wired, alpha, name) == "hello"
    await wired.ask("vm.kill", alpha)
    assert (await wired.read(alpha)).status.nics[0].addresses == ()
    for guest in (alpha, beta):
        await wired.ask("vm.kill", guest)
        await wired.ask("vm.delete", guest, purge=True)
    state = wired.homes.runtime / "networks" / net.uid
    assert dnsmasq.processes(state)
    assert (await wired.ask("network.delete", net)).status.state is work.TaskState.DONE
    assert links() == {"lo"}
    assert run("nft", "list", "ruleset") == ""
    assert dnsmasq.processes(state) == []
    assert not state.exists()


async def test_a_network_takes_the_taps_that_a_vm_started_by_hand_left_in_it_away_with_it(wired: House) -> None:
    await make_network(wired, "lan", kind="nat")
    net = await network_named(wired, "lan")
    made = await wired.create("box", **BLANK | {"nics": [{"network": "lan"}]})
    script = await asyncio.to_thread((wired.place(made).path / "start-by-hand").read_text)
    for line in script.splitlines():
        if line.startswith("ip "):
            run("sh", "-c", line)
    (left,) = {name for name in links() if name.startswith("bt")}
    assert (await wired.ask("vm.delete", made, purge=True)).status.state is work.TaskState.DONE
    assert (await wired.ask("network.delete", net)).status.state is work.TaskState.DONE
    assert left not in links()


@pytest.mark.slow
async def test_an_isolated_network_leads_neither_to_the_host_nor_out(
    wired: House,
    connect: Callable[..., Machine],
    serve: Callable[..., None],
) -> None:
    outside = connect(address="192.0.2.9/24", port="out0")
    run("ip", "address", "add", "192.0.2.1/24", "dev", "out0")
    outside.run("ip", "route", "add", "default", "via", "192.0.2.1")
    serve(outside, 80, "outside")
    serve(None, 80, "host")
    await make_network(wired, "cell", kind="isolated", subnet="10.99.0.0/24")
    alpha = await up(wired, "alpha", "cell")
    beta = await up(wired, "beta", "cell")
    open_ = await up(wired, "open", "default")
    await addressed(wired, alpha)
    await addressed(wired, open_)
    await greets(wired, beta, "within")
    assert await gets(wired, alpha, "beta") == "within"

    asked = "until nc -w 5 192.0.2.9 80 </dev/null | grep HELLO; do :; done"
    assert await wired.says(open_, "^HELLO", send=asked) == "HELLO outside"
    await wired.says(alpha, "^routed$", send="ip route add default via 10.99.0.1; echo routed")
    for where in ("10.99.0.1", "192.0.2.1", "192.0.2.9"):
        knock = f"nc -w 2 {where} 80 </dev/null | grep HELLO || echo silence"
        assert await wired.says(alpha, "^(HELLO|silence)", send=knock) == "silence"


async def test_the_default_network_of_root_has_nat_and_nothing_is_made_before_a_vm_starts_on_it(wired: House) -> None:
    net = await network_named(wired, "default")
    assert (net.spec.kind, net.status.state) == ("nat", "pending")
    assert "default-network-nat" in await wired.events()
    made = await wired.create("box", **BLANK)
    async with again(wired) as house:
        assert links() == {"lo"}
        assert (await house.ask("vm.start", made)).status.state is work.TaskState.DONE
        bridge = (await network_named(house, "default")).status.bridge
        assert bridge in links()
        async with again(house) as later:  # its VM runs on
            assert bridge in links()
            await later.ask("vm.kill", made)
    assert links() == {"lo"}  # no daemon, nobody on it
    assert run("nft", "list", "ruleset") == ""


async def test_the_default_network_is_in_user_mode_where_that_is_set(
    homes: home.Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOCAGE_DEFAULT_NETWORK", "user")
    opened = await House(homes).open()
    try:
        assert (await network_named(opened, "default")).spec.kind == "user"
        assert "default-network-user" in await opened.events()
    finally:
        await opened.close()


async def test_what_the_machine_lacks_is_said_when_the_network_is_created(
    wired: House, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for program in ("ip", "nft"):
        (tmp_path / program).symlink_to(network.need(program))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(network, "_SYSTEM_PATH", str(tmp_path))
    ended = await make_network(wired, "lan", kind="nat")
    assert failed(ended) == "network-program-missing"
    assert ended.status.problem
    assert "dnsmasq-base" in ended.status.problem.hint
    assert [net.name for net in (await wired.resources.list(ground.Network)).items] == ["default"]
    assert links() == {"lo"}


@pytest.mark.parametrize("kind", ["nat", "user"])
async def test_a_port_that_is_taken_fails_the_start_and_leaves_nothing(wired: House, kind: str) -> None:
    await make_network(wired, "net", kind=kind)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        made = await wired.create("box", nics=[{"network": "net", "publish": [publish(port)]}], **BLANK)
        ended = await wired.ask("vm.start", made)
    assert failed(ended) == "port-taken"
    after = await wired.read(made)
    assert (after.status.state, after.spec.power) == (vm.State.STOPPED, vm.Power.STOPPED)
    assert not [name for name in links() if name.startswith("bt")]
    assert (await wired.ask("vm.start", made)).status.state is work.TaskState.DONE


async def test_a_port_that_another_vm_publishes_fails_the_start_and_names_it(wired: House) -> None:
    port = free_port()
    await make_network(wired, "own", kind="user")
    first = await wired.create("first", start=True, nics=[{"network": "default", "publish": [publish(port)]}], **BLANK)
    others = [
        await wired.create(
            name,
            nics=[{"network": net, "publish": [publish(port, host_address="0.0.0.0")]}],
            **BLANK,
        )
        for name, net in (("second", "default"), ("third", "own"))
    ]
    for other in others:
        ended = await wired.ask("vm.start", other)
        assert failed(ended) == "port-published-already"
        assert ended.status.problem
        assert "first" in ended.status.problem.text
    await wired.ask("vm.kill", first)
    assert (await wired.ask("vm.start", others[0])).status.state is work.TaskState.DONE


@pytest.mark.parametrize("backend", ["passt", "slirp"])
async def test_a_guest_of_a_user_network_gets_an_address_and_its_published_port_is_reached(
    wired: House, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend == "slirp":
        find = network.find
        monkeypatch.setattr(network, "find", lambda program: None if program == "passt" else find(program))
    port = free_port()
    await make_network(wired, "own", kind="user")
    assert (await network_named(wired, "own")).status.backend == backend
    guest = await up(wired, "guest", "own", publish=[publish(port)])
    assert await addressed(wired, guest) == "10.0.2.15"
    await greets(wired, guest, "hello")
    assert await reads(port) == "hello"
    await wired.ask("vm.kill", guest)
    assert not processes.find(wired.homes.vm_runtime(guest.uid))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may publish them")
async def test_a_low_port_is_published_by_a_passt_that_is_no_longer_root(wired: House) -> None:
    await make_network(wired, "own", kind="user")
    guest = await up(wired, "guest", "own", publish=[publish(80)])
    await addressed(wired, guest)
    await greets(wired, guest, "low")
    assert await reads(80) == "low"
    [helper] = passts(wired, guest)
    assert pathlib.Path(f"/proc/{helper.pid}").stat().st_uid == (await wired.read(guest)).status.isolation.uid


def passts(house: House, guest: vm.VM) -> list[processes.Identity]:
    found = processes.find(house.homes.vm_runtime(guest.uid))
    return [one.identity for one in found if pathlib.PurePath(one.arguments[0]).name.startswith("passt")]


@pytest.mark.fault
async def test_a_passt_that_is_killed_is_started_anew_and_the_guest_goes_on(wired: House) -> None:
    port = free_port()
    await make_network(wired, "own", kind="user")
    guest = await up(wired, "guest", "own", publish=[publish(port)])
    await addressed(wired, guest)
    await greets(wired, guest, "hello")
    assert await reads(port) == "hello"
    pid = (await wired.read(guest)).status.pid
    [killed] = passts(wired, guest)
    os.kill(killed.pid, signal.SIGKILL)
    await wired.until(wired.events, lambda types: "vm-nic-mended" in types)
    assert await reads(port) == "hello"
    [mended] = passts(wired, guest)
    assert mended != killed
    assert (await wired.read(guest)).status.pid == pid
    await wired.close()  # the next one dies while no daemon is there
    pidfd = processes.open_pidfd(mended)
    os.kill(mended.pid, signal.SIGKILL)
    await processes.wait_exit(pidfd, within=30)  # of its sockets too: its arguments are gone before they are
    os.close(pidfd)
    with socket.create_server(("127.0.0.1", port)):  # and somebody takes its port
        opened = await House(wired.homes).open()
        await opened.until(opened.events, lambda types: "vm-nic-cut" in types)
    try:
        await opened.until(opened.events, lambda types: types.count("vm-nic-mended") == 2)
        assert (await opened.events()).count("vm-nic-cut") == 1
        assert await reads(port) == "hello"
        await opened.ask("vm.kill", guest)
        assert not processes.find(opened.homes.vm_runtime(guest.uid))
    finally:
        await opened.close()


@pytest.mark.fault
async def test_a_daemon_that_comes_back_knows_what_its_networks_gave(wired: House) -> None:
    ports = [free_port() for _ in range(2)]
    first = await up(wired, "first", publish=[publish(ports[0])])
    address = await addressed(wired, first)
    await greets(wired, first, "first")
    async with again(wired) as house:
        second = await up(house, "second", publish=[publish(ports[1])])
        await greets(house, second, "second")
        assert await addressed(house, second) != address
        assert [await reads(port) for port in ports] == ["first", "second"]
        assert await gets(house, second, "first") == "first"
        taken = await house.create("third", nics=[{"network": "default", "publish": [publish(ports[0])]}], **BLANK)
        assert failed(await house.ask("vm.start", taken)) == "port-published-already"
        await house.ask("vm.kill", first)
        assert (await house.ask("vm.start", taken)).status.state is work.TaskState.DONE


@pytest.mark.fault
async def test_a_network_that_is_gone_is_made_again_and_running_guests_are_plugged_in(wired: House) -> None:
    guest = await up(wired, "guest", publish=[publish(port := free_port())])
    await addressed(wired, guest)
    await greets(wired, guest, "hello")
    bridge = (await network_named(wired, "default")).status.bridge
    assert bridge
    run("ip", "link", "delete", bridge)  # as a reboot does
    run("nft", "flush", "ruleset")
    async with again(wired) as house:
        assert await reads(port) == "hello"
        run("nft", "flush", "ruleset")  # as another firewall's restart does
        await house.until(house.events, lambda types: "network-mended" in types)
        assert await reads(port) == "hello"
        server = dnsmasq.processes(house.homes.runtime / "networks" / (await network_named(house, "default")).uid)
        os.kill(server[0].pid, signal.SIGKILL)
        await house.until(house.events, lambda types: types.count("network-mended") == 2)
        assert await gets(house, guest, "guest") == "hello"


@pytest.mark.fault
async def test_with_the_database_lost_an_adopted_guest_keeps_its_network(wired: House) -> None:
    guest = await up(wired, "guest", publish=[publish(port := free_port())])
    address = await addressed(wired, guest)
    await greets(wired, guest, "hello")
    await wired.close()
    for path in wired.homes.path.glob("bocage.db*"):
        path.unlink()
    house = await House(wired.homes).open()
    try:
        ended = await house.adopt_local()
        assert ended.status.state is work.TaskState.DONE, ended.status
        await house.becomes(guest, vm.State.RUNNING)
        assert await shown(house, guest) == address
        assert await reads(port) == "hello"
        kept = await house.until(lambda: house.read(guest), lambda one: bool(one.status.nics[0].reserved))
        assert kept.status.nics[0].reserved == address
    finally:
        await house.close()


async def test_a_new_name_is_known_and_the_old_one_is_not(wired: House) -> None:
    guest = await up(wired, "guest")
    address = await addressed(wired, guest)
    await wired.resources.commit(await renamed(wired, guest, "heron"))
    state = wired.homes.runtime / "networks" / (await network_named(wired, "default")).uid
    await eventually(lambda: "heron" in (state / "hosts").read_text())
    await greets(wired, guest, "hello")
    assert await gets(wired, guest, "heron") == "hello"
    assert await asks(wired, guest, "guest") == "none"
    assert await addressed(wired, guest) == address


async def renamed(house: House, guest: vm.VM, name: str):
    from bocage.store import resources

    transaction = resources.Transaction()
    transaction.rename(await house.read(guest), name)
    return transaction


async def test_addresses_are_stable_and_free_again_when_their_vm_is_deleted(wired: House) -> None:
    await make_network(wired, "small", kind="nat", subnet="10.99.7.0/29")
    nics = [{"network": "small"}]
    many = [await wired.create(f"box{number}", start=True, nics=nics, **BLANK) for number in range(5)]
    kept = {one.name: (await wired.read(one)).status.nics[0].reserved for one in many}
    assert len(set(kept.values())) == 5
    late = await wired.create("late", nics=nics, **BLANK)
    assert failed(await wired.ask("vm.start", late)) == "network-addresses-exhausted"
    for one in many[:2]:
        await wired.ask("vm.kill", one)
    await wired.ask("vm.start", many[0])
    assert (await wired.read(many[0])).status.nics[0].reserved == kept["box0"]
    await wired.ask("vm.delete", many[1])
    assert (await wired.ask("vm.start", late)).status.state is work.TaskState.DONE
    assert (await wired.read(late)).status.nics[0].reserved == kept["box1"]


async def test_what_a_start_that_was_cut_off_left_is_swept_away(wired: House) -> None:
    guest = await wired.create("box", start=True, nics=[{"network": "default"}], **BLANK)
    net = await network_named(wired, "default")
    assert net.status.bridge
    [living] = [name for name in links() if name.startswith("bt")]
    run("ip", "tuntap", "add", "dev", "bt0", "mode", "tap")
    run("ip", "link", "set", "bt0", "alias", "bocage tap", "master", net.status.bridge, "up")
    await wired.node.wires.sweep()
    assert {living, net.status.bridge, "lo"} == links()
    await wired.ask("vm.kill", guest)
    assert {net.status.bridge, "lo"} == links()


async def test_a_nic_is_plugged_in_while_qemu_comes_up_and_before_a_vcpu_runs(
    wired: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = await wired.create("box", nics=[{"network": "default"}], **BLANK)
    await wired.node.wires.ensure(await network_named(wired, "default"))
    order: list[str] = []
    stands = asyncio.Event()
    apply, ensure, start = fences.apply, tap.ensure, engine.QemuEngine.start
    resume = machine.QemuMachine.resume

    async def holds(uid: str, ports: Sequence[fences.Port], *arguments: Any, **options: Any) -> fences.Names:
        await stands.wait()
        names = await apply(uid, ports, *arguments, **options)
        if ports:
            order.append("held to its rules")
        return names

    async def plugs_in(*arguments: Any, **options: Any) -> None:
        await stands.wait()
        await ensure(*arguments, **options)
        order.append("plugged in")

    async def starts(*arguments: Any, **options: Any) -> machine.QemuMachine:
        started = await start(*arguments, **options)
        order.append("stands")
        stands.set()
        return started

    async def runs(self: machine.QemuMachine) -> None:
        order.append("runs")
        await resume(self)

    monkeypatch.setattr(fences, "apply", holds)
    monkeypatch.setattr(tap, "ensure", plugs_in)
    monkeypatch.setattr(engine.QemuEngine, "start", starts)
    monkeypatch.setattr(machine.QemuMachine, "resume", runs)
    assert (await wired.ask("vm.start", box)).status.state is work.TaskState.DONE
    assert order == ["stands", "held to its rules", "plugged in", "runs"]


async def test_a_start_that_fails_leaves_no_tap_that_is_taken_for_a_new_one(
    wired: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = await wired.create("box", nics=[{"network": "default"}], **BLANK)

    async def waits(*arguments: Any) -> None:
        await asyncio.Event().wait()

    async def fails(*arguments: Any, **options: Any) -> None:
        assert wired.node.wires._new
        raise OSError("no room")

    monkeypatch.setattr(wired.node.wires, "plug_in", waits)
    monkeypatch.setattr(engine.QemuEngine, "start", fails)
    assert (await wired.ask("vm.start", box)).status.state is work.TaskState.FAILED
    assert not wired.node.wires._new
    monkeypatch.undo()
    assert (await wired.ask("vm.start", box)).status.state is work.TaskState.DONE


async def test_what_a_start_left_that_was_cut_off_is_finished_before_it_runs_or_goes(wired: House) -> None:
    box = await wired.create("box", start=True, nics=[{"network": "default"}], **BLANK)
    bridge = (await network_named(wired, "default")).status.bridge
    assert bridge
    await wired.ask("vm.pause", box)
    name = tap.name_for(box.uid, box.spec.nics[0].name)
    await wired.close()
    run("ip", "link", "set", name, "nomaster", "down")
    table = fences.table_of(box.spec.nics[0].network)
    run("nft", "delete", "table", "bridge", table)
    await wired._open_store()
    await wired.resources.change_status(
        vm.VM, "default", box.uid, lambda one: one.status.model_copy(update={"pid": None})
    )
    async with again(wired) as house:
        await house.ask("vm.resume", box)
        found = await kernel.link(name)
        assert found
        assert (found.master, found.up) == (bridge, True)
        assert f"chain sent_{name} " in run("nft", "list", "table", "bridge", table)
        await house.ask("vm.kill", box)
    assert name not in links()
    await tap.make(name, owner=os.geteuid())
    async with again(wired):
        await eventually(lambda: name not in links())


def test_the_tests_have_what_they_need() -> None:
    for program in ("passt", "dnsmasq", "nft", "ip"):
        assert network.find(program), program
    assert shutil.which("qemu-system-x86_64")
