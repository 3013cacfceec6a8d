"""Copies, names, the trash, moving disks."""

from __future__ import annotations

from typing import Annotated

import typer

from bocage.cli import complete, failure, options, output, session, waiting
from bocage.cli.vm import power
from bocage.client import rest


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
    to: Annotated[
        str | None,
        typer.Option(
            metavar="HOST", help="The host that it goes to.", autocompletion=complete.hosts, show_default=False
        ),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(metavar="STORAGE", help="Where its disks go instead.", autocompletion=complete.storage),
    ] = None,
    bandwidth: Annotated[str | None, typer.Option(metavar="SIZE", help="Bytes a second at most, such as 100M.")] = None,
    downtime: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="How long its guest may stand at the end; 0.3.")
    ] = None,
    live: Annotated[
        bool | None,
        typer.Option(
            "--live/--no-live",
            help="Its guest runs while its memory is sent, or not; as it is: with KVM it does.",
            show_default=False,
        ),
    ] = None,
    project: options.Project = options.DEFAULT,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Have a VM go to another host, or its disks to another storage. It may run.

    To another host go VMs whose disks all lie on storage that both reach; without --to it is the one that
    suits best. To another storage of its host go its disks, snapshots and saved memory; disks that are linked to
    an image stay so: the image is copied along, once.

    Examples:
      bocage vm migrate web1
      bocage vm migrate web1 --to host2 --bandwidth 100M
      bocage vm migrate web1 --storage fast
    """
    if storage is not None and (to or bandwidth or downtime or live is not None):
        raise failure.Usage(option="--storage", wrong="it goes to another host, or its disks to another storage")
    with session.connect(project) as api:
        if storage is not None:
            task = api.vms.move(name, storage=storage)
            waiting.finish(api, task, wait=wait, json=json, said=f"{name} lies on {storage}")
            return
        task = api.vms.migrate(name, to=to, bandwidth=bandwidth, downtime=downtime, live=live)
        waiting.finish(api, task, wait=wait, json=json, said=lambda done: _went(name, done))


def _went(name: str, task: rest.Document) -> str:
    result = task["status"]["result"]
    stood = f"; its guest stood for {result['pause'] * 1000:.0f} ms" if "pause" in result else ""
    return f"{name} is on {result['host']}{stood}"


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
