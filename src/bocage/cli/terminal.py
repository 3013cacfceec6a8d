"""The person's own terminal as a guest's: raw mode, an escape key, and all put back at the end."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import threading
import tty
from collections.abc import Iterator

from bocage import errors
from bocage.cli import output
from bocage.client import console

ESCAPE = b"\x1d"  # Ctrl-]
_AS_USUAL = b"\x1b[0m\x1b[?25h\x1b[?2004l"  # no colour, a cursor, no marks around what is pasted


def converse(attached: console.Console, *, called: str, write: bool) -> None:
    """Pass bytes between the terminal and the guest until the escape key, the end of input or of the console."""
    keys = sys.stdin.fileno()
    person = os.isatty(keys)
    mode = "" if write else " (read only)"
    start = "\n" if person else ""
    ended_read, ended_write = os.pipe()
    failed: list[Exception] = []
    reader = threading.Thread(target=_show, args=(attached, ended_write, failed), daemon=True)
    try:
        with _raw(keys) if person else contextlib.nullcontext():
            if person:
                output.complain(f"Console of {called}{mode}; Ctrl-] leaves it, and the guest goes on.\r")
            reader.start()
            _type(attached, keys, ended_read, write=write, person=person)
    finally:
        attached.close()
        reader.join(5)
        os.close(ended_read)
        os.close(ended_write)
    if failed:
        if person:
            output.complain("")  # the guest's last line may have no end
        raise failed[0]
    if attached.farewell:
        output.complain(f"{start}Left the console: {attached.farewell}.")
    elif person:
        output.complain(f"{start}Left the console of {called}.")


def _show(attached: console.Console, ended: int, failed: list[Exception]) -> None:
    try:
        while (data := attached.receive()) is not None:
            _write_all(1, data)
    except (errors.Problem, OSError) as error:  # the console's, or that of a pipe that nobody reads any more
        failed.append(error)
    with contextlib.suppress(OSError):
        os.write(ended, b".")


def _type(attached: console.Console, keys: int, ended: int, *, write: bool, person: bool) -> None:
    watched = [keys, ended] if write or person else [ended]
    while True:
        ready, _, _ = select.select(watched, [], [])
        if ended in ready:
            return
        try:
            data = os.read(keys, 4096)
        except OSError:  # the terminal is gone
            return
        if not data:
            return
        before, escape, _ = data.partition(ESCAPE) if person else (data, b"", b"")
        if before and write and not attached.send(before):
            return
        if escape:
            return


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


@contextlib.contextmanager
def _raw(descriptor: int) -> Iterator[None]:
    """Raw mode, also left when the command is told to end."""
    before = termios.tcgetattr(descriptor)
    shown = os.isatty(1)
    handlers = {number: signal.signal(number, _leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        tty.setraw(descriptor)
        yield
    finally:
        with contextlib.suppress(termios.error, OSError):  # the terminal may be gone
            if shown:
                _write_all(1, _AS_USUAL)
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _leave(number: int, frame: object) -> None:
    raise SystemExit(128 + number)
