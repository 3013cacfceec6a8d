"""Carrying a VM away and taking one in: export and import."""

from __future__ import annotations

import contextlib
import os
import pathlib
import sys
import uuid
from collections.abc import Iterator
from typing import Annotated, BinaryIO

import typer

from bocage import errors
from bocage.cli import complete, failure, options, output, people, read, sending, session, waiting
from bocage.client import archives, problems, rest, streams

_ENDINGS = (".tar.zst", ".tzst", ".zst", ".bocage")


def export(
    name: options.VMName,
    destination: Annotated[
        str, typer.Argument(metavar="DEST", help="A file (web1.tar.zst), a directory (web1/), or '-'.")
    ],
    chain: Annotated[bool, typer.Option("--chain", help="Keep links to images, and take those along.")] = False,
    project: options.Project = options.DEFAULT,
    json: options.Json = False,
) -> None:
    """Write a stopped VM, whole, to an archive or a directory.

    Disks are flat, so that any tool opens them; holes stay holes; checksums lie beside
    them in SHA256SUMS. An archive that broke off is gone on with by the same command.

    Examples:
      bocage vm export web1 web1.tar.zst
      bocage vm export web1 /mnt/backup/web1/
      bocage vm export web1 - | ssh other bocage vm import -
    """
    with session.connect(project) as api:
        if destination == "-":
            if json:
                raise failure.Usage(option="--json", wrong="the archive itself goes to standard output")
            if sys.stdout.isatty():
                raise failure.Usage(
                    option="DEST", wrong="an archive is nothing for a terminal", right="give a file, or > FILE"
                )
            for piece in streams.export(api, name, chain=chain):
                sys.stdout.buffer.write(piece)
            return
        path = pathlib.Path(os.path.expanduser(destination))
        try:
            if path.name.endswith(_ENDINGS) and not destination.endswith("/"):
                taken = _to_file(api, path, name, chain=chain)
            else:
                taken = _to_directory(streams.export(api, name, chain=chain), path, name)
        except OSError as error:
            if isinstance(error, ConnectionError):
                raise
            raise failure.Usage(option="DEST", wrong=f"{destination}: {error.strerror or error}") from error
    if json:
        output.document({"vm": name, "destination": destination, "size": taken})
    else:
        output.line(f"{name} is in {destination} ({people.size(taken)})")


def _to_file(api: rest.Client, path: pathlib.Path, name: str, *, chain: bool) -> int:
    """Write the archive, after what an earlier try left of it; what ends too soon stays for the next one."""
    beside = path.with_name(f".{path.name}.part")
    while True:
        had = streams.Had()
        try:
            with sending.bar(f"exporting {name}") as show, beside.open("ab+") as file:
                file.seek(0)
                for piece in _read(file):
                    had.add(piece)
                for piece in streams.export(api, name, chain=chain, had=had):
                    file.write(piece)
                    show(had.length, 0)
                file.flush()
                os.fsync(file.fileno())
            os.rename(beside, path)
        except BaseException as error:
            if getattr(error, "problem", "") == "export-differs":  # it was changed since: from the beginning
                beside.unlink()
                continue
            if not had.length:
                beside.unlink(missing_ok=True)
            else:
                output.complain(f"{people.size(had.length)} are kept; the same command goes on with them")
            raise
        return had.length


def _to_directory(pieces: Iterator[bytes], path: pathlib.Path, name: str) -> int:
    with sending.bar(f"exporting {name}") as show:
        return archives.unpack(_counted(pieces, show), path)


def _counted(pieces: Iterator[bytes], show: sending.Watch) -> Iterator[bytes]:
    done = 0
    for piece in pieces:
        done += len(piece)
        show(done, 0)
        yield piece


def import_(
    source: Annotated[str, typer.Argument(metavar="SRC", help="What 'bocage vm export' wrote; '-' is standard input.")],
    name: Annotated[str | None, typer.Option(metavar="TEXT", help="Another name than it had.")] = None,
    new_identity: Annotated[
        bool, typer.Option("--new-identity", help="With new uid, uuid, MACs and serials: for copies.")
    ] = False,
    storage: Annotated[
        str | None, typer.Option(metavar="STORAGE", help="Where it lies: local.", autocompletion=complete.storage)
    ] = None,
    network: options.Replaced = None,
    project: options.Project = options.DEFAULT,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Take in a VM that was exported, here or on another machine.

    Examples:
      bocage vm import web1.tar.zst
      bocage vm import web1/ --name web2 --new-identity
    """
    key, networks = uuid.uuid4().hex, read.replacements(network or [])
    with session.connect(project) as api:
        with _forgotten_after(api, key, storage, problems.ProblemError, failure.Usage, KeyboardInterrupt):
            with sending.bar(f"sending {os.path.basename(source.rstrip('/'))}") as show, _opened(source) as pieces:
                streams.put_import(api, key, _counted(pieces, show), storage=storage)
            request = rest.given(
                upload=key, name=name, new_identity=new_identity or None, storage=storage, networks=networks
            )
            task = api.vms.take_import(request)
        with _forgotten_after(api, key, storage, failure.TaskFailed):
            waiting.finish(api, task, wait=wait, json=json, said=lambda done: f"{_came_in(done, name)} is taken in")


@contextlib.contextmanager
def _forgotten_after(api: rest.Client, key: str, storage: str | None, *refusals: type[BaseException]) -> Iterator[None]:
    """What was sent is forgotten when it was refused: nobody goes on with it under a key that was made up here.

    Not when the connection broke: the daemon may be at it.
    """
    try:
        yield
    except refusals:
        with contextlib.suppress(errors.Problem):
            streams.discard(api, key, storage=storage)
        raise


def _came_in(task: rest.Document, name: str | None) -> str:
    """What the VM is called."""
    return str((task["status"].get("result") or {}).get("vm") or name or "it")


@contextlib.contextmanager
def _opened(source: str) -> Iterator[Iterator[bytes]]:
    if source == "-":
        yield _read(sys.stdin.buffer)
        return
    path = pathlib.Path(os.path.expanduser(source))
    try:
        if path.is_dir():
            yield archives.pack(path)
        else:
            with path.open("rb") as file:
                yield _read(file)
    except OSError as error:
        if isinstance(error, ConnectionError):
            raise
        raise failure.Usage(option="SRC", wrong=f"{source} cannot be read: {error.strerror or error}") from error


def _read(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(1 << 20):
        yield piece
