from __future__ import annotations

import contextlib
import ipaddress
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator

import pytest

from bocage import errors, words
from bocage.network import base, user
from tests.network.ethernet import Card
from tests.network.machines import eventually, run

OWNER = 4711  # a user id that nobody here has


def publish(
    host_port: int, *, address: str = "127.0.0.1", guest_port: int = 22, protocol: base.Protocol = "tcp"
) -> base.Publish:
    return base.Publish(host_address=address, host_port=host_port, guest_port=guest_port, protocol=protocol)


def planned(**fields: object) -> user.Plan:
    subnet = ipaddress.IPv4Network("10.0.2.0/24")
    given = {"backend": "passt", "publish": (), "subnet": subnet, "program": "/usr/bin/passt", **fields}
    return user.Plan(**given)  # type: ignore[arg-type]


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture
def short() -> Iterator[pathlib.Path]:
    """A directory for sockets, which any user may use."""
    with tempfile.TemporaryDirectory(prefix="bn") as name:
        os.chmod(name, 0o777)
        yield pathlib.Path(name)


def test_the_command_is_a_function_of_the_plan() -> None:
    plan = planned(publish=(publish(2222), publish(5353, address="0.0.0.0", guest_port=53, protocol="udp")))
    command = user.passt_command(plan, pathlib.Path("/run/p.sock"), run_as=(4711, 4712), log=pathlib.Path("/run/log"))
    assert command[:4] == ["/usr/bin/passt", "--foreground", "--quiet", "--one-off"]
    options = dict(zip(command[4::2], command[5::2], strict=False))
    assert (options["--socket"], options["--runas"], options["--log-file"]) == ("/run/p.sock", "4711:4712", "/run/log")
    assert (options["--address"], options["--gateway"], options["--netmask"]) == (
        "10.0.2.15",
        "10.0.2.2",
        "255.255.255.0",
    )
    assert command[-5:] == ["--no-map-gw", "--tcp-ports", "127.0.0.1/2222:22", "--udp-ports", "0.0.0.0/5353:53"]


def test_a_machine_without_a_way_out_has_passt_take_its_loopback_for_a_model() -> None:
    command = user.passt_command(planned(offline=True), 7)
    assert command[command.index("--interface") + 1] == "lo"
    assert command[command.index("--fd") + 1] == "7"


