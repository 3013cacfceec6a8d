"""`bocage vm exec`, `cp` and `passwd`: into a guest through its agent."""

from __future__ import annotations

import os
import pathlib
import re
import secrets
import sys
from collections.abc import Iterator
from typing import Annotated, Any, BinaryIO

import typer

from bocage import errors
from bocage.cli import failure, options, output, people, sending, session

TIMED_OUT, OURS, NOT_STARTED = 124, 125, 127  # as timeout(1), env(1) and the shell have them
_MOST_STDIN = 512 << 10
_PIECE = 1 << 18
_INSIDE = re.compile(r"(?P<name>[a-z0-9][a-z0-9-]{0,62}):(?P<path>(/|[A-Za-z]:[\\/]).*)", re.DOTALL)


def execute(
    name: options.VMName,
    command: Annotated[list[str], typer.Argument(metavar="COMMAND...", help="The program and its arguments.")],
    stdin: Annotated[bool, typer.Option("--stdin", "-i", help="Give it standard input, up to 512K.")] = False,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=0.1, max=86_400, help="Its time.")] = 60.0,
    project: options.Project = options.DEFAULT,
    json: options.Json = False,
) -> int:
    """Run a program in the guest, through its agent.

    Its output comes when it has ended: 16M of each stream at most. The exit code is the
    program's own, 128+N when signal N ended it; 124 when its time was over (then it runs
    on), 127 when it could not be started, 125 when Bocage could not do its part.
    There is no shell: give one when it is needed.

    Examples:
      bocage vm exec web1 -- systemctl is-active nginx
      bocage vm exec web1 -i -- sh < setup.sh
      bocage vm exec web1 --timeout 600 -- apt-get --yes upgrade
    """
    from bocage.client import inside

    said: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
    try:
        given = _stdin() if stdin else b""
        with session.connect(project) as api:
            show = (lambda stream, piece: said[stream].extend(piece)) if json else _show
            ended = inside.execute(api, name, command, stdin=given, timeout=timeout, show=show)
    except errors.Problem as problem:
        failure.tell(problem)
        return _code(problem)
    if json:
        output.document({**ended, **{stream: bytes(text).decode(errors="replace") for stream, text in said.items()}})
    for stream in ended["cut"]:
        output.complain(f"note: there was more than 16M on {stream}; the guest's agent keeps no more")
    if ended["signal"] is not None:
        return 128 + int(ended["signal"]) % 128
    code = int(ended["exit_code"] or 0)
    return code & 0xFF or int(code != 0)


def copy(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A file, NAME:/PATH in a guest, or '-'.")],
    destination: Annotated[str, typer.Argument(metavar="DST", help="Where to: NAME:/PATH, a path, or '-'.")],
    project: options.Project = options.DEFAULT,
    json: options.Json = False,
) -> None:
    """Copy a file into a guest, or out of it, through its agent.

    A new file gets the mode of its source; one that is there is replaced and keeps its own.
    A path that ends with '/' is a directory. Directories go as archives:
    'tar -c DIR | bocage vm cp - web1:/tmp/dir.tar'.

    Examples:
      bocage vm cp nginx.conf web1:/etc/nginx/
      bocage vm cp web1:/var/log/syslog .
      bocage vm cp 'win:C:/Windows/win.ini' -
    """
    to, of = _INSIDE.fullmatch(destination), _INSIDE.fullmatch(source)
    if bool(to) == bool(of):
        wrong = "one of the two is in a guest, the other is here"
        raise failure.Usage(
            option="SRC DST", wrong=wrong, right="web1:/PATH with its whole path; ./a:b for a file here"
        )
    if to:
        written = _into(project, source, to["name"], to["path"])
    else:
        assert of
        written = _out_of(project, of["name"], of["path"], destination)
    if json:
        output.document(written)
    elif destination != "-":
        output.line(f"{written['to']} ({people.size(written['size'])})")


