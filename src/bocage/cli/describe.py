"""`set` of images, volumes, networks and hosts: what is said of them for people."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from bocage.cli import complete, failure, options, output, session
from bocage.client import rest

Title = Annotated[str | None, typer.Option(metavar="TEXT", help="What it is, in free text.")]
Notes = Annotated[str | None, typer.Option(metavar="TEXT", help="More free text.")]
Tags = Annotated[list[str] | None, typer.Option(metavar="TAG", help="Its tags from now on; '' for none.")]


def image(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The image.", autocompletion=complete.images)],
    title: Title = None,
    notes: Notes = None,
    tag: Tags = None,
    project: options.Project = options.DEFAULT,
    json: options.Json = False,
) -> None:
    """Say what an image is: title, notes, tags.

    Examples:
      bocage image set debian12 --title "Debian 12 with our agents"
    """
    with session.connect(project) as api:
        change(api.images, "image", name, title=title, notes=notes, tag=tag, json=json)


def volume(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The volume.", autocompletion=complete.volumes)],
    title: Title = None,
    notes: Notes = None,
    tag: Tags = None,
    project: options.Project = options.DEFAULT,
    json: options.Json = False,
) -> None:
    """Say what a volume is: title, notes, tags.

    Examples:
      bocage volume set data1 --title "Invoices since 2019" --tag keep
    """
    with session.connect(project) as api:
        change(api.volumes, "volume", name, title=title, notes=notes, tag=tag, json=json)


def network(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The network.", autocompletion=complete.networks)],
    title: Title = None,
    notes: Notes = None,
    tag: Tags = None,
    project: options.Project = options.DEFAULT,
    json: options.Json = False,
) -> None:
    """Say what a network is: title, notes, tags.

    Examples:
      bocage network set lab --notes "no way out, on purpose"
    """
    with session.connect(project) as api:
        change(api.networks, "network", name, title=title, notes=notes, tag=tag, json=json)


def host(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The host.", autocompletion=complete.hosts)],
    memory_for_vms: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="What VMs may have together: 24G; 'usual' for all but a tenth of it."),
    ] = None,
    title: Title = None,
    notes: Notes = None,
    tag: Tags = None,
    json: options.Json = False,
) -> None:
    """Say what a host is, and how much of its memory is for VMs with dynamic memory and those beside them.

    Examples:
      bocage host set host1 --title "cellar, upper shelf"
      bocage host set host1 --memory-for-vms 24G
    """
    with session.connect() as api:
        change(api.hosts, "host", name, title=title, notes=notes, tag=tag, json=json, memory_for_vms=memory_for_vms)


def change(
    nouns: rest.Nouns,
    kind: str,
    name: str,
    *,
    title: str | None,
    notes: str | None,
    tag: list[str] | None,
    json: bool,
    **more: Any,
) -> None:
    """Change what was given, and say so; `more` are fields that only this kind has."""
    changes = rest.given(title=title, notes=notes, tags=[one for one in tag if one] if tag else None, **more)
    if not changes:
        raise failure.Usage(option="OPTIONS", wrong="nothing to change was given", right="--title, --notes, …")
    changed = nouns.change(name, changes)
    if json:
        output.document(changed)
    else:
        output.line(f"{kind} {name} is changed")
