"""`bocage storage`: where images and volumes lie."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from bocage.cli import (
    complete,
    describe,
    failure,
    host,
    lazy,
    options,
    output,
    passwords,
    people,
    session,
    storage_kinds,
    table,
    waiting,
)
from bocage.client import rest

StorageName = Annotated[str, typer.Argument(metavar="NAME", help="The storage.", autocompletion=complete.storage)]
_COLUMNS = (
    table.Column("NAME", least=12),
    table.Column("KIND"),
    table.Column("STATE"),
    table.Column("SIZE", right=True),
    table.Column("FREE", right=True),
    table.Column("TAKEN", right=True),
    table.Column("PROMISED", right=True),
    table.Column("PATH", least=12),
)


def list_storage(json: options.Json = False) -> None:
    """List the storage: its size, what is free, taken by VMs and images, and promised to them.

    Examples:
      bocage storage list
    """
    with session.connect() as api:
        found = api.storage.list()
    if json:
        output.document(found)
    else:
        output.line(table.render(_COLUMNS, [_row(one) for one in sorted(found["items"], key=output.named)]))


def _row(storage: rest.Document) -> tuple[str, ...]:
    spec, status = storage["spec"], storage["status"]
    sizes = (status.get(f"{what}_bytes") for what in ("total", "free", "allocated", "provisioned"))
    return (output.named(storage), spec["kind"], status["state"], *(people.size(one) for one in sizes), spec["path"])


def show(name: StorageName, json: options.Json = False) -> None:
    """Show one storage: how full it is, which hosts reach it, and what its kind costs and protects.

    Examples:
      bocage storage show local
    """
    with session.connect() as api:
        storage = api.storage.get(name)
        hosts = {one["metadata"]["uid"]: output.named(one) for one in api.hosts.list()["items"]} if not json else {}
        stands = host.standing(api) if not json and len(hosts) > 1 else {}
    if json:
        output.document(storage)
        return
    spec, status, about = storage["spec"], storage["status"], storage["metadata"]
    output.line(
        table.facts(
            [
                ("name", about["name"]),
                *people.described(about),
                ("uid", about["uid"]),
                ("state", status["state"]),
                ("reason", people.saying(status.get("reason"))),
                ("kind", spec["kind"]),
                ("path", spec["path"]),
                *_lun(spec.get("lun"), status),
                *_hosts(storage, hosts, stands),
                ("disks", ", ".join(spec.get("disks") or ())),
                ("mirror", _mirror(status.get("mirror"))),
                ("size", people.size(status.get("total_bytes"))),
                ("free", people.size(status.get("free_bytes")) + _kept_back(spec)),
                ("taken", people.size(status.get("allocated_bytes"))),
                ("promised", people.size(status.get("provisioned_bytes"))),
                ("overcommit", "VMs may start that could fill it together" if spec.get("overcommit") else ""),
                *storage_kinds.facts(spec["kind"]),
            ]
        )
    )


def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is called.")],
    path: Annotated[
        str | None, typer.Option(metavar="DIRECTORY", help="Where on the host; with --disk where it is mounted.")
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            metavar="dir|shared|iscsi",
            help="'shared': a cluster file system, or NFS, that all hosts have mounted at --path; 'iscsi': a LUN.",
        ),
    ] = None,
    disk: Annotated[str | None, typer.Option(metavar="DEVICE", help="An empty disk, to make a file system on.")] = None,
    mirror: Annotated[
        str | None, typer.Option(metavar="DEVICE", help="A second empty disk, which then holds the same.")
    ] = None,
    portal: Annotated[str | None, typer.Option(metavar="IP:PORT", help="Of the array that has the LUN.")] = None,
    target: Annotated[str | None, typer.Option(metavar="IQN", help="The array's name for what has the LUN.")] = None,
    lun: Annotated[int | None, typer.Option(metavar="N", help="An empty LUN, for the disks of many VMs.")] = None,
    user: Annotated[
        str | None, typer.Option(metavar="NAME", help="Who we are there (CHAP); the password is asked for.")
    ] = None,
    password_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="Read that password from its first line.")
    ] = None,
    reserve: Annotated[int | None, typer.Option(metavar="PERCENT", help="What VMs may never fill: 5 percent.")] = None,
    overcommit: Annotated[
        bool, typer.Option("--overcommit", help="VMs may start that could fill it together.")
    ] = False,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Make a storage of a directory, of an empty disk, or of a LUN.

    Examples:
      bocage storage create fast --path /srv/nvme --reserve 10
      bocage storage create fast --disk /dev/sdb --mirror /dev/sdc
      bocage storage create array --kind shared --path /mnt/array
      bocage storage create san --kind iscsi --portal IP:3260 --target IQN --lun 1
    """
    if mirror and not disk:
        raise failure.Usage(option="--mirror", wrong="it mirrors another disk", right="name that with --disk")
    where = os.path.abspath(os.path.expanduser(path)) if path else None
    disks = [one for one in (disk, mirror) if one] or None
    password = passwords.ask(f"{user} at {portal}", file=password_file, option="--password-file") if user else None
    place = rest.given(portal=portal, target=target, lun=lun, user=user, password=password) or None
    request = rest.given(
        name=name, kind=kind, path=where, disks=disks, lun=place, reserve_percent=reserve, overcommit=overcommit or None
    )
    with session.connect() as api:
        waiting.finish(api, api.storage.create(request), wait=wait, json=json, said=f"storage {name} is ready")


