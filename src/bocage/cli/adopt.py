"""`bocage adopt`: take in the directories of VMs from a lost database or another machine."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from bocage.cli import complete, failure, options, output, read, session, waiting
from bocage.client import rest


def adopt(
    directories: Annotated[list[str] | None, typer.Argument(metavar="DIR...", help="Directories of VMs.")] = None,
    storage: Annotated[
        str | None, typer.Option(metavar="STORAGE", help="All that lies on it.", autocompletion=complete.storage)
    ] = None,
    dead: Annotated[
        str | None, typer.Option(metavar="HOST", help="The uid of the host they were on: on your word that it is dead.")
    ] = None,
    new_identity: Annotated[
        bool, typer.Option("--new-identity", help="With new uid, uuid, MACs and serials: for copies.")
    ] = False,
    name: Annotated[str | None, typer.Option(metavar="TEXT", help="Another name than it had; with one DIR.")] = None,
    network: options.Replaced = None,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Take in VMs by their directories, running ones included.

    Examples:
      bocage adopt --storage local
      bocage adopt /mnt/old/web1 --new-identity --name web2
    """
    if not directories and not storage:
        raise failure.Usage(
            option="DIR, --storage", wrong="one of them is needed", right="bocage adopt --storage local"
        )
    request = rest.given(
        directories=[os.path.abspath(one) for one in directories or ()],
        storage=storage,
        dead=dead,
        new_identity=new_identity or None,
        name=name,
        networks=read.replacements(network or []),
    )
    with session.connect() as api:
        task = api.adopt(request)
        task = waiting.finish(api, task, wait=wait, json=json, said="taken in")
    came = task["status"].get("result") or {}
    if not json:
        for one in came.get("adopted", ()):
            output.line(f"  {one}")
        for one in came.get("refused", ()):
            failure.say(f"{one['path']} was not taken in: {one['text']}", one["hint"])
    if came.get("refused"):
        raise typer.Exit(failure.CONFLICT)
