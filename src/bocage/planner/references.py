"""Whether what an edited definition refers to is there, and not another VM's."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping

from bocage.model import faults
from bocage.model import vm as model


@dataclasses.dataclass(frozen=True, slots=True)
class Known:
    """What is there, by uid; and what other VMs have, each with the name of the VM that has it."""

    volumes: Collection[str]
    images: Collection[str]
    networks: Collection[str]
    macs: Mapping[str, str]
    users: Mapping[str, str]
    smbios_uuids: Mapping[str, str]
    groups: Collection[str] = ()  # of firewall rules, by name


def check(spec: model.VMSpec, known: Known) -> None:
    """Raises errors.InvalidFields with every reference that does not hold."""
    found: list[faults.At] = []
    for number, disk in enumerate(spec.disks):
        at = f"spec.disks.{number}.volume"
        found += _missing(at, "volume", disk.volume, known.volumes)
        found += _taken(at, faults.VolumeTaken, disk.volume, known.users)
    for number, cd in enumerate(spec.cds):
        if cd.image:
            found += _missing(f"spec.cds.{number}.image", "image", cd.image, known.images)
    for number, nic in enumerate(spec.nics):
        found += _missing(f"spec.nics.{number}.network", "network", nic.network, known.networks)
        for place, name in enumerate(nic.firewall):
            found += _missing(f"spec.nics.{number}.firewall.{place}", "firewall group", name, known.groups)
        found += _taken(f"spec.nics.{number}.mac", faults.MacTaken, nic.mac, known.macs)
    uuid = spec.hardware.smbios.uuid
    found += _taken("spec.hardware.smbios.uuid", faults.SmbiosTaken, uuid, known.smbios_uuids)
    if found:
        raise faults.problem(found)


def of_others(held: Mapping[str, str], own: Iterable[str]) -> dict[str, str]:
    """What others than one VM have: `held` less what is its `own`."""
    mine = set(own)
    return {value: name for value, name in held.items() if value not in mine}


def _missing(path: str, kind: str, uid: str, there: Collection[str]) -> list[faults.At]:
    return [] if uid in there else [faults.At(path, faults.Unknown(kind=kind, given=uid))]


def _taken(path: str, cls: type[faults.Taken], value: str, by: Mapping[str, str]) -> list[faults.At]:
    return [faults.At(path, cls(given=value, by=by[value]))] if value in by else []
