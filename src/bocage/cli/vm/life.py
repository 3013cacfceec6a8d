"""Copies, names, the trash, moving disks."""

from __future__ import annotations

from typing import Annotated

import typer

from bocage.cli import complete, options, output, session, waiting
from bocage.cli.vm import power


def clone(
    name: options.VMName,
    copy: Annotated[str, typer.Argument(metavar="NEW", help="What the copy is called.")],
    start: Annotated[bool, typer.Option("--start", help="Start the copy, too.")] = False,
    project: options.Project = options.DEFAULT,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Copy a VM in full; the copy has an identity of its own (uuid, MACs, serials).

    Examples:
      bocage vm clone web1 web2
    """
    with session.connect(project) as api:
        task = api.vms.clone(name, copy, start=start)
        waiting.finish(api, task, wait=wait, json=json, said=f"{copy} is a copy of {name}")


def rename(
    name: options.VMName,
    new: Annotated[str, typer.Argument(metavar="NEW", help="Its new name.")],
    project: options.Project = options.DEFAULT,
    json: options.Json = False,
) -> None:
    """Give a VM another name; it may run, and nothing else of it changes.

    Examples:
      bocage vm rename web1 shop
    """
    with session.connect(project) as api:
        vm = api.vms.rename(name, new)
    if json:
        output.document(vm)
    else:
        output.line(f"{name} is now {new}")


def delete(
    names: options.VMNames,
    force: Annotated[bool, typer.Option("--force", help="Also while it runs: the plug is pulled first.")] = False,
    purge: Annotated[bool, typer.Option("--purge", help="At once, not by way of the trash.")] = False,
    project: options.Project = options.DEFAULT,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Move VMs to the trash, with their disks; 'bocage vm undelete' brings them back.

    Examples:
      bocage vm delete web1
      bocage vm delete web1 --force --purge
    """
    said = "{name} is gone" if purge else "{name} is in the trash; 'bocage vm undelete {name}' brings it back"
    power.each(
        names,
        lambda api, name: api.vms.remove(name, force=force, purge=purge),
        said,
        project=project,
        wait=wait,
        json=json,
    )


def undelete(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="What is in the trash.")],
    project: options.Project = options.DEFAULT,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Bring VMs back from the trash. 'bocage vm list --trash' shows what is in it.

    Examples:
      bocage vm undelete web1
    """
    power.each(
        names, lambda api, name: api.vms.act(name, "undelete"), "{name} is back", project=project, wait=wait, json=json
    )


def migrate(
    name: options.VMName,
    storage: Annotated[
        str, typer.Option(metavar="STORAGE", help="Where its disks go.", autocompletion=complete.storage)
    ],
    project: options.Project = options.DEFAULT,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Carry a VM to another storage, with its disks, snapshots and saved memory. It may run.

    Disks that are linked to an image stay so: the image is copied along, once.

    Examples:
      bocage vm migrate web1 --storage fast
    """
    with session.connect(project) as api:
        task = api.vms.move(name, storage=storage)
        waiting.finish(api, task, wait=wait, json=json, said=f"{name} lies on {storage}")


def flatten(
    name: options.VMName,
    project: options.Project = options.DEFAULT,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Make the disks of a VM independent of the image or template that they are linked to. It may run.

    Examples:
      bocage vm flatten web1
    """
    with session.connect(project) as api:
        task = api.vms.flatten(name)
        waiting.finish(api, task, wait=wait, json=json, said=f"{name} is linked to no image any more")
