"""One VM's QEMU: what the node does with it, and how its end is seen."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import pathlib
import secrets
import signal
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bocage import errors, words
from bocage.engine import base, uses
from bocage.engine import inside as insides
from bocage.engine.qemu import (
    agent,
    booting,
    boundedlog,
    carrying,
    cgroup,
    comports,
    confinement,
    doubling,
    driven,
    growing,
    holding,
    hotplug,
    inside,
    layering,
    link,
    nics,
    passing,
    paths,
    plugs,
    processes,
    qmp,
    remains,
    saved,
    using,
)
from bocage.engine.qemu import balloon as ballooning
from bocage.engine.qemu import record as records
from bocage.model import confinement as held
from bocage.model import vm as model
from bocage.words import N_

_QUIT_BOUND = 30.0  # seconds to write what it holds
_KILL_BOUND = 10.0
_CLOCK_BOUND = 30.0  # seconds; an agent that was just woken may have much to do first
_SHUTDOWN_BOUND = 10.0  # seconds for the agent to take that on; the power button comes afterwards
_FREEZE_BOUND = 10.0  # seconds that a guest gets to write out what it holds, and to be heard again afterwards
_FIRST_LOOK = 1.0
_TPM_FOLLOWS = 1.0  # seconds within which QEMU's end explains that of its swtpm
_TRIM_EVERY = 30.0
_LOG_KEPT = 4 << 20  # bytes of each log
_SCREEN_LIMIT = 64 << 20  # bytes of a picture
_HAPPENINGS = {
    "RESET": "reset",
    "BALLOON_CHANGE": "balloon",
    "DEVICE_DELETED": "device-removed",
    "WATCHDOG": "watchdog",
    "QUORUM_REPORT_BAD": "write-failed",
    "MEMORY_DEVICE_SIZE_CHANGE": "memory-added",
}


class NoSuchKey(base.Error, errors.Invalid):
    """It is not a key's name."""

    type = "no-such-key"
    text = N_("there is no key of such a name in '{keys}'")
    hint = N_("keys have QEMU's names, such as ctrl, alt, delete, f1, ret, a, 1")
    keys: str


