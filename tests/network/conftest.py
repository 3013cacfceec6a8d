"""A network namespace for each test, clients on the bridges in it, and a world outside.

The test's own thread enters the new namespace, and with it every program and thread that it starts; at
the end it goes back, and the kernel takes down what was in the namespace.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator

import pytest

from bocage.network import base, dnsmasq
from tests.network.machines import Machine, run

_CLONE_NEWNET = 0x40000000
_SERVER = """
import socket, sys
server = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("listening", flush=True)
while True:
    client, _ = server.accept()
    client.sendall(f"HELLO {sys.argv[3]}\\n".encode())
    client.close()
"""
_LISTENER = """
import socket, sys
six = ":" in sys.argv[2]
listener = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
listener.bind((sys.argv[2], int(sys.argv[1])))
listener.settimeout(30)
print("listening", flush=True)
said, (sender, *_) = listener.recvfrom(100)
print(said.decode() + (f" from {sender}" if six else ""), flush=True)
"""
_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def namespace() -> Iterator[None]:
    """The test is in a network namespace of its own, with its loopback up."""
    if os.geteuid() != 0:
        pytest.skip("only root makes network namespaces, bridges and taps")
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    assert _libc.unshare(_CLONE_NEWNET) == 0
    try:
        run("ip", "link", "set", "lo", "up")
        pathlib.Path("/proc/sys/net/ipv4/ip_forward").write_text("0")  # a new namespace has what the machine has
        yield
    finally:
        assert _libc.setns(before, _CLONE_NEWNET) == 0
        os.close(before)


@pytest.fixture
def state() -> Iterator[pathlib.Path]:
    """A directory for networks, not pytest's own, which the DHCP server could not enter.

    Servers that are left there are ended after the test.
    """
    with tempfile.TemporaryDirectory(prefix="bocage-networks-") as name:
        directory = pathlib.Path(name)
        directory.chmod(0o755)
        try:
            yield directory
        finally:
            for network in directory.iterdir():
                for one in dnsmasq.processes(network):
                    os.kill(one.pid, signal.SIGKILL)


@pytest.fixture
def make(namespace: None, state: pathlib.Path) -> Callable[..., base.Bridge]:
    """Describe a network: `make("lan", "10.77.1.0/24", nat=True)`."""

    def described(name: str = "lan", subnet: str = "10.77.1.0/24", *, nat: bool = True) -> base.Bridge:
        uid = str(uuid.uuid4())
        return base.Bridge(uid=uid, name=name, subnet=ipaddress.IPv4Network(subnet), nat=nat, state=state / uid)

    return described


@pytest.fixture
def connect(namespace: None, tmp_path: pathlib.Path) -> Iterator[Callable[..., Machine]]:
    """Plug another machine into a bridge of this namespace, or (no bridge) join it by a cable."""
    with contextlib.ExitStack() as undo:
        count = 0

        def plugged(bridge: str = "", mac: str = "", *, address: str = "", port: str = "") -> Machine:
            nonlocal count
            count += 1
            port = port or f"port{count}"
            holder = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; exec sleep 300"], stdout=subprocess.PIPE)
            undo.callback(holder.wait)
            undo.callback(holder.kill)
            assert holder.stdout
            undo.callback(holder.stdout.close)
            holder.stdout.readline()
            run("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(holder.pid))
            machine = Machine(holder.pid, port, mac)
            machine.run("ip", "link", "set", "lo", "up")
            if mac:
                machine.run("ip", "link", "set", "eth0", "address", mac)
            machine.run("ip", "link", "set", "eth0", "up")
            if address:
                machine.run("ip", "address", "add", address, "dev", "eth0")
            if bridge:
                run("ip", "link", "set", port, "master", bridge)
            run("ip", "link", "set", port, "up")
            return machine

        yield plugged


@pytest.fixture
def listen(namespace: None) -> Iterator[Callable[..., Callable[[], str]]]:
    """Have a machine listen to datagrams; the returned function gives the first that came, of IPv6 with its sender."""
    with contextlib.ExitStack() as undo:

        def listened(machine: Machine, port: int, address: str = "0.0.0.0") -> Callable[[], str]:
            command = [*machine.entry, sys.executable, "-ISc", _LISTENER, str(port), address]
            listener = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
            undo.callback(listener.wait)
            undo.callback(listener.kill)
            assert listener.stdout
            output = undo.enter_context(listener.stdout)
            assert output.readline() == "listening\n"
            return lambda: output.readline().strip()

        yield listened


@pytest.fixture
def serve(namespace: None) -> Iterator[Callable[..., None]]:
    """Have a TCP service on a machine (None: in this namespace) that says HELLO and its name."""
    with contextlib.ExitStack() as undo:

        def served(machine: Machine | None, port: int, name: str, *, address: str = "0.0.0.0") -> None:
            entry = [] if machine is None else machine.entry
            command = [*entry, sys.executable, "-ISc", _SERVER, address, str(port), name]
            server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
            undo.callback(server.wait)
            undo.callback(server.kill)
            assert server.stdout
            undo.callback(server.stdout.close)
            assert server.stdout.readline() == b"listening\n"

        yield served
