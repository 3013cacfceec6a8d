"""Programs and machines for the network's tests: what runs beside the code under test."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable

_PATIENCE = 20  # seconds, for what takes none when the machine is calm
_LEASER = os.fspath(pathlib.Path(__file__).with_name("leaser"))
_SPEAKER = """
import socket, sys
speaker = socket.socket(socket.AF_INET6 if ":" in sys.argv[2] else socket.AF_INET, socket.SOCK_DGRAM)
speaker.bind((sys.argv[4], 0))
speaker.sendto(sys.argv[1].encode(), (sys.argv[2], int(sys.argv[3])))
"""


def run(*command: str, expect: int | None = 0, within: float = 20) -> str:
    """Run a program in this thread's namespace; its output."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=within, stdin=subprocess.DEVNULL)
    assert expect is None or done.returncode == expect, (command, done.returncode, done.stdout, done.stderr)
    return done.stdout + done.stderr


@dataclasses.dataclass
class Machine:
    """Another machine: a namespace with one card, held by a process."""

    pid: int
    port: str
    mac: str = ""

    def run(self, *command: str, expect: int | None = 0, within: float = 20) -> str:
        """Run a program there; its output."""
        return run(*self.entry, *command, expect=expect, within=within)

    @property
    def entry(self) -> list[str]:
        """What a command is preceded by to be run there."""
        return ["nsenter", "-t", str(self.pid), "-n", "--"]

    def says(self, text: str, address: str, port: int, *, source: str = "") -> None:
        """Send a datagram."""
        self.run(sys.executable, "-ISc", _SPEAKER, text, address, str(port), source)

    def ask_lease(self, *options: str) -> str:
        """Ask for an address by DHCP and take it; what was said."""
        tries = ("-t", str(_PATIENCE), "-T", "1")
        client = ("busybox", "udhcpc", "-f", "-n", "-q", "-i", "eth0", *tries, "-s", _LEASER)
        return self.run(*client, "-O", "hostname", *options, expect=None, within=2 * _PATIENCE)

    def lease(self, *options: str) -> str:
        """Ask for an address by DHCP and take it; empty when none is given."""
        said = self.ask_lease(*options)
        return next((line.split()[1] for line in said.splitlines() if line.startswith("leased ")), "")

    def resolve(self, name: str, server: str) -> str:
        """The IPv4 address of a name; empty when there is none, or no answer."""
        said = self.run("busybox", "nslookup", "-type=a", name, server, expect=None)
        found = [line.split()[1] for line in said.splitlines() if line.startswith("Address:")]
        return found[-1] if len(found) > 1 else ""

    def reaches(self, address: str, port: int, *, within: int = _PATIENCE) -> str:
        """What a TCP service says; empty when it cannot be reached. Where nothing shall answer, `within` be short."""
        said = self.run("busybox", "nc", "-w", str(within), address, str(port), expect=None, within=within + _PATIENCE)
        return said.strip() if "HELLO" in said else ""

    def pings(self, address: str, *, within: int = _PATIENCE) -> bool:
        """Whether a single ping is answered. Where nothing shall answer, `within` be short.

        Not for what shall pass right after something that held ARP back, too: the kernel asks for an address three
        times, a second apart, and what is sent after the last of these is lost, whatever passes by then.
        """
        ping = ("busybox", "ping", "-c", "1", "-W", str(within), address)
        return " 0% packet loss" in self.run(*ping, expect=None, within=within + _PATIENCE)


async def eventually(holds: Callable[[], bool], within: float = 10) -> None:
    """Wait until something holds; fail when it does not within the bound."""
    async with asyncio.timeout(within):
        while not holds():
            await asyncio.sleep(0.02)