def set_(
    name: StorageName,
    reserve: Annotated[int | None, typer.Option(metavar="PERCENT", help="What VMs may never fill.")] = None,
    overcommit: Annotated[
        bool | None,
        typer.Option("--overcommit/--no-overcommit", help="Whether VMs may start that could fill it together."),
    ] = None,
    title: describe.Title = None,
    notes: describe.Notes = None,
    tag: describe.Tags = None,
    json: options.Json = False,
) -> None:
    """Change a storage: what is kept back, what may be promised, what is said of it.

    Examples:
      bocage storage set local --overcommit
      bocage storage set fast --reserve 10 --title "NVMe, both halves"
    """
    with session.connect() as api:
        describe.change(
            api.storage,
            "storage",
            name,
            title=title,
            notes=notes,
            tag=tag,
            json=json,
            reserve_percent=reserve,
            overcommit=overcommit,
        )


def repair(
    name: StorageName,
    disk: Annotated[str, typer.Option(metavar="DEVICE", help="An empty disk, or the one that was missing.")],
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Put a disk into a mirror that lacks one. VMs run on meanwhile.

    Examples:
      bocage storage repair fast --disk /dev/sdd
    """
    with session.connect() as api:
        said = f"{disk} is in {name}, and what the other disk holds is being copied to it"
        waiting.finish(api, api.storage.repair(name, disk=disk), wait=wait, json=json, said=said)


def _hosts(storage: rest.Document, names: dict[str, str], stands: dict[str, Any]) -> list[tuple[str, str]]:
    """Which hosts reach it, and why others do not; of one that is silent, that."""
    if only := storage["spec"].get("host"):
        return [("host", names.get(only, only))]
    found = storage["status"].get("hosts") or {}
    told = []
    for uid, one in found.items():
        silent = stands.get(uid, {}).get("state", "beats") != "beats"
        state = host.beats(stands[uid]) if silent else one["state"]
        told.append((names.get(uid, uid), state, "" if silent else people.saying(one.get("reason"))))
    return [
        ("host" if not line else "", f"{name}: {state}{': ' if why else ''}{why}")
        for line, (name, state, why) in enumerate(sorted(told))
    ]


def _kept_back(spec: rest.Document) -> str:
    return "" if spec.get("lun") else f", {spec['reserve_percent']} % are kept back"


def _lun(lun: rest.Document | None, status: rest.Document) -> list[tuple[str, str]]:
    if not lun:
        return []
    user = f", as {lun['user']}" if lun.get("user") else ""
    slices = status.get("slices") or {}
    return [
        ("LUN", f"{lun['lun']} of {lun['target']} at {lun['portal']}{user}"),
        ("known there as", "iqn.2026-01.internal.bocage:UID, with the uid of each host"),
        ("slices", str(len(slices))),
    ]


def _mirror(mirror: rest.Document | None) -> str:
    if mirror is None:
        return ""
    rebuilt = mirror.get("rebuilt_percent")
    filled = "" if rebuilt is None else f", another is filled to {rebuilt} %"
    return f"{mirror['working']} of {mirror['disks']} disks hold all of it{filled}"


def delete(name: StorageName, wait: options.Wait = True, json: options.Json = False) -> None:
    """Forget a storage; refused while something lies on it.

    Examples:
      bocage storage delete fast
    """
    with session.connect() as api:
        waiting.finish(api, api.storage.delete(name), wait=wait, json=json, said=f"storage {name} is gone")


NOUN = lazy.Group(
    "storage",
    help="Storage: where images and volumes lie.",
    verbs={
        "Storage": {
            "list": "storage:list_storage",
            "show": "storage:show",
            "create": "storage:create",
            "set": "storage:set_",
            "repair": "storage:repair",
            "delete": "storage:delete",
        }
    },
    examples="bocage storage create fast --path /srv/nvme",
)
