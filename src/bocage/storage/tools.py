"""QEMU's image tool, run so that it never outlives us: nobody would look after what it writes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence

from bocage import process, sockets, under_way

_PROGRAM = "qemu-img"
# Bound to the thread that started it, which is the event loop's. This is for copies, never for a VM.
_MORTAL = ("setpriv", "--pdeathsig", "KILL")
_GATE = ("sh", "-c", 'read -r go && exec "$@" </dev/null', "gate")  # which ends when we do


async def qemu_img(
    *arguments: str,
    within: float,
    each_line: Callable[[str], None] | None = None,
    pass_fds: Sequence[int] = (),
) -> bytes:
    """Run `qemu-img` to its end as `process.run` does; it is killed when the daemon is.

    In storage that other hosts may write to it stands before its first instruction until it may run.
    Raises process.Missing, process.Failed, errors.TimedOut, and why it may not.
    """
    if shutil.which(_PROGRAM) is None:
        raise process.Missing(program=_PROGRAM)
    doing = under_way.here()
    try:
        return await process.run(
            *(_GATE if doing else ()),
            *_MORTAL,
            _PROGRAM,
            *arguments,
            within=within,
            stdin=b"go\n" if doing else None,
            each_line=each_line,
            environment=os.environ | sockets.INITIATOR,
            pass_fds=pass_fds,
            begun=doing.admit if doing else None,
        )
    except process.Failed as error:
        line = process.shell_form((_PROGRAM, *arguments))
        raise process.Failed(
            program=_PROGRAM, status_words=error.status_words, output=error.output, command=line
        ) from error
