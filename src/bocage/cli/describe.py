"""`set` of images, volumes, networks, templates and hosts: what is said of them for people."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from bocage.cli import bmcs, complete, failure, options, output, session
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


def template(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The template.", autocompletion=complete.templates)],
    title: Title = None,
    notes: Notes = None,
    tag: Tags = None,
    project: options.Project = options.DEFAULT,
    json: options.Json = False,
) -> None:
    """Say what a template is: title, notes, tags.

    Examples:
      bocage template set web --title "Debian 12 with our agents"
    """
    with session.connect(project) as api:
        change(api.templates, "template", name, title=title, notes=notes, tag=tag, json=json)


def host(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The host.", autocompletion=complete.hosts)],
    memory_for_vms: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="What VMs may have together: 24G; 'usual' for all but a tenth of it."),
    ] = None,
    merge_pages: Annotated[
        bool | None,
        typer.Option(
            "--merge-pages/--no-merge-pages",
            help="Whether equal pages of VMs are merged (KSM), from their next start on.",
        ),
    ] = None,
    memory_overcommit: Annotated[
        float | None, typer.Option(metavar="N", help="How many times over its memory is given to VMs: 1, 1.5.")
    ] = None,
    cpu_overcommit: Annotated[
        str | None, typer.Option(metavar="N", help="How many vCPUs a CPU is given as: 4; 'none' for any number.")
    ] = None,
    bmc: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="What switches it off and on: redfish://USER@ADDRESS[:PORT][/SYSTEM] (redfish+http:// without TLS), "
            "ipmi://USER@ADDRESS; 'none' for none. Its password is asked for, or read from standard input.",
        ),
    ] = None,
    bmc_password_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="Read the BMC's password from its first line.")
    ] = None,
    title: Title = None,
    notes: Notes = None,
    tag: Tags = None,
    json: options.Json = False,
) -> None:
    """Change a host: what VMs may have of it, how many times over it is given to them, its BMC, what is said of it.

    Examples:
      bocage host set host1 --title "cellar, upper shelf"
      bocage host set host1 --memory-for-vms 24G
      bocage host set host1 --memory-overcommit 1.5 --cpu-overcommit 4
      bocage host set host1 --bmc redfish://admin@10.0.0.51
    """
    often: dict[str, Any] = {}
    if cpu_overcommit is not None:
        try:
            often = {"cpu_overcommit": None if cpu_overcommit == "none" else float(cpu_overcommit)}
        except ValueError as error:
            wrong = f"'{cpu_overcommit}' is no number"
            raise failure.Usage(option="--cpu-overcommit", wrong=wrong, right="--cpu-overcommit 4, none") from error
    if bmc is not None:
        often["bmc"] = None if bmc == "none" else bmcs.asked(bmc, password_file=bmc_password_file)
    with session.connect() as api:
        change(
            api.hosts,
            "host",
            name,
            title=title,
            notes=notes,
            tag=tag,
            json=json,
            memory_for_vms=memory_for_vms,
            merge_pages=merge_pages,
            memory_overcommit=memory_overcommit,
            exact=often,
        )


def change(
    nouns: rest.Nouns,
    kind: str,
    name: str,
    *,
    title: str | None,
    notes: str | None,
    tag: list[str] | None,
    json: bool,
    exact: dict[str, Any] | None = None,
    **more: Any,
) -> None:
    """Change what was given, and say so; `more` are fields that only this kind has, `exact` those that may be null."""
    changes = given(title=title, notes=notes, tag=tag, more=rest.given(**more) | (exact or {}))
    changed = nouns.change(name, changes)
    if json:
        output.document(changed)
    else:
        output.line(f"{kind} {name} is changed")


def given(
    *, title: str | None, notes: str | None, tag: list[str] | None, more: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The change that was asked for; to ask for none is a mistake."""
    tags = [one for one in tag if one] if tag else None
    changes = rest.given(title=title, notes=notes, tags=tags) | (more or {})
    if not changes:
        raise failure.Usage(option="OPTIONS", wrong="nothing to change was given", right="--title, --notes, …")
    return changes