def passwd(
    name: options.VMName,
    user: Annotated[str, typer.Argument(metavar="USER", help="The account in the guest.")],
    project: options.Project = options.DEFAULT,
) -> None:
    """Give an account of the guest another password, through its agent.

    It is asked for, or read from the first line of standard input; it is kept nowhere.

    Examples:
      bocage vm passwd web1 root
      pwgen 16 1 | tee root.txt | bocage vm passwd web1 root
    """
    if sys.stdin.isatty():
        password = str(
            typer.prompt(f"New password of {user} in {name}", hide_input=True, confirmation_prompt=True, err=True)
        )
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if not password:
        raise failure.Usage(option="standard input", wrong="there is no password on it", right="its first line")
    with session.connect(project) as api:
        api.vms.set_password(name, user, password)
    output.line(f"{user} in {name} has another password")


def _code(problem: errors.Problem) -> int:
    kind = getattr(problem, "problem", "")
    details = getattr(problem, "details", {})
    if kind == "guest-command-runs-on":
        return TIMED_OUT
    return NOT_STARTED if kind == "guest-agent-refused" and details.get("command") == "guest-exec" else OURS


def _stdin() -> bytes:
    given = sys.stdin.buffer.read(_MOST_STDIN + 1)
    if len(given) > _MOST_STDIN:
        right = "copy it there first: 'bocage vm cp - NAME:/PATH'"
        raise failure.Usage(option="--stdin", wrong="there is more than 512K on standard input", right=right)
    return given


def _show(stream: str, piece: bytes) -> None:
    to = sys.stdout if stream == "stdout" else sys.stderr
    to.buffer.write(piece)
    to.flush()


def _into(project: str, source: str, name: str, path: str) -> dict[str, Any]:
    from bocage.client import inside

    if path.endswith(("/", "\\")):
        if source == "-":
            raise failure.Usage(option="DST", wrong="a file's name is needed when it comes from standard input")
        path += os.path.basename(source)
    try:
        with session.connect(project) as api, sending.bar(f"sending {os.path.basename(source)}") as show:
            if source == "-":
                return {**inside.write(api, name, path, _pieces(sys.stdin.buffer, show, 0)), "to": f"{name}:{path}"}
            with open(os.path.expanduser(source), "rb") as file:
                about = os.fstat(file.fileno())
                pieces = _pieces(file, show, about.st_size)
                return {**inside.write(api, name, path, pieces, mode=about.st_mode), "to": f"{name}:{path}"}
    except OSError as error:
        if isinstance(error, errors.Problem):
            raise
        raise failure.Usage(option="SRC", wrong=f"{source}: {error.strerror or error}") from error


def _out_of(project: str, name: str, path: str, destination: str) -> dict[str, Any]:
    from bocage.client import inside

    at = pathlib.Path(os.path.expanduser(destination))
    if destination.endswith("/") or at.is_dir():
        at /= re.split(r"[\\/]", path)[-1]
    beside = at.with_name(f".{at.name}.{secrets.token_hex(4)}.part")
    try:
        with session.connect(project) as api, inside.read(api, name, path) as (size, pieces):
            if destination == "-":
                return {"to": "-", "size": sum(sys.stdout.buffer.write(piece) for piece in pieces)}
            whole = not at.exists() or at.is_file()  # else it is a device or a pipe, which is written to
            opened = os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") if whole else None
            done = 0
            with sending.bar(f"getting {at.name}") as show, opened or at.open("wb") as file:
                for piece in pieces:
                    done += file.write(piece)
                    show(done, size)
            if whole:
                if at.exists():
                    beside.chmod(at.stat().st_mode & 0o7777)
                os.rename(beside, at)
            return {"to": str(at), "size": done}
    except OSError as error:
        if isinstance(error, (errors.Problem, BrokenPipeError)):
            raise
        raise failure.Usage(option="DST", wrong=f"{destination}: {error.strerror or error}") from error
    finally:
        beside.unlink(missing_ok=True)


def _pieces(file: BinaryIO, show: sending.Watch, size: int) -> Iterator[bytes]:
    done = 0
    while piece := file.read(_PIECE):
        done += len(piece)
        show(done, size)
        yield piece
