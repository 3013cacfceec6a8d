"""`bocage image`: what disks are made from."""

from __future__ import annotations

import os
import re
from typing import Annotated

import typer

from bocage.cli import complete, failure, lazy, options, output, people, session, table, waiting
from bocage.client import problems, rest

ImageName = Annotated[str, typer.Argument(metavar="NAME", help="The image.", autocompletion=complete.images)]
_COLUMNS = (
    table.Column("NAME", least=16),
    table.Column("FORMAT"),
    table.Column("SIZE", right=True),
    table.Column("ON DISK", right=True),
    table.Column("STATE"),
    table.Column("ADDED"),
    table.Column("FROM", least=10),
)


def add(
    source: Annotated[
        str, typer.Argument(metavar="FILE|URL", help="A disk or CD image, here or at a http(s) address.")
    ],
    name: Annotated[str | None, typer.Option(metavar="TEXT", help="What it is called; else after its file.")] = None,
    format_: Annotated[
        str | None,
        typer.Option("--format", metavar="FORMAT", help="raw, qcow2, vmdk, vhd, vhdx, vdi, iso; it is checked."),
    ] = None,
    sha256: Annotated[str | None, typer.Option(metavar="HEX", help="What the publisher prints beside it.")] = None,
    storage: Annotated[
        str | None, typer.Option(metavar="STORAGE", help="Where it lies: local.", autocompletion=complete.storage)
    ] = None,
    project: options.Project = options.DEFAULT,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Take in an image; it is inspected before anything opens it.

    Examples:
      bocage image add debian-12-genericcloud-amd64.qcow2 --name debian
      bocage image add https://example.org/windows.iso --sha256 9f86d081…
    """
    called = name or name_for(source)
    request = rest.given(
        name=called,
        format=format_,
        sha256=sha256.lower() if sha256 else None,
        storage=storage,
        file_name=_file_name(source),
    )
    with session.connect(project) as api:
        try:
            task = api.images.create(request | _where(api, source, storage))
        except problems.ProblemError as problem:
            if problem.problem != "path-elsewhere":  # then it is sent there
                raise
            task = api.images.create(request | _uploaded(api, source, storage))
        waiting.finish(api, task, wait=wait, json=json, said=f"image {called} is there")


def name_for(source: str) -> str:
    """The name that an image gets after its file: its endings gone, what no name may hold as hyphens."""
    stem = re.sub(r"\.(img|raw|qcow2?|vmdk|vhdx?|vdi|iso|gz|xz|zst)$", "", _file_name(source).lower())
    return re.sub(r"[^a-z0-9]+", "-", stem).strip("-")[:63].rstrip("-")


def _file_name(source: str) -> str:
    if _is_url(source):
        source = source.partition("?")[0].partition("#")[0]
    return os.path.basename(source)[:255]


def _is_url(source: str) -> bool:
    return re.match(r"[a-z][a-z0-9+.-]*://", source, re.IGNORECASE) is not None


def _where(api: rest.Client, source: str, storage: str | None) -> dict[str, str]:
    if _is_url(source):
        return {"url": source}
    path = os.path.abspath(os.path.expanduser(source))
    if not os.path.isfile(path):
        said = "is a directory" if os.path.isdir(path) else "is not there"
        raise failure.Usage(option="FILE", wrong=f"{source} {said}")
    return {"path": path} if api.connection.address.socket else _uploaded(api, path, storage)


def _uploaded(api: rest.Client, path: str, storage: str | None) -> dict[str, str]:
    from bocage.cli import sending

    return {"upload": sending.upload(api, os.path.abspath(os.path.expanduser(path)), storage=storage)}


def build(
    what: Annotated[str, typer.Argument(metavar="tiny|debian|rescue", help="Which image.")],
    name: Annotated[str | None, typer.Option(metavar="TEXT", help="What it is called; else as what is built.")] = None,
    release: Annotated[str | None, typer.Option(metavar="bookworm|trixie", help="Of Debian.")] = None,
    storage: Annotated[
        str | None, typer.Option(metavar="STORAGE", help="Where it lies: local.", autocompletion=complete.storage)
    ] = None,
    project: options.Project = options.DEFAULT,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Build an image from packages of the distribution.

    Examples:
      bocage image build tiny
      bocage image build debian --release bookworm
    """
    called = name or what
    with session.connect(project) as api:
        task = api.images.build(rest.given(what=what, name=called, release=release, storage=storage))
        waiting.finish(api, task, wait=wait, json=json, said=f"image {called} is there")


def list_images(project: options.Project = options.DEFAULT, json: options.Json = False) -> None:
    """List the images.

    Examples:
      bocage image list
    """
    with session.connect(project) as api:
        found = api.images.list()
    if json:
        output.document(found)
    elif not found["items"]:
        output.complain("no image yet: 'bocage image build tiny', or 'bocage image add FILE'")
    else:
        output.line(table.render(_COLUMNS, [_row(image) for image in sorted(found["items"], key=output.named)]))


def _row(image: rest.Document) -> tuple[str, ...]:
    spec, status = image["spec"], image["status"]
    return (
        output.named(image),
        spec["format"],
        str(spec["virtual_size"]),
        people.size(status.get("size_bytes")),
        status["state"],
        people.ago(image["metadata"]["created"]),
        spec.get("origin") or people.NOTHING,
    )


def show(name: ImageName, project: options.Project = options.DEFAULT, json: options.Json = False) -> None:
    """Show one image.

    Examples:
      bocage image show tiny
    """
    with session.connect(project) as api:
        image = api.images.get(name)
        storage = session.look_up(api.storage.list()) if not json else {}
    if json:
        output.document(image)
        return
    spec, status, about = image["spec"], image["status"], image["metadata"]
    where = storage.get(spec["storage"])
    output.line(
        table.facts(
            [
                ("name", about["name"]),
                *people.described(about),
                ("uid", about["uid"]),
                ("state", status["state"]),
                ("format", spec["format"]),
                ("size", f"{spec['virtual_size']} ({people.size(status.get('size_bytes'))} on disk)"),
                ("sha256", spec["sha256"]),
                ("origin", spec.get("origin")),
                ("storage", output.named(where) if where else spec["storage"]),
                ("added", people.ago(about["created"])),
            ]
        )
    )


def delete(
    name: ImageName,
    project: options.Project = options.DEFAULT,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Delete an image; refused while a VM's disk stands on it.

    Examples:
      bocage image delete tiny
    """
    with session.connect(project) as api:
        waiting.finish(api, api.images.delete(name), wait=wait, json=json, said=f"image {name} is gone")


NOUN = lazy.Group(
    "image",
    help="Images: what disks are made from, and CDs.",
    verbs={
        "Images": {
            "add": "image:add",
            "build": "image:build",
            "list": "image:list_images",
            "show": "image:show",
            "set": "describe:image",
            "delete": "image:delete",
        }
    },
    examples="""
    bocage image build tiny
    bocage image add windows.iso
    """,
)
