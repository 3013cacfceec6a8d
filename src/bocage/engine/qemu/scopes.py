"""VMs as transient scopes in `bocage.slice`: where systemd is PID 1, all control groups are its to make.

A scope is delegated to us, and our group lies in it: what is set there no reload of systemd's undoes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bocage import errors, systemd
from bocage.engine.qemu import cgroup
from bocage.words import N_

if TYPE_CHECKING:
    from dbus_fast.aio import MessageBus

_TOP = pathlib.Path("/sys/fs/cgroup")
_SLICE = "bocage.slice"
_OURS = "vm"
_BOUND = 20.0  # seconds for systemd to make a scope
_PAUSE = 0.005
_MANAGER = "org.freedesktop.systemd1"
_EXISTS = "org.freedesktop.systemd1.UnitExists"
_STOP_BOUND = 30_000_000  # microseconds that a QEMU has to write what it holds when its guest did not go down in time


class Refused(cgroup.Error, errors.Unavailable):
    """systemd made no scope."""

    type = "scope-refused"
    text = N_("systemd made no scope {unit}: {reason}")
    hint = N_("'systemctl status {unit}' and 'journalctl -b' may say more")
    unit: str
    reason: str


@dataclass(frozen=True, slots=True)
class Scopes(cgroup.Place):
    """The place where systemd makes them."""

    def group(self, home: str, name: str) -> cgroup.Directories:
        """The scope of one VM; its own group where it was started before systemd was asked for one."""
        own = cgroup.Place.group(self, home, name)
        if own.exists():
            return own
        unit = _unit(home, name)
        return Scope(unit, _TOP / _SLICE / unit / _OURS, {})

    def names(self, home: str) -> set[str]:
        prefix, suffix = _unit(home, "\0").split("\0")
        found = cgroup.subdirectories(_TOP / _SLICE)
        scopes = {one[len(prefix) : -len(suffix)] for one in found if one.startswith(prefix) and one.endswith(suffix)}
        return scopes | cgroup.Place.names(self, home)


@dataclass(frozen=True, slots=True)
class Scope(cgroup.Directories):
    """A group within a scope; both are there as long as a process is in them."""

    async def enter(self, pid: int) -> None:
        """Raises Refused, OSError."""
        assert self.unified
        if not self.exists():
            await _start(self.name, pid)
            await asyncio.to_thread(self.unified.mkdir, exist_ok=True)
        for path in self.members:
            cgroup.put(path, str(pid))
        for controller in cgroup.CONTROLLERS:  # from now on the scope itself holds no process, and may pass them down
            with contextlib.suppress(OSError):
                cgroup.put(self.unified.parent / "cgroup.subtree_control", f"+{controller}")

    async def weigh(self, weight: int) -> None:
        """The scope's, which has the other VMs beside it; it is systemd that writes that file."""
        from dbus_fast import Variant

        await _set(self.name, [["CPUWeight", Variant("t", weight)]])

    def oom_kills(self) -> int:
        """As its files say, and systemd's journal when they went with its last process."""
        return cgroup.Directories.oom_kills(self) if self.exists() else systemd.oom_kills(self.name)

    async def remove(self, *, within: float = 2.0) -> None:
        """Wait for systemd, which removes it behind its last process."""
        assert self.unified
        deadline = time.monotonic() + within
        while self.unified.parent.exists():
            if time.monotonic() > deadline:
                raise cgroup.Busy(name=self.name, pids=self.procs())
            await asyncio.sleep(_PAUSE)


def place() -> Scopes | None:
    """Where systemd is PID 1 and its cgroups are of version 2; None elsewhere, and for ordinary users."""
    usable = os.geteuid() == 0 and systemd.in_charge() and systemd.BUS.exists()
    return Scopes(_TOP, {}) if usable and (_TOP / "cgroup.controllers").exists() else None


def _unit(home: str, name: str) -> str:
    return f"bocage-{home}-{name}.scope"


async def _start(unit: str, pid: int) -> None:
    """Have a scope with a process in it. Raises Refused."""
    from dbus_fast import DBusError, Variant
    from dbus_fast.aio import MessageBus

    properties = [
        ["Description", Variant("s", "A virtual machine of Bocage")],
        ["Slice", Variant("s", _SLICE)],
        ["PIDs", Variant("au", [pid])],
        ["Delegate", Variant("b", True)],
        ["CollectMode", Variant("s", "inactive-or-failed")],
        ["TimeoutStopUSec", Variant("t", _STOP_BOUND)],
        # At the machine's shutdown the reverse holds: the VMs are stopped in their order, then what is left of them
        # ends, and only then go network and storage.
        ["Before", Variant("as", [systemd.VMS])],
        ["After", Variant("as", list(systemd.STANDS_ON))],
    ]
    try:
        async with asyncio.timeout(_BOUND):
            bus = await MessageBus(bus_address=f"unix:path={systemd.BUS}").connect()
            try:
                await _ask(bus, unit, properties)
            finally:
                bus.disconnect()
            await _until_within(unit, pid)
    except TimeoutError as error:
        raise Refused(unit=unit, reason=f"no answer within {_BOUND:g} s") from error
    except (OSError, EOFError, DBusError) as error:
        raise Refused(unit=unit, reason=str(error)) from error


async def _set(unit: str, properties: list[list[Any]]) -> None:
    """SetUnitProperties, for as long as the unit is there. Raises cgroup.Lacks."""
    from dbus_fast import DBusError, Message, MessageType
    from dbus_fast.aio import MessageBus

    said = f"no answer within {_BOUND:g} s"
    try:
        async with asyncio.timeout(_BOUND):
            bus = await MessageBus(bus_address=f"unix:path={systemd.BUS}").connect()
            try:
                answer = await bus.call(
                    Message(
                        destination=_MANAGER,
                        path="/org/freedesktop/systemd1",
                        interface=f"{_MANAGER}.Manager",
                        member="SetUnitProperties",
                        signature="sba(sv)",
                        body=[unit, True, properties],
                    )
                )
            finally:
                bus.disconnect()
        if answer is None or answer.message_type is not MessageType.ERROR:
            return
        said = str(answer.body[0]) if answer.body else str(answer.error_name)
    except TimeoutError:
        pass
    except (OSError, EOFError, DBusError) as error:
        said = str(error)
    raise cgroup.Lacks(name=unit, what=", ".join(str(name) for name, _ in properties), said=said)


async def _until_within(unit: str, pid: int) -> None:
    """The answer is only that the scope will be started."""
    groups = pathlib.Path(f"/proc/{pid}/cgroup")
    while True:
        if unit in await asyncio.to_thread(groups.read_text):
            return
        await asyncio.sleep(_PAUSE)


async def _ask(bus: MessageBus, unit: str, properties: list[list[Any]]) -> None:
    """StartTransientUnit (org.freedesktop.systemd1(5)); a scope of that name that is on its way out is waited for."""
    from dbus_fast import Message, MessageType

    while True:
        answer = await bus.call(
            Message(
                destination=_MANAGER,
                path="/org/freedesktop/systemd1",
                interface=f"{_MANAGER}.Manager",
                member="StartTransientUnit",
                signature="ssa(sv)a(sa(sv))",
                body=[unit, "fail", properties, []],
            )
        )
        if answer is None or answer.message_type is not MessageType.ERROR:
            return
        if answer.error_name != _EXISTS:
            raise Refused(unit=unit, reason=str(answer.body[0]) if answer.body else str(answer.error_name))
        await asyncio.sleep(_PAUSE)
