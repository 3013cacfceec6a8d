"""`bocage volume`: disks, with a VM or by themselves."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from bocage.cli import complete, lazy, options, output, people, session, table, waiting
from bocage.client import rest

VolumeName = Annotated[str, typer.Argument(metavar="NAME", help="The volume.", autocompletion=complete.volumes)]
_COLUMNS = (
    table.Column("NAME", least=20),
    table.Column("SIZE", right=True),
    table.Column("TAKEN", right=True),
    table.Column("FORMAT"),
    table.Column("STATE"),
    table.Column("VM", least=10),
    table.Column("STORAGE", least=8),
)


def list_volumes(
    storage: Annotated[
        str | None, typer.Option(metavar="STORAGE", help="Only those on it.", autocompletion=complete.storage)
    ] = None,
    project: options.Project = options.DEFAULT,
    json: options.Json = False,
) -> None:
    """List the volumes.

    Examples:
      bocage volume list --storage fast
    """
    with session.connect(project) as api:
        found = api.volumes.list()
        pools = session.look_up(api.storage.list())
        vms = session.look_up(api.vms.list(trash=True)) if not json else {}
    if storage:
        uid = next((uid for uid, pool in pools.items() if output.named(pool) == storage), None)
        found["items"] = [one for one in found["items"] if one["spec"]["storage"] == uid]
    if json:
        output.document(found)
    elif not found["items"]:
        output.complain("no volume: 'bocage volume create --help' shows how one is made")
    else:
        output.line(table.render(_COLUMNS, [_row(one, pools, vms) for one in sorted(found["items"], key=output.named)]))


def _row(volume: rest.Document, pools: dict[str, rest.Document], vms: dict[str, rest.Document]) -> tuple[str, ...]:
    spec, status = volume["spec"], volume["status"]
    pool, vm = pools.get(spec["storage"]), vms.get(spec.get("vm") or "")
    return (
        output.named(volume),
        str(spec["size"]),
        people.size(status.get("allocated_bytes")),
        spec["format"],
        status["state"],
        _owner(vm),
        output.named(pool) if pool else "?",
    )


def _owner(vm: rest.Document | None) -> str:
    if vm is None:
        return people.NOTHING
    return output.named(vm) + (" (trash)" if vm["metadata"].get("deleted") else "")


def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is called.")],
    size: Annotated[str, typer.Option(metavar="SIZE", help="20G.")],
    storage: Annotated[
        str | None, typer.Option(metavar="STORAGE", help="Where it lies: local.", autocompletion=complete.storage)
    ] = None,
    format_: Annotated[str | None, typer.Option("--format", metavar="qcow2|raw", help="qcow2.")] = None,
    preallocated: Annotated[bool, typer.Option("--preallocated", help="Take all its room now.")] = False,
    project: options.Project = options.DEFAULT,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Make a blank volume; 'bocage vm disk attach NAME --volume V' gives it to a VM.

    Examples:
      bocage volume create data1 --size 100G
      bocage vm disk attach web1 --volume data1
    """
    request = rest.given(name=name, size=size, storage=storage, format=format_, preallocated=preallocated or None)
    with session.connect(project) as api:
        waiting.finish(api, api.volumes.create(request), wait=wait, json=json, said=f"volume {name} is made")


def show(name: VolumeName, project: options.Project = options.DEFAULT, json: options.Json = False) -> None:
    """Show one volume.

    Examples:
      bocage volume show data1
    """
    with session.connect(project) as api:
        volume = api.volumes.get(name)
        pools = session.look_up(api.storage.list()) if not json else {}
        vms = session.look_up(api.vms.list(trash=True)) if not json else {}
        images = api.images.list()["items"] if not json else []
    if json:
        output.document(volume)
        return
    spec, status, about = volume["spec"], volume["status"], volume["metadata"]
    pool, vm = pools.get(spec["storage"]), vms.get(spec.get("vm") or "")
    output.line(
        table.facts(
            [
                ("name", about["name"]),
                *people.described(about),
                ("uid", about["uid"]),
                ("state", status["state"]),
                ("problem", people.saying(status.get("problem"))),
                ("size", f"{spec['size']} ({people.size(status.get('allocated_bytes'))} taken)"),
                ("format", spec["format"] + (", preallocated" if spec.get("preallocated") else "")),
                ("image", _image(spec, images)),
                ("vm", _owner(vm) if vm else spec.get("vm")),
                ("storage", output.named(pool) if pool else spec["storage"]),
                ("path", status.get("path")),
                ("created", people.ago(about["created"])),
            ]
        )
    )


def _image(spec: dict[str, Any], images: list[rest.Document]) -> str:
    """By its names, for they are what people know it by; by its digest when it has none any more."""
    digest = spec.get("image") or ""
    names = ", ".join(output.named(one) for one in images if one["spec"]["sha256"] == digest)
    return (names or digest) + (" (linked)" if spec.get("linked") else "")


def grow(
    name: VolumeName,
    size: Annotated[str, typer.Argument(metavar="SIZE", help="Its new size: 40G.")],
    project: options.Project = options.DEFAULT,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Make a volume larger.

    Examples:
      bocage volume grow data1 200G
    """
    with session.connect(project) as api:
        waiting.finish(api, api.volumes.grow(name, size), wait=wait, json=json, said=f"volume {name} has {size}")


def delete(
    name: VolumeName,
    project: options.Project = options.DEFAULT,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Delete a volume and what is on it; refused while a VM has it.

    Examples:
      bocage volume delete data1
    """
    with session.connect(project) as api:
        waiting.finish(api, api.volumes.delete(name), wait=wait, json=json, said=f"volume {name} is gone")


NOUN = lazy.Group(
    "volume",
    help="Volumes: the disks of VMs, and those that no VM has.",
    verbs={
        "Volumes": {
            "list": "volume:list_volumes",
            "show": "volume:show",
            "create": "volume:create",
            "grow": "volume:grow",
            "set": "describe:volume",
            "delete": "volume:delete",
        }
    },
)
