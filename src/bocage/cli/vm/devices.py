"""A VM's disks and CDs: attach, detach, grow; insert, eject."""

from __future__ import annotations

import os
import tempfile
import uuid
from typing import Annotated

import typer

from bocage import errors
from bocage.cli import complete, failure, lazy, options, output, sending, session, waiting
from bocage.cli.vm import carried, share
from bocage.client import rest

DiskName = Annotated[str, typer.Argument(metavar="DISK", help="The disk, as 'bocage vm show' calls it: disk1.")]


def attach(
    name: options.VMName,
    size: Annotated[str | None, typer.Option(metavar="SIZE", help="A new, blank disk of this size.")] = None,
    volume: Annotated[
        str | None, typer.Option(metavar="VOLUME", help="A volume that is there.", autocompletion=complete.volumes)
    ] = None,
    bus: Annotated[str | None, typer.Option(metavar="virtio|scsi|sata|ide")] = None,
    cache: Annotated[str | None, typer.Option(metavar="MODE", help="writeback, none, writethrough, …")] = None,
    format_: Annotated[str | None, typer.Option("--format", metavar="qcow2|raw")] = None,
    preallocated: Annotated[bool, typer.Option("--preallocated", help="Take all its room now.")] = False,
    serial: Annotated[str | None, typer.Option(metavar="TEXT", help="Its serial number; made when not given.")] = None,
    project: options.Project = options.DEFAULT,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Attach a disk: a new one of a size, or a volume. The VM may run.

    Examples:
      bocage vm disk attach web1 --size 20G
      bocage vm disk attach web1 --volume data1 --bus scsi
    """
    if (size is None) == (volume is None):
        raise failure.Usage(option="--size, --volume", wrong="one of them is needed, and not both", right="--size 20G")
    request = rest.given(
        size=size,
        volume=volume,
        bus=bus,
        cache=cache,
        format=format_,
        preallocated=preallocated or None,
        serial=serial,
    )
    with session.connect(project) as api:
        task = api.vms.attach(name, request)
        waiting.finish(api, task, wait=wait, json=json, said=lambda done: _attached(api, name, done))


def _attached(api: rest.Client, name: str, task: rest.Document) -> str:
    """By what the guest knows it: its serial number."""
    disk = str(task["spec"]["params"].get("disk", "the disk"))
    found = [one for one in api.vms.get(name)["spec"]["disks"] if one["name"] == disk]
    return f"{name} has {disk}" + "".join(f" ({one['bus']}, serial {one['serial']})" for one in found)


def detach(
    name: options.VMName,
    disk: DiskName,
    project: options.Project = options.DEFAULT,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Take a disk away from a VM; its volume stays ('bocage volume list'). The VM may run.

    Examples:
      bocage vm disk detach web1 disk1
    """
    with session.connect(project) as api:
        task = api.vms.detach(name, disk)
        waiting.finish(api, task, wait=wait, json=json, said=f"{name} no longer has {disk}")


def grow(
    name: options.VMName,
    disk: DiskName,
    size: Annotated[str, typer.Argument(metavar="SIZE", help="Its new size: 40G.")],
    project: options.Project = options.DEFAULT,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Make a disk larger. The VM may run; its file system is grown inside.

    Examples:
      bocage vm disk grow web1 disk0 40G
    """
    with session.connect(project) as api:
        task = api.vms.grow(name, disk, size)
        waiting.finish(api, task, wait=wait, json=json, said=f"{disk} of {name} has {size}")


def set_(
    name: options.VMName,
    disk: DiskName,
    iops: Annotated[str | None, typer.Option(metavar="N", help="Operations a second; 'none' for no limit.")] = None,
    rate: Annotated[str | None, typer.Option(metavar="SIZE", help="Bytes a second: 50M.")] = None,
    burst_iops: Annotated[str | None, typer.Option(metavar="N", help="As many for a while, after a rest.")] = None,
    burst_rate: Annotated[str | None, typer.Option(metavar="SIZE", help="As many bytes, likewise.")] = None,
    burst_seconds: Annotated[str | None, typer.Option(metavar="N", help="For how long.")] = None,
    project: options.Project = options.DEFAULT,
    json: options.Json = False,
) -> None:
    """Limit a disk. The VM may run. Limits of all its disks together: 'bocage vm set NAME --disk-iops'.

    Examples:
      bocage vm disk set web1 disk0 --iops 500 --burst-iops 2000 --burst-seconds 10
      bocage vm disk set web1 disk0 --iops none --rate 50M
    """
    limits = share.io(
        "--", iops=iops, rate=rate, burst_iops=burst_iops, burst_rate=burst_rate, burst_seconds=burst_seconds
    )
    if not limits:
        raise failure.Usage(option="OPTIONS", wrong="nothing to change was given", right="--iops 500, --rate 50M")
    with session.connect(project) as api:
        changed = api.vms.change_disk(name, disk, {"limits": limits})
        carried.told(api, changed, f"{disk} of {name} is changed", json=json)


def insert(
    name: options.VMName,
    image: Annotated[
        str | None, typer.Argument(metavar="IMAGE", help="An ISO image.", autocompletion=complete.images)
    ] = None,
    from_: Annotated[
        str | None, typer.Option("--from", metavar="DIR", help="Burn one of this directory, for this drive alone.")
    ] = None,
    label: Annotated[str, typer.Option(metavar="TEXT", help="With --from: its label; else as DIR is called.")] = "",
    drive: Annotated[str, typer.Option(metavar="DRIVE", help="Which drive.")] = "cd0",
    project: options.Project = options.DEFAULT,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Put a CD into a drive.

    One that is burned of a directory holds up to 4G, for DOS with names of 8.3, for
    Windows and Unix with the names that the files have. It goes when it is ejected.

    Examples:
      bocage vm cd insert web1 debian-iso
      bocage vm cd insert erp --from ./patches
    """
    if (image is None) == (from_ is None):
        right = "bocage vm cd insert NAME IMAGE"
        raise failure.Usage(option="IMAGE, --from", wrong="one of them is needed, and not both", right=right)
    if from_ is not None:
        _insert_burned(name, from_, label, drive, project, wait, json)
        return
    assert image
    with session.connect(project) as api:
        task = api.vms.change_cd(name, drive, image)
        waiting.finish(api, task, wait=wait, json=json, said=f"{image} is in {drive} of {name}")


def _insert_burned(name: str, directory: str, label: str, drive: str, project: str, wait: bool, json: bool) -> None:
    from bocage.cli import burning
    from bocage.client import streams

    with session.connect(project) as api, tempfile.TemporaryDirectory(prefix="bocage-cd-") as scratch:
        path, key = os.path.join(scratch, "cd.iso"), uuid.uuid4().hex
        try:
            skipped = burning.burn(os.path.expanduser(directory), path, label=label)
        except OSError as error:
            if isinstance(error, errors.Problem):
                raise
            raise failure.Usage(option="--from", wrong=f"{directory}: {error.strerror or error}") from error
        for left_out in skipped:
            output.complain(f"note: {left_out} is neither a file nor a directory in it, and was left out")
        with sending.bar(f"sending {directory}") as show:
            streams.upload(api, key, path, on_progress=show)
        task = api.vms.insert_upload(name, drive, key)
        waiting.finish(api, task, wait=wait, json=json, said=f"{directory} is in {drive} of {name}")


def eject(
    name: options.VMName,
    drive: Annotated[str, typer.Option(metavar="DRIVE", help="Which drive.")] = "cd0",
    project: options.Project = options.DEFAULT,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Empty a CD drive.

    Examples:
      bocage vm cd eject web1
    """
    with session.connect(project) as api:
        task = api.vms.change_cd(name, drive, None)
        waiting.finish(api, task, wait=wait, json=json, said=f"{drive} of {name} is empty")


def insert_floppy(
    name: options.VMName,
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="A floppy's image.", autocompletion=complete.images)],
    drive: Annotated[str, typer.Option(metavar="DRIVE", help="Which drive.")] = "floppy0",
    project: options.Project = options.DEFAULT,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Put a floppy disk into a drive; the guest can read it.

    Examples:
      bocage vm floppy insert dos disk2
    """
    insert(name, image, drive=drive, project=project, wait=wait, json=json)


def eject_floppy(
    name: options.VMName,
    drive: Annotated[str, typer.Option(metavar="DRIVE", help="Which drive.")] = "floppy0",
    project: options.Project = options.DEFAULT,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Empty a floppy drive.

    Examples:
      bocage vm floppy eject dos
    """
    eject(name, drive, project, wait, json)


DISK = lazy.Group(
    "vm disk",
    help="A VM's disks.",
    verbs={
        "Disks": {
            "attach": "vm.devices:attach",
            "detach": "vm.devices:detach",
            "grow": "vm.devices:grow",
            "set": "vm.devices:set_",
        },
    },
)
CD = lazy.Group(
    "vm cd",
    help="A VM's CD drives.",
    verbs={"CDs": {"insert": "vm.devices:insert", "eject": "vm.devices:eject"}},
)
FLOPPY = lazy.Group(
    "vm floppy",
    help="A VM's floppy drives.",
    verbs={"Floppy disks": {"insert": "vm.devices:insert_floppy", "eject": "vm.devices:eject_floppy"}},
)
