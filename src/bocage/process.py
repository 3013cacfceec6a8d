"""The one way to run another program to its end: bounded, cancellable, its failure told once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence

from bocage import errors, under_way
from bocage.words import N_

_TAIL = 4000  # bytes of a failed program's output that its error carries


class Error(errors.Problem):
    """Another program did not do what it was run for."""


class Failed(Error):
    """It ended with a status other than 0. `command` can be pasted into a shell."""

    type = "command-failed"
    text = N_("'{program}' failed ({status_words}): {output}")
    program: str
    status_words: str
    output: str
    command: str


class Missing(Error):
    """It is not installed."""

    type = "command-missing"
    status = 503
    text = N_("the program '{program}' is not installed")
    hint = N_("'bocage doctor' says which package has it")
    program: str


def shell_form(command: Sequence[str | os.PathLike[str]]) -> str:
    """The command as a line that can be pasted into a shell."""
    return shlex.join(os.fspath(part) for part in command)


def in_words(returncode: int) -> str:
    """How a process ended, for people: `exit code 3`, `signal SIGKILL`."""
    if returncode < 0:
        with contextlib.suppress(ValueError):
            return f"signal {signal.Signals(-returncode).name}"
    return f"exit code {returncode}"


async def run(
    *command: str | os.PathLike[str],
    within: float,
    stdin: bytes | None = None,
    environment: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    each_line: Callable[[str], None] | None = None,
    pass_fds: Sequence[int] = (),
    begun: Callable[[int], Awaitable[None]] | None = None,
) -> bytes:
    """Run a program to its end and return what it wrote on its standard output.

    `within` bounds the run in seconds. `each_line` is called with each piece of standard output that
    ends in a line feed or a carriage return, for progress. `begun` is told its pid
    before anything is written to its standard input. At the bound, or when the caller is cancelled or `begun`
    raises, the program's whole process group is killed and waited for.

    Raises Missing, Failed, and errors.TimedOut.
    """
    line = shell_form(command)
    program = os.path.basename(os.fspath(command[0]))
    try:
        child = await asyncio.create_subprocess_exec(
            *[os.fspath(part) for part in command],
            stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=None if environment is None else dict(environment),
            cwd=cwd,
            pass_fds=pass_fds,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise Missing(program=program) from error
    under_way.note(lambda: child.returncode is None)
    assert child.stdout
    assert child.stderr
    output = asyncio.create_task(_collect(child.stdout, each_line))
    complaints = asyncio.create_task(_collect(child.stderr, None))
    try:
        async with asyncio.timeout(within):
            if begun is not None:
                await begun(child.pid)
            if stdin is not None and child.stdin:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    child.stdin.write(stdin)
                    await child.stdin.drain()
                child.stdin.close()
            out, err = await output, await complaints
            returncode = await child.wait()
    except TimeoutError as error:
        raise errors.TimedOut(what=program, bound=within) from error
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            await child.wait()
        for reader in (output, complaints):
            reader.cancel()
    if returncode != 0:
        said = (err or out)[-_TAIL:].decode(errors="replace").strip()
        raise Failed(program=program, status_words=in_words(returncode), output=said, command=line)
    return out


async def _collect(stream: asyncio.StreamReader, each_line: Callable[[str], None] | None) -> bytes:
    pieces, pending = [], b""
    while piece := await stream.read(65536):
        pieces.append(piece)
        if each_line:
            *lines, pending = (pending + piece).replace(b"\r", b"\n").split(b"\n")
            for one in lines:
                each_line(one.decode(errors="replace"))
    return b"".join(pieces)