@pytest.mark.parametrize("asked", [None, (), ("192.0.2.53",)])
async def test_passt_is_chosen_where_it_is_installed_and_opens_the_hosts_loopback_only_where_names_are_asked_for_there(
    asked: tuple[str, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(user, "_nameservers", lambda: asked)
    plan = await user.plan()
    assert plan.backend == "passt"
    assert pathlib.Path(plan.program).name == "passt"
    assert plan.reaches_loopback is (asked is None)
    assert ("--no-map-gw" in user.passt_command(plan)) is (asked is not None)
    assert plan.why is None


async def test_without_passt_it_is_qemus_own_and_the_plan_says_why() -> None:
    plan = await user.plan(passt=None)
    assert plan.backend == "slirp"
    assert plan.reaches_loopback
    assert plan.why is not None
    assert "passt" in words.say(plan.why)


async def test_cards_of_one_vm_get_different_subnets() -> None:
    first, second = await user.plan(card=0), await user.plan(card=1)
    assert not first.subnet.overlaps(second.subnet)


@pytest.mark.parametrize("passt", ["", None])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
async def test_a_port_that_is_taken_is_a_conflict_before_anything_starts(
    passt: str | None, protocol: base.Protocol
) -> None:
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as other:
        other.bind(("127.0.0.1", 0))
        if protocol == "tcp":
            other.listen()
        port = other.getsockname()[1]
        with pytest.raises(user.PortTaken) as taken:
            await user.plan([publish(port, protocol=protocol)], passt=passt)
        with pytest.raises(user.PortTaken):
            await user.plan([publish(port, address="0.0.0.0", protocol=protocol)], passt=passt)
    assert (taken.value.port, taken.value.type, taken.value.status) == (port, "port-taken", 409)
    assert isinstance(taken.value, errors.Conflict)


async def test_a_port_whose_connections_still_close_is_free(free_port: int) -> None:
    with socket.create_server(("127.0.0.1", free_port)) as server:
        client = socket.create_connection(("127.0.0.1", free_port))
        accepted, _ = server.accept()
        accepted.close()
        client.close()
    assert (await user.plan([publish(free_port)])).publish


async def test_ports_below_1024_are_for_what_starts_as_root(namespace: None) -> None:
    with pytest.raises(user.PortPrivileged) as refused:
        await user.plan([publish(80)])
    assert "1024" in words.say(refused.value)
    assert (await user.plan([publish(80)], low_ports=True)).publish
    with pytest.raises(user.PortPrivileged):
        await user.plan([publish(80)], low_ports=True, passt=None)


@pytest.mark.parametrize("address", ["203.0.113.7", "not an address", "2001:db8::7"])
async def test_an_address_that_this_machine_has_not_is_refused(address: str) -> None:
    with pytest.raises(user.AddressAbsent):
        await user.plan([publish(20022, address=address)])


async def test_a_port_that_is_published_twice_is_refused(free_port: int) -> None:
    with pytest.raises(user.PublishedTwice):
        await user.plan([publish(free_port), publish(free_port, guest_port=23)])
    with pytest.raises(user.PortTaken):
        await user.plan([publish(free_port), publish(free_port, address="0.0.0.0")])
    both = [publish(free_port), publish(free_port, protocol="udp")]
    assert len((await user.plan(both)).publish) == 2


async def test_ipv6_needs_passt(free_port: int) -> None:
    with pytest.raises(user.PublishNeedsPasst):
        await user.plan([publish(free_port, address="::1")], passt=None)


@contextlib.contextmanager
def started(
    command: list[str], *, descriptors: tuple[int, ...] = (), user_id: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A program at work, killed when it has not ended by itself."""
    groups: list[int] | None = None if user_id is None else []
    with subprocess.Popen(
        command, pass_fds=descriptors, stdin=subprocess.DEVNULL, user=user_id, group=user_id, extra_groups=groups
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def of_process(process: subprocess.Popen[bytes], file: str) -> str:
    return pathlib.Path(f"/proc/{process.pid}/{file}").read_text()


@pytest.mark.parametrize("online", [True, False])
async def test_a_guest_behind_passt_gets_its_address_and_its_published_port_leads_there(
    namespace: None, short: pathlib.Path, free_port: int, online: bool
) -> None:
    if online:
        run("ip", "link", "add", "uplink", "type", "veth", "peer", "name", "far")
        run("ip", "address", "add", "192.0.2.2/24", "dev", "uplink")
        run("ip", "link", "set", "uplink", "up")
        run("ip", "link", "set", "far", "up")
        run("ip", "route", "add", "default", "via", "192.0.2.1")
    plan = await user.plan([publish(free_port)])
    assert plan.offline != online
    listening = short / "p.sock"
    with started(user.passt_command(plan, listening), user_id=OWNER) as process:
        await eventually(listening.exists)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(os.fspath(listening))
            card = Card(connection)
            offered = card.lease()
            with socket.create_connection(("127.0.0.1", free_port)):
                assert card.knocked() == ("10.0.2.15", 22)
        process.wait(10)
    assert (offered["address"], offered["router"]) == ("10.0.2.15", "10.0.2.2")


async def test_passt_from_root_becomes_the_vms_user_and_keeps_low_ports(namespace: None, short: pathlib.Path) -> None:
    plan = await user.plan([publish(80, guest_port=8080)], low_ports=True)
    listening = short / "p.sock"
    with started(user.passt_command(plan, listening, run_as=(OWNER, OWNER))) as process:
        await eventually(listening.exists)
        assert listening.stat().st_uid == OWNER
        assert f"Uid:\t{OWNER}\t{OWNER}" in of_process(process, "status")
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(os.fspath(listening))
            card = Card(connection)
            card.lease()
            with socket.create_connection(("127.0.0.1", 80)):
                assert card.knocked() == ("10.0.2.15", 8080)
        process.wait(10)


async def linked(listening: pathlib.Path) -> socket.socket:
    """A connection to the socket on which QEMU waits, as soon as it is there."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    await eventually(lambda: connection.connect_ex(str(listening)) == 0)
    return connection


@pytest.mark.fault
async def test_a_passt_that_died_is_replaced_while_qemu_runs_on(namespace: None, short: pathlib.Path) -> None:
    listening = short / "n.sock"
    netdev = f"stream,id=n,server=on,addr.type=unix,addr.path={listening}"
    qemu = ["qemu-system-x86_64", "-machine", "none", "-nodefaults", "-display", "none", "-netdev", netdev]
    plan = await user.plan()
    with started(qemu) as machine:
        for _ in range(2):
            with await linked(listening) as connection:
                descriptor = connection.fileno()
                command = user.passt_command(plan, descriptor, run_as=(OWNER, OWNER))
                with started(command, descriptors=(descriptor,)) as passt:
                    await eventually(lambda: "passt" in of_process(passt, "comm"))
                    passt.kill()
                    passt.wait(10)
            assert machine.poll() is None


def test_a_loopback_resolver_alone_is_no_use_to_a_guest(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local, real = tmp_path / "local", tmp_path / "real"
    local.write_text("nameserver 127.0.0.53\nsearch example.org\nnameserver\n")
    real.write_text("nameserver 192.0.2.53\nnameserver ::1\nnameserver rubbish\n")
    decide = user._nameservers
    monkeypatch.setattr(user, "_RESOLVERS", (str(real), str(real)))
    assert decide() == ()
    monkeypatch.setattr(user, "_RESOLVERS", (str(local), str(real)))
    assert decide() == ("192.0.2.53",)
    monkeypatch.setattr(user, "_RESOLVERS", (str(local), str(tmp_path / "absent")))
    assert decide() is None


def test_the_tests_have_what_they_need() -> None:
    assert shutil.which("passt")
    assert shutil.which("qemu-system-x86_64")
