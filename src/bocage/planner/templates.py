"""From a template's version to the full definition of a VM that is linked to it."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from bocage import errors
from bocage.model import base, ground, requests, template
from bocage.model import memory as memories
from bocage.model import vm as model
from bocage.planner import definition, hardware, limits
from bocage.words import N_


class Error(errors.Problem):
    """A template cannot be used, or let go."""


class NoVersion(Error, errors.NotFound):
    type = "template-no-version"
    text = N_("the template {name} has no version {number}; there are {known}")
    hint = N_("'bocage template show {name}' shows them")
    name: str
    number: int
    known: list[int]


class InUse(Error, errors.Conflict):
    type = "template-in-use"
    text = N_("the template {name} is in use by {users}")
    hint = N_("'bocage vm flatten NAME' makes a VM independent of it; else delete those first, in the trash too")
    name: str
    users: list[str]


class NotWithTemplate(Error, errors.Invalid):
    type = "not-with-template"
    text = N_("{field} comes with the template, and cannot be given beside it")
    hint = N_("'bocage vm set' and 'bocage vm edit' change it afterwards")
    field: str


_MAY_DIFFER = frozenset({"cpus", "memory", "restart", "autostart", "stop", "snapshots", "share", "placement"})
_FOR_PEOPLE = {"name", "title", "notes", "tags", "protected"}


def version(held: template.Template, number: int | None) -> template.TemplateVersion:
    """A version by its number, or the newest. Raises NoVersion."""
    known = [one.number for one in held.spec.versions]
    for one in reversed(held.spec.versions):
        if number is None or one.number == number:
            return one
    raise NoVersion(name=held.name, number=number or 0, known=known)


def define(
    request: requests.VMCreate,
    held: template.Template,
    of: template.TemplateVersion,
    host: ground.Host,
    *,
    project: str,
    macs: Collection[str],
) -> definition.Definition:
    """A VM as the template has it, with an identity of its own, each disk linked to the template's image.

    What the request says of CPUs, memory, share and policies counts more. Raises NotWithTemplate, and what `definition`
    does.
    """
    for field in sorted(request.model_fields_set - _MAY_DIFFER - _FOR_PEOPLE - {"template", "start"}):
        if getattr(request, field) != requests.VMCreate.model_fields[field].default:
            raise NotWithTemplate(field=field)
    more = {name: getattr(request, name) for name in request.model_fields_set & _MAY_DIFFER}
    if "memory" in more:
        more |= memories.fields(more["memory"])
    if "autostart" in more:
        more["autostart"] = definition.autostart(more["autostart"])
    spec = of.machine.model_copy(update={"storage": held.spec.storage, "replica": None, **more})
    about = base.Metadata(project=project, **request.model_dump(include=_FOR_PEOPLE))
    pattern = model.VM(metadata=about, spec=spec)
    sealed = {disk.disk: disk for disk in of.disks}
    stubs = {
        disk.volume: ground.Volume(
            metadata=base.Metadata(name="sealed", project=project),
            spec=ground.VolumeSpec(storage=held.spec.storage, size=sealed[disk.name].size),
        )
        for disk in spec.disks
    }
    made, copies = definition.clone(pattern, stubs, name=request.name, start=request.start, macs=macs)
    by_volume = {disk.volume: sealed[disk.name] for disk in spec.disks}
    volumes = []
    for volume in made.volumes:
        image = by_volume[copies[volume.uid]]
        changes = {"source": None, "image": image.sha256, "linked": True}
        volumes.append(volume.model_copy(update={"spec": volume.spec.model_copy(update=changes)}))
    machine = made.vm.model_copy(
        update={"metadata": made.vm.metadata.model_copy(update={"protected": request.protected})}
    )
    hardware.check(machine.spec)
    limits.check(machine.spec, host)
    return definition.Definition(machine, tuple(volumes))


def users(
    held: template.Template,
    numbers: Collection[int],
    volumes: Iterable[ground.Volume],
    machines: Iterable[model.VM],
) -> list[str]:
    """The VMs, those in the trash too, and volumes by themselves that are linked to what only these versions have."""
    gone = {disk.sha256 for one in held.spec.versions if one.number in numbers for disk in one.disks}
    gone -= {disk.sha256 for one in held.spec.versions if one.number not in numbers for disk in one.disks}
    names = {machine.uid: machine.name for machine in machines}
    return sorted(
        {
            names.get(one.spec.vm or "", one.name)
            for one in volumes
            if one.spec.image in gone and one.spec.linked and one.spec.storage == held.spec.storage
        }
    )


def parse(text: str) -> tuple[str, int | None]:
    """`web` or `web@2`: name and version. Raises errors.InvalidFields."""
    name, at, number = text.partition("@")
    if at and not (number.isascii() and number.isdigit() and len(number) < 6):
        raise NoVersion(name=name[:63], number=0, known=[])
    return name, int(number) if at else None
