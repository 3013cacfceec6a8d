"""A VM's serial console, its logs, its screen, its keyboard."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from typing import Annotated

import typer

from bocage import lines
from bocage.cli import failure, options, output, session


def console(
    name: options.VMName,
    send: Annotated[str | None, typer.Option(metavar="TEXT", help="With --expect: type this and Enter first.")] = None,
    expect: Annotated[
        str | None, typer.Option(metavar="REGEX", help="Do not attach: wait for a line that matches, and print it.")
    ] = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="How long --expect waits.")] = 60,
    read_only: Annotated[bool, typer.Option("--read-only", help="Watch only.")] = False,
    take: Annotated[bool, typer.Option("--take-over", help="Write, even if another one has it now.")] = False,
    project: options.Project = options.DEFAULT,
    json: options.Json = False,
) -> None:
    """Attach to the serial console like a terminal; Ctrl-] leaves it.

    It ends by itself when the VM is off, and where its input is no terminal also
    with that. A serial line does not tell the guest how large your window is: type
    'stty rows 50 cols 132' there.

    For scripts: with --expect it waits for a whole line that matches the regular
    expression and prints it (exit code 0; 1 when the time is over). With --send only
    what comes after the text counts, its echo left out; without, also what was said
    since the last start.

    Examples:
      bocage vm console web1
      bocage vm console web1 --expect 'tiny: ready' --timeout 60
      bocage vm console web1 --send 'uname -r' --expect '^[0-9]+\\.' --timeout 5
    """
    if expect is not None:
        _expect(name, expect, send=send, timeout=timeout, project=project, json=json)
        return
    if send is not None:
        raise failure.Usage(option="--send", wrong="it needs --expect", right="--send TEXT --expect REGEX --timeout S")
    from bocage.cli import terminal
    from bocage.client import console as consoles

    with session.connect(project) as api, consoles.attach(api, name, write=not read_only, take=take) as attached:
        terminal.converse(attached, called=name, write=not read_only)


def _expect(name: str, pattern: str, *, send: str | None, timeout: float, project: str, json: bool) -> None:
    with session.connect(project) as api:
        line = api.vms.expect(name, pattern, timeout=timeout, send=send)
    if json:
        output.document({"line": line})
    else:
        output.line(line)


def log(
    name: options.VMName,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")] = False,
    qemu: Annotated[bool, typer.Option("--qemu", help="QEMU's own log in place of the serial console's.")] = False,
    raw: Annotated[
        bool | None,
        typer.Option("--raw/--plain", help="Each byte as it is, or what can be read of it."),
    ] = None,
    project: options.Project = options.DEFAULT,
    json: options.Json = False,
) -> None:
    """Print what the guest said on its serial console.

    On a terminal it is shown in plain lines, without the guest's colours, cursor
    movements and other control sequences; to a file or a pipe go the bytes as they are,
    with --json a document for each plain line.

    Examples:
      bocage vm log web1 --follow
      bocage vm log web1 --plain | grep 'login:$'
      bocage vm log web1 --qemu
    """
    from bocage.client import streams

    with session.connect(project) as api:
        pieces = streams.log(api, name, source="qemu" if qemu else "serial", follow=follow)
        if json:
            for line in _lines(pieces):
                output.document({"line": line})
                sys.stdout.flush()
            return
        for piece in pieces if raw or (raw is None and not output.on_terminal()) else _plain(pieces):
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()


def _plain(pieces: Iterable[bytes]) -> Iterator[bytes]:
    return (f"{line}\n".encode() for line in _lines(pieces))


def _lines(pieces: Iterable[bytes]) -> Iterator[str]:
    splitter = lines.Splitter()
    for piece in pieces:
        yield from splitter.feed(piece)
    if rest := splitter.rest():
        yield rest


def screenshot(
    name: options.VMName,
    file: Annotated[str, typer.Argument(metavar="FILE", help="out.png; '-' is standard output.")],
    project: options.Project = options.DEFAULT,
    json: options.Json = False,
) -> None:
    """Write what is on the VM's screen to a PNG file.

    Examples:
      bocage vm screenshot web1 screen.png
    """
    if json and file == "-":
        raise failure.Usage(option="--json", wrong="the picture itself goes to standard output")
    with session.connect(project) as api:
        picture = api.vms.screenshot(name)
    if file == "-":
        sys.stdout.buffer.write(picture)
        return
    try:
        with open(os.path.expanduser(file), "wb") as out:
            out.write(picture)
    except OSError as error:
        raise failure.Usage(option="FILE", wrong=f"{file} cannot be written: {error.strerror}") from error
    if json:
        output.document({"file": file, "size": len(picture)})
    else:
        output.line(f"{file}: {len(picture)} bytes")


def sendkey(
    name: options.VMName,
    keys: Annotated[list[str], typer.Argument(metavar="KEY...", help="ctrl-alt-delete, ret, f2, a, …")],
    project: options.Project = options.DEFAULT,
    json: options.Json = False,
) -> None:
    """Press keys: those joined by hyphens at once, one group after the other.

    Examples:
      bocage vm sendkey win ctrl-alt-delete
      bocage vm sendkey old d i r ret
    """
    groups = [[_NAMES.get(key, key) for key in group.lower().replace("+", "-").split("-")] for group in keys]
    with session.connect(project) as api:
        for group in groups:
            api.vms.send_keys(name, tuple(group))
    if json:
        output.document({"pressed": groups})


_NAMES = {"enter": "ret", "return": "ret", "escape": "esc", "del": "delete", "control": "ctrl", "space": "spc"}
