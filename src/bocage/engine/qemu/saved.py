"""A whole machine in one file: written beside its final name, synced, and only then given it; read back at a start."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import time
from collections.abc import Awaitable, Callable

from bocage import errors, files
from bocage.engine import base
from bocage.engine.qemu import link, qmp
from bocage.words import N_

_NAME = "saved"  # of the descriptor
_PAUSE = 0.05  # seconds between two looks
_UNBOUNDED = 1 << 40  # bytes a second: QEMU's own limit is a tenth of a disk's speed
_UNDER_WAY = ("active", "setup", "cancelling", "device", "pre-switchover")
_STILL = 120.0  # seconds without a byte after which a save is given up

_ROUNDS = 2  # times its memory that a running guest is written at most before it is held

Report = Callable[[int, int], None]
Instant = Callable[[], Awaitable[None]]


class Error(base.Error):
    """A machine's state could not be written or read."""


class SaveFailed(Error, errors.Unavailable):
    """It goes on as it was; nothing is left of the file."""

    type = "vm-save-failed"
    text = N_("the VM's state could not be saved: {reason}")
    reason: str


async def write(at: link.Link, to: pathlib.Path, *, report: Report) -> None:
    """Stop the vCPUs and write the machine to `to`. On failure it does again what it did before. Raises SaveFailed."""
    beside = to.with_name(f"{to.name}.part")
    await _forget_earlier(at)
    running = await at.look() is base.Run.RUNNING
    async with contextlib.AsyncExitStack() as undo:
        if running:
            await at.execute("stop")
            undo.push_async_callback(_suppressed, at, "cont")
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        undo.callback(beside.unlink, missing_ok=True)
        try:
            undo.push_async_callback(_cancel, at)
            await _begin(at, descriptor)
            await _until(at, "completed", descriptor, report)
            await asyncio.to_thread(_finish, descriptor, beside, to)
        except OSError as error:
            raise SaveFailed(reason=error.strerror or str(error)) from error
        except qmp.CommandFailed as error:
            raise SaveFailed(reason=error.description) from error
        finally:
            os.close(descriptor)
        undo.pop_all()


async def write_running(at: link.Link, to: pathlib.Path, *, instant: Instant, report: Report) -> None:
    """Write a machine to `to` while it runs. On failure it runs on, and nothing is left of the file.

    At the end its vCPUs stand for a moment: `instant` is done then, at the very state that is written; it runs on
    afterwards. Raises SaveFailed, and what `instant` raises.
    """
    beside = to.with_name(f"{to.name}.part")
    await _forget_earlier(at)
    async with contextlib.AsyncExitStack() as undo:
        undo.push_async_callback(_suppressed, at, "cont")
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            undo.push_async_callback(_cancel, at)
            await _begin(at, descriptor, stands=True)
            await _until(at, "pre-switchover", descriptor, report, stop=True)
            await instant()
            await at.execute("migrate-continue", {"state": "pre-switchover"})
            await _until(at, "completed", descriptor, report)
            await at.execute("cont")
            await asyncio.to_thread(_finish, descriptor, beside, to)
        except OSError as error:
            raise SaveFailed(reason=error.strerror or str(error)) from error
        except qmp.CommandFailed as error:
            raise SaveFailed(reason=error.description) from error
        finally:
            os.close(descriptor)
            beside.unlink(missing_ok=True)
        undo.pop_all()


async def break_off(at: link.Link) -> None:
    """End a save that was begun by somebody who is gone: its vCPUs may stand in the midst of it."""
    if (await at.execute("query-migrate")).get("status") in _UNDER_WAY:
        await _cancel(at)


async def _forget_earlier(at: link.Link) -> None:
    """Undo what a save left whose daemon died: QEMU writes no machine twice unless its vCPUs ran in between."""
    await break_off(at)
    if await at.status() == "postmigrate":
        await at.execute("cont")


async def load(at: link.Link, path: pathlib.Path, *, within: float) -> None:
    """Read a machine into a QEMU that was started with `-incoming defer`. A QEMU that cannot ends itself.

    Raises OSError, base.NotRunning, qmp.CommandFailed, errors.TimedOut.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        await at.name_descriptor(descriptor, _NAME)
    finally:
        os.close(descriptor)
    deadline = time.monotonic() + within
    await at.execute("migrate-incoming", {"uri": f"fd:{_NAME}"})
    while (await at.execute("query-migrate")).get("status") != "completed":
        if time.monotonic() > deadline:
            raise errors.TimedOut(what=str(path), bound=within)
        await asyncio.sleep(_PAUSE / 10)


async def _begin(at: link.Link, descriptor: int, *, stands: bool = False) -> None:
    """With `stands` it waits, before its last part, to be told to go on. A daemon that died may have left that so."""
    capability = {"capability": "pause-before-switchover", "state": stands}
    await at.execute("migrate-set-capabilities", {"capabilities": [capability]})
    await at.execute("migrate-set-parameters", {"max-bandwidth": _UNBOUNDED})
    await at.name_descriptor(descriptor, _NAME)
    await at.execute("migrate", {"uri": f"fd:{_NAME}"})


async def _until(at: link.Link, status: str, descriptor: int, report: Report, *, stop: bool = False) -> None:
    """Wait for a state of the save. With `stop` a guest that writes faster than its memory is written is held."""
    grew, last, held = time.monotonic(), -1, not stop
    while True:
        answer = await at.execute("query-migrate")
        ram = answer.get("ram", {})
        done, left = int(ram.get("transferred", 0)), int(ram.get("remaining", 0))
        report(done, done + left)
        match answer.get("status"):
            case reached if reached == status:
                return
            case "failed" | "cancelled":
                raise SaveFailed(reason=str(answer.get("error-desc") or _why(descriptor)))
        if not held and done > _ROUNDS * int(ram.get("total", 0)) > 0:
            await at.execute("stop")
            held = True
        if done != last:
            grew, last = time.monotonic(), done
        elif time.monotonic() - grew > _STILL:
            raise errors.TimedOut(what=N_("the save"), bound=_STILL)
        await asyncio.sleep(_PAUSE if status == "completed" and not stop else _PAUSE / 5)


def _why(descriptor: int) -> str:
    free = os.fstatvfs(descriptor)
    return os.strerror(28) if free.f_bavail * free.f_frsize < 1 << 20 else "migration failed"


def _finish(descriptor: int, beside: pathlib.Path, to: pathlib.Path) -> None:
    os.fsync(descriptor)
    files.rename_durably(beside, to)


async def _cancel(at: link.Link) -> None:
    """Stop a save that is on its way, and wait until QEMU has let go of the file."""
    with contextlib.suppress(errors.Problem):
        await at.execute("migrate_cancel")
        deadline = time.monotonic() + link.BOUND
        while time.monotonic() < deadline:
            if (await at.execute("query-migrate")).get("status") not in _UNDER_WAY:
                return
            await asyncio.sleep(_PAUSE)


async def _suppressed(at: link.Link, command: str) -> None:
    with contextlib.suppress(errors.Problem):
        await at.execute(command)
