"""A VM's TPM 2.0: a swtpm beside QEMU, in the VM's group and as its uid, its state in one file of the VM's directory.

It listens before QEMU is started, serves that one connection, and ends with it. QEMU 7.2 cannot go on with
another: a VM whose swtpm died has no TPM until it is started again.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Awaitable, Callable

from bocage.engine.qemu import carriers, cgroup, ending, isolation, launch, paths, processes

PROGRAM = "swtpm"


async def start(
    at: paths.Paths,
    *,
    owner: isolation.Owner | None,
    mounts: bool,
    group: cgroup.Group | None,
    before: Callable[[launch.Process], Awaitable[None]] | None = None,
) -> processes.Identity:
    """Start it, listening; its state is made if there is none. `before` is awaited when it has not run yet.

    Raises launch.Failed with its own words, errors.TimedOut and OSError; then none is left.
    """
    with contextlib.ExitStack() as handed:
        listening = carriers.listening(at.tpm, owner)
        handed.callback(os.close, listening)
        order = launch.Order(
            argv=[*command(at, f"fd={listening}"), "--pid", f"file={at.io / 'tpm.pid'}"],
            log=at.tpm_log,
            status=at.tpm_status,
            cwd=at.directory,
            view=isolation.View(read_write=[at.io, at.tpm_state]),
            owner=owner,
            mounts=mounts,
            group=group,
            descriptors=(listening,),
        )
        started = await launch.start(order, before=before)
        handed.callback(os.close, started.pidfd)
        return started.identity


def command(at: paths.Paths, control: str) -> list[str]:
    """The line that starts it in the VM's directory; `control` says where QEMU finds it."""
    state = f"backend-uri=file://{at.tpm_state.name}"
    return [PROGRAM, "socket", "--tpm2", "--tpmstate", state, "--ctrl", f"type=unixio,{control}", "--terminate"]


def make_state(path: pathlib.Path) -> None:
    """An empty state, which swtpm fills, unless there is one. Raises OSError."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))


async def how_ended(at: paths.Paths) -> ending.Ended:
    """How it ended; to be asked when it has."""
    return await ending.ended_how(at.tpm_status, program=PROGRAM)
