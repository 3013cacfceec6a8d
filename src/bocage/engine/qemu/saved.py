"""A whole machine in one file: written beside its final name, synced, and only then given it; read back at a start."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import time
from collections.abc import Awaitable, Callable, Iterator

from bocage import errors, files, reach, threads
from bocage.engine import base
from bocage.engine.qemu import link, passing, qmp
from bocage.words import N_

_NAME = "saved"  # of the descriptor
_ANEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
_PAUSE = 0.05  # seconds between two looks
_UNBOUNDED = 1 << 40  # bytes a second: QEMU's own limit is a tenth of a disk's speed
_UNDER_WAY = ("active", "setup", "cancelling", "device", "pre-switchover")
_STILL = 120.0  # seconds without a byte after which a save is given up

_BESIDE_MEMORY = 64 << 20  # bytes: video memory, firmware, devices
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


class WentDown(Error, errors.Unavailable):
    """Its QEMU may not end by itself."""

    type = "vm-save-went-down"
    text = N_("the VM went off while its memory was being written")


async def write(at: link.Link, to: pathlib.Path, *, report: Report) -> None:
    """Stop the vCPUs and write the machine to `to`. On failure it does again what it did before. Raises SaveFailed.

    Once the file is about to get its name the vCPUs stand, whatever is raised, a cancellation too: the name may come
    to be there later, or not to go durably. Who lets them go on calls `unlink` first, and syncs the directory.
    """
    beside = _beside(to)
    await reach.way_to(to).free()  # who was given up there could give the next file its name before it is whole
    if await _is_written(at):
        await reach.way_to(to).call(_forget, to)
        await at.execute("cont")
    running = await at.look() is base.Run.RUNNING
    async with contextlib.AsyncExitStack() as undo:
        if running:
            await at.execute("stop")
            undo.push_async_callback(_suppressed, at, "cont")
        undo.push_async_callback(_remove, beside)
        with _told():
            async with reach.opened(beside, _ANEW) as descriptor:
                undo.push_async_callback(_cancel, at)
                await _begin(at, descriptor)
                await _until(at, "completed", descriptor, report)
                await _finish(descriptor, beside)
            undo.pop_all()
            await _give_name(beside, to)


def unlink(path: pathlib.Path) -> bool:
    """Remove a machine that was written, not durably yet; False: none was there.

    First goes what a save that was given up could still give its name to: after that it cannot, or has done so.
    """
    _beside(path).unlink(missing_ok=True)
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True


def _forget(path: pathlib.Path) -> None:
    unlink(path)
    files.sync_directory(path.parent)


def _beside(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f"{path.name}.part")


async def write_running(at: link.Link, to: pathlib.Path, *, instant: Instant, report: Report) -> bool:
    """Write a machine to `to` while it runs. On failure it runs on, and nothing is left of the file.

    Its vCPUs stand for a moment: `instant` is done then, at the very state that is written; it runs on afterwards.
    Where QEMU may hold back the guest's writes (userfaultfd), that is at the beginning, and the memory is written
    behind it: then it gives True. Else it is at the end. Raises SaveFailed, and what `instant` raises.
    """
    beside = _beside(to)
    if await _is_written(at):
        await at.execute("cont")
    async with contextlib.AsyncExitStack() as undo:
        undo.push_async_callback(_suppressed, at, "cont")
        undo.push_async_callback(_remove, beside)
        with _told():
            async with reach.opened(beside, _ANEW) as descriptor:
                behind = await _may_be_behind(at) and await _has_room(at, beside, descriptor)
                if behind:
                    await _write_behind(at, descriptor, instant, report)
                else:
                    undo.push_async_callback(_cancel, at)
                    await _write_ahead(at, descriptor, instant, report)
                await _finish(descriptor, beside)
            await _give_name(beside, to)
        undo.pop_all()
    return behind


async def _write_ahead(at: link.Link, descriptor: int, instant: Instant, report: Report) -> None:
    await _begin(at, descriptor, stands=True)
    await _until(at, "pre-switchover", descriptor, report, stop=True)
    await instant()
    await at.execute("migrate-continue", {"state": "pre-switchover"})
    await _until(at, "completed", descriptor, report)
    await at.execute("cont")


async def _write_behind(at: link.Link, descriptor: int, instant: Instant, report: Report) -> None:
    """QEMU 7.2 unprotects the memory only when all of it is written: it is neither cancelled nor given up."""
    await at.execute("stop")
    await instant()
    await _begin(at, descriptor, behind=True)  # QEMU lets the vCPUs go on by itself
    while True:
        try:
            await _until(at, "completed", descriptor, report)
        except errors.TimedOut as error:  # QEMU itself may wait for a page that the guest's device writes
            if at.shutdown:
                raise WentDown from error
        else:
            return


async def _may_be_behind(at: link.Link) -> bool:
    """Whether QEMU takes it: the kernel lets it, and this machine's memory is of a kind that can be held back."""
    try:
        await _choose(at, behind=True)
    except qmp.CommandFailed:
        return False
    return True