class QemuMachine:
    """One running QEMU, ours or found again. It holds `pidfd` and closes it."""

    def __init__(
        self, record: records.Record, pidfd: int, *, runtime: pathlib.Path, place: cgroup.Place | None,
        listener: base.Listener,
    ) -> None:  # fmt: skip
        self._record = record
        self._paths = paths.Paths(record.directory, runtime)
        self._pidfd = pidfd
        self._group = group_of(place, record.cgroup)
        self._listener = listener
        self._gone = asyncio.ensure_future(processes.wait_exit(pidfd))
        self.link = link.Link(
            self._paths.qmp, name=record.name, ended=self._gone, heard=self._heard, changed=self._changed
        )
        self.balloon = ballooning.Balloon(self.link)
        self.growing: uses.Growing = growing.Growing(record.name, self.link)
        self.disks = hotplug.Disks(self.link)
        self.layers = layering.Layers(self.link)
        self.carrying = carrying.Carrying(self.link)
        self.meter: uses.Meter = using.Meter(record.name, record.identity, self.link, self.balloon)
        self._agent = agent.Agent(self._paths.agent)
        self.inside: insides.Inside = inside.Inside(self._agent, self._agent_listens)
        self._tasks: list[asyncio.Task[None]] = []
        self._noted: asyncio.Task[None] | None = None
        self._noting = asyncio.Lock()
        self.nics = nics.Nics(
            self.link,
            self._paths,
            self._group,
            enclosed="network-namespace" in record.isolation.parts,
            helpers=lambda: self._record.helpers,
            note=lambda helpers: self._note(helpers=helpers),
        )
        self.holding: uses.Holding = holding.Holding(
            self.link, record.identity.pid, self._group, note=lambda most: self._note(memory_bound=most)
        )
        self.plugs: plugs.Plugs = plugs.Plugs(self.link)
        self.passing = passing.Passing(self.link, self._paths)
        self.copies = doubling.Doubling(self.link, self._paths)
        self._ports = comports.Keeping(
            self._paths,
            self._group,
            mounts="mount-namespace" in record.isolation.parts,
            served=lambda: self._record.ports,
            note=lambda served: self._note(ports=served),
            gone=self._gone,
            tell=listener,
        )
        self._tpm_lost = False
        self._end: asyncio.Task[base.Ended] = asyncio.create_task(self._watch())

    @property
    def pid(self) -> int:
        return self._record.identity.pid

    async def show(self, admit: base.Admit) -> None:
        for identity in (self._record.identity, *([self._record.tpm] if self._record.tpm else [])):
            await admit(identity.pid, identity.start_time, **(self._group.freezers() if self._group else {}))

    @property
    def run(self) -> base.Run:
        return self.link.run

    @property
    def reachable(self) -> bool:
        return self.run is not base.Run.UNKNOWN or self._paths.qmp.exists()

    @property
    def version(self) -> str:
        return self.link.version or self._record.version

    @property
    def accelerator(self) -> str:
        return self._record.accelerator

    @property
    def isolation(self) -> model.Isolation:
        return self._record.isolation

    def confinement(self) -> held.Confinement:
        return confinement.of(self._record.name, self._record.identity)

    @property
    def started_generation(self) -> int:
        return self._record.generation

    @property
    def tpm_lost(self) -> bool:
        return self._tpm_lost

    @property
    def gone(self) -> asyncio.Future[None]:
        """Done when the process has ended, before anything is known about how."""
        return self._gone

    async def reattach(self) -> None:
        """Connect to a process that was found; when it does not answer at once, in the background."""
        with contextlib.suppress(errors.TimedOut, qmp.Error):
            await self.link.open(within=_FIRST_LOOK)
            await self.link.look()
        self.keep()

    def keep(self) -> None:
        """Begin what goes on for as long as it is held."""
        self.link.keep()
        self._noted = asyncio.create_task(self._note_version())
        self._tasks.append(asyncio.create_task(self._trim()))
        self._tasks += [asyncio.create_task(self._ports.keep(name)) for name in self._record.ports]
        if self._record.tpm:
            self._tasks.append(asyncio.create_task(self._watch_tpm(self._record.tpm)))

    async def ended(self) -> base.Ended:
        return await asyncio.shield(self._end)

    async def look(self) -> base.Run:
        return await self.link.look()

    async def press_power_button(self) -> None:
        await self.link.execute("system_powerdown")

    async def ask_agent_to_shut_down(self, *, reboot: bool = False) -> bool:
        mode = {"mode": "reboot" if reboot else "powerdown"}
        try:
            if not await self._agent_listens():
                return False
            await self._agent.ask("guest-shutdown", mode, answers=False, within=_SHUTDOWN_BOUND)
        except agent.Error:
            return False
        return True

    async def quit(self) -> None:
        with contextlib.suppress(qmp.Disconnected, base.NotRunning):
            await self.link.execute("quit")
        await self._wait_gone(_QUIT_BOUND)

    async def kill(self) -> None:
        if self._pidfd < 0:
            return  # it has ended, and all that belonged to it
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        if self._group:
            await asyncio.to_thread(self._group.kill)
        await self._wait_gone(_KILL_BOUND)

    async def reset(self) -> None:
        await self.link.execute("system_reset")

    async def pause(self) -> None:
        await self.link.execute("stop")

    async def resume(self) -> None:
        await self.copies.until_free()
        await saved.break_off(self.link)
        await self.copies.until_free()  # which may be another answer by now
        await self.link.execute("cont")

    async def save(self, to: pathlib.Path, *, report: Callable[[int, int], None]) -> None:
        async with self.plugs.none():
            await saved.write(self.link, to, report=report)

    async def remember(
        self,
        disks: Sequence[model.Disk],
        overlays: Mapping[str, pathlib.Path],
        to: pathlib.Path,
        *,
        report: Callable[[int, int], None],
    ) -> bool:
        async def instant() -> None:
            await self.layers.go_on_in(disks, overlays)

        async with self.plugs.none():
            try:
                return await saved.write_running(self.link, to, instant=instant, report=report)
            except saved.WentDown:
                await self.kill()
                raise

    async def log_in(self, directory: pathlib.Path) -> None:
        old, new = self._paths, paths.Paths(directory, self._paths.runtime)
        if not await asyncio.to_thread(carrying.has_open, self.pid, new.serial_log):
            for log, copy in ((old.serial_log, new.serial_log), (old.qemu_log, new.qemu_log)):
                await asyncio.to_thread(carrying.append_rest, log, copy)
            await carrying.log_to(self.link, new.tty, new.serial_log)

    async def lie_in(self, directory: pathlib.Path) -> None:
        self._paths = paths.Paths(directory, self._paths.runtime)
        await self._note(directory=directory)
        await asyncio.to_thread(records.write, self._paths.kept_record, self._record)

    async def arrived(self) -> None:
        await asyncio.to_thread(records.write, self._paths.kept_record, self._record)

    async def freeze(self) -> words.Message | None:
        try:
            if not await self._agent_listens():
                return agent.Absent()
        except agent.Error as error:
            return error
        try:
            await self._agent.ask("guest-fsfreeze-freeze", within=_FREEZE_BOUND)
        except agent.Error as error:
            await self.thaw()  # it may do late what it did not answer to
            return error
        return None

    async def thaw(self) -> None:
        with contextlib.suppress(agent.Error):
            await self._agent.ask("guest-fsfreeze-thaw", within=_FREEZE_BOUND)

    async def set_clock(self) -> words.Message | None:
        try:
            if not await self._agent_listens():
                return agent.Absent()
            await self._agent.ask("guest-set-time", {"time": time.time_ns()}, within=_CLOCK_BOUND)
        except agent.Error as error:
            return error
        return None

    async def drives_virtio(self, disk: str) -> bool | None:
        return await driven.by_guest(self.link, disk)

    async def order_boot(self, spec: model.VMSpec) -> None:
        await booting.order(self.link, spec)

    async def screenshot(self, to: pathlib.Path) -> None:
        # Not a passed descriptor: QEMU 7.2 keeps an entry for each that it was ever given for a screen.
        beside = self._paths.io / f"screen-{secrets.token_hex(4)}"
        try:
            await self.link.execute("screendump", {"filename": str(beside), "format": "png"})
            await asyncio.to_thread(_copy, beside, to)
        finally:
            beside.unlink(missing_ok=True)

    async def send_keys(self, keys: Sequence[str]) -> None:
        pressed = [{"type": "qcode", "data": key} for key in keys]
        try:
            await self.link.execute("send-key", {"keys": pressed})
        except qmp.CommandFailed as error:
            raise NoSuchKey(keys="-".join(keys)) from error

    async def guest_addresses(self) -> dict[str, tuple[str, ...]]:
        try:
            if not await self._agent_listens():
                return {}
            told = await self._agent.ask("guest-network-get-interfaces")
        except agent.Error:
            return {}
        self.meter.traffic = agent.traffic(told)
        return agent.addresses(told)

    async def detach(self) -> None:
        if self._noted:
            await asyncio.wait([self._noted])
        for task in (*self._tasks, self._end):
            task.cancel()
        await asyncio.wait([*self._tasks, self._end])
        await self.link.close()
        self._gone.cancel()
        await asyncio.wait([self._gone])
        self._close()

    async def _watch(self) -> base.Ended:
        await asyncio.wait([self._gone])
        await self.link.close()
        told = await remains.how_ended(self._record, self._paths.runtime, self._group, shutdown=self.link.shutdown)
        await remains.clear(self._record, self._paths, self._group)
        for task in self._tasks:
            task.cancel()
        self._close()
        return told

    async def _watch_tpm(self, keeps: processes.Identity) -> None:
        """Tell of a swtpm that ended before its QEMU."""
        with contextlib.suppress(processes.Gone):
            pidfd = processes.open_pidfd(keeps)
            try:
                await processes.wait_exit(pidfd)
            finally:
                os.close(pidfd)
        await asyncio.wait([self._gone], timeout=_TPM_FOLLOWS)
        if not self._gone.done():
            self._tpm_lost = True
            self._listener(base.Happened("tpm-lost"))

    async def _wait_gone(self, within: float) -> None:
        done, _ = await asyncio.wait([self._end], timeout=within)
        if not done:
            raise errors.TimedOut(what="QEMU", bound=within)

    async def _agent_listens(self) -> bool:
        """Whether the guest has opened the agent's channel: asked of QEMU, which knows without waiting."""
        for channel in await self.link.execute("query-chardev"):
            if channel["label"] == "agent":
                return bool(channel["frontend-open"])
        return False

    async def _note_version(self) -> None:
        """Keep the version in the record, so that it is known even while QEMU does not answer."""
        if self.link.version != self._record.version:
            with contextlib.suppress(OSError):
                await self._note(version=self.link.version or self._record.version)

    async def _note(self, **changes: Any) -> None:
        async with self._noting:
            self._record = dataclasses.replace(self._record, **changes)
            await asyncio.to_thread(records.write, self._paths.record, self._record)

    async def _trim(self) -> None:
        while True:
            for log in (self._paths.serial_log, self._paths.qemu_log):
                with contextlib.suppress(OSError):
                    await asyncio.to_thread(boundedlog.trim, log, _LOG_KEPT)
            await asyncio.sleep(_TRIM_EVERY)

    def _heard(self, event: qmp.Event) -> None:
        if event.name == "NETDEV_STREAM_DISCONNECTED":
            self._listener(base.Happened("nic-cut", {"nic": event.data.get("netdev-id")}))
        if event.name == "MIGRATION":
            self.passing.heard()
        if what := _HAPPENINGS.get(event.name):
            self._listener(base.Happened(what, dict(event.data)))

    def _changed(self, run: base.Run) -> None:
        self._listener(base.Happened("run-changed", {"run": run}))

    def _close(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


def _copy(source: pathlib.Path, to: pathlib.Path) -> None:
    # The process may write this directory: neither a link nor a pipe that it left there is opened.
    with open(os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            to.write_bytes(file.read(_SCREEN_LIMIT))


def group_of(place: cgroup.Place | None, name: str) -> cgroup.Directories | None:
    """The group of a plan's `bocage/HOME/UID`; None for none."""
    if not place or not name:
        return None
    _, home, own = name.split("/")
    return place.group(home, own)