async def _has_room(at: link.Link, path: pathlib.Path, descriptor: int) -> bool:
    """Take the room for all that could be written: a write that failed would leave the guest waiting for good."""
    memory = await at.execute("query-memory-size-summary")
    most = int(memory["base-memory"]) + int(memory.get("plugged-memory", 0))
    own, size = os.dup(descriptor), most + most // 100 + _BESIDE_MEMORY

    def take(_: threads.Job) -> bool:
        """By a descriptor of its own: nobody who gives up waiting closes it, and has another's number taken for it."""
        try:
            os.posix_fallocate(own, 0, size)
        except OSError:
            os.ftruncate(own, 0)
            return False
        finally:
            os.close(own)
        return True

    return await reach.way_to(path).job(take, None)


async def break_off(at: link.Link) -> None:
    """End a save that was begun by somebody who is gone: its vCPUs may stand in the midst of it.

    One that is written behind its guest is waited for: see `_write_behind`.
    """
    if (await at.execute("query-migrate")).get("status") not in _UNDER_WAY:
        return
    chosen = await at.execute("query-migrate-capabilities")
    if not any(one["state"] for one in chosen if one["capability"] == "background-snapshot"):
        await _cancel(at)
        return
    status: object = "active"
    while status in _UNDER_WAY:
        with contextlib.suppress(errors.TimedOut):
            status = (await at.execute("query-migrate")).get("status")
        await asyncio.sleep(_PAUSE)


async def _is_written(at: link.Link) -> bool:
    """Whether it stands since a save whose daemon died: QEMU writes none twice unless its vCPUs ran in between."""
    await break_off(at)
    return await at.status() == "postmigrate"


async def load(at: link.Link, path: pathlib.Path, *, within: float) -> None:
    """Read a machine into a QEMU that was started with `-incoming defer`. A QEMU that cannot ends itself.

    Raises OSError, reach.Hangs, base.NotRunning, qmp.CommandFailed, errors.TimedOut.
    """
    async with reach.opened(path, os.O_RDONLY) as descriptor:
        await at.name_descriptor(descriptor, _NAME)
    deadline = time.monotonic() + within
    await at.execute("migrate-incoming", {"uri": f"fd:{_NAME}"})
    while (await at.execute("query-migrate")).get("status") != "completed":
        if time.monotonic() > deadline:
            raise errors.TimedOut(what=str(path), bound=within)
        await asyncio.sleep(_PAUSE / 10)


async def _begin(at: link.Link, descriptor: int, *, stands: bool = False, behind: bool = False) -> None:
    await _choose(at, stands=stands, behind=behind)
    await at.execute("migrate-set-parameters", {"max-bandwidth": _UNBOUNDED})
    await at.name_descriptor(descriptor, _NAME)
    await at.execute("migrate", {"uri": f"fd:{_NAME}"})


async def _choose(at: link.Link, *, stands: bool = False, behind: bool = False) -> None:
    """Whether the next save waits, before its last part, to be told to go on, or is written behind the guest.

    All is said each time: a daemon that died may have left another answer.
    """
    await passing.settle(at)
    wanted = {"pause-before-switchover": stands, "background-snapshot": behind}
    chosen = [{"capability": name, "state": state} for name, state in wanted.items()]
    await at.execute("migrate-set-capabilities", {"capabilities": chosen})


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
                raise SaveFailed(reason=str(answer.get("error-desc") or await _why(descriptor)))
        if not held and done > _ROUNDS * int(ram.get("total", 0)) > 0:
            await at.execute("stop")
            held = True
        if done != last:
            grew, last = time.monotonic(), done
        elif time.monotonic() - grew > _STILL:
            raise errors.TimedOut(what=N_("the save"), bound=_STILL)
        await asyncio.sleep(_PAUSE if status == "completed" and not stop else _PAUSE / 5)


async def _why(descriptor: int) -> str:
    way = reach.way_to(pathlib.Path(os.readlink(f"/proc/self/fd/{descriptor}")))
    free = await way.call(os.fstatvfs, descriptor)
    return os.strerror(28) if free.f_bavail * free.f_frsize < 1 << 20 else "migration failed"


async def _finish(descriptor: int, beside: pathlib.Path) -> None:
    own = os.dup(descriptor)

    def finish(_: threads.Job) -> None:
        try:
            os.ftruncate(own, os.lseek(own, 0, os.SEEK_CUR))  # QEMU's descriptor stands where ours does
            os.fsync(own)
        finally:
            os.close(own)

    await reach.way_to(beside).job(finish, None)


async def _give_name(beside: pathlib.Path, to: pathlib.Path) -> None:
    """Nobody is told that this was broken off before it is known what became of it, or that the storage hangs."""
    await threads.to_its_end(asyncio.ensure_future(reach.way_to(to).call(files.rename_durably, beside, to)))


async def _remove(path: pathlib.Path) -> None:
    """What counts for nothing: who comes next writes it anew."""
    with contextlib.suppress(reach.Hangs, OSError):
        await reach.way_to(path).call(path.unlink, missing_ok=True)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SaveFailed(reason=error.strerror or str(error)) from error
    except qmp.CommandFailed as error:
        raise SaveFailed(reason=error.description) from error


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
