"""A VM's share of its host: what a request makes of it, and what of a changed share a running machine is to be told."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from bocage.model import share
from bocage.model import vm as model
from bocage.model.units import Size


@dataclasses.dataclass(frozen=True, slots=True)
class HoldCpu:
    """Hold it to a share of the host's CPUs."""

    cpu: share.Cpu

    @property
    def path(self) -> str:
        return "share.cpu"


@dataclasses.dataclass(frozen=True, slots=True)
class HoldMemory:
    """Let QEMU have so much beside the guest's memory, of which it has `guest` at most until all is carried out."""

    overhead: Size | None
    guest: Size

    @property
    def path(self) -> str:
        return "share.memory_overhead"


@dataclasses.dataclass(frozen=True, slots=True)
class HoldDisks:
    """Hold all disks together to limits."""

    limits: share.Io

    @property
    def path(self) -> str:
        return "share.disks"


@dataclasses.dataclass(frozen=True, slots=True)
class HoldDisk:
    """Hold one disk to limits of its own."""

    disk: model.Disk
    together: share.Io

    @property
    def path(self) -> str:
        return f"disks[{self.disk.name}]"


@dataclasses.dataclass(frozen=True, slots=True)
class HoldNics:
    """Hold those NICs to a rate that have none of their own."""

    rate: share.NetRate
    nics: tuple[model.Nic, ...]

    @property
    def path(self) -> str:
        return "share.nics"


@dataclasses.dataclass(frozen=True, slots=True)
class HoldNic:
    """Hold one NIC to a rate."""

    nic: model.Nic
    rate: share.NetRate

    @property
    def path(self) -> str:
        return f"nics[{self.nic.name}]"


Hold = HoldCpu | HoldMemory | HoldDisks | HoldDisk | HoldNics | HoldNic


def changes(now: model.VMSpec, wanted: model.VMSpec, *, again: bool = False) -> Iterator[Hold]:
    """What a machine that is held to `now`'s share is to be told; `again`: all that is bounded in either, once more.

    Devices that only one of the two has are not looked at: they bring their limits, or take them away.
    """
    before, after = now.share, wanted.share
    if before.cpu != after.cpu or (again and after.cpu != share.Cpu()):
        yield HoldCpu(after.cpu)
    grows = wanted.memory != now.memory
    if before.memory_overhead != after.memory_overhead or (after.memory_overhead is not None and (grows or again)):
        yield HoldMemory(after.memory_overhead, max(now.memory, wanted.memory))
    if before.disks != after.disks or (again and not after.disks.none):
        yield HoldDisks(after.disks)
    present = {disk.name: disk for disk in now.disks}
    for disk in wanted.disks:
        had = present.get(disk.name)
        if had is not None and (had.limits != disk.limits or (again and not disk.limits.none)):
            yield HoldDisk(disk, after.disks)
    yield from _nics(now, wanted, again=again)


def ceiling(guest: int, overhead: int, first: int) -> int:
    """Bytes that QEMU may have in all, for a guest that has so many now and began with `first`.

    One that restarts has all that it began with, until its driver lets the balloon take it.
    """
    return max(guest, first) + overhead


def rate(spec: model.VMSpec, nic: model.Nic) -> share.NetRate:
    """What a NIC of a VM is held to."""
    return spec.share.nics if nic.rate is None else nic.rate


def without(spec: model.VMSpec) -> model.VMSpec:
    """The machine as it is before it was held to anything."""
    return spec.model_copy(
        update={
            "share": share.Share(),
            "disks": tuple(disk.model_copy(update={"limits": share.Io()}) for disk in spec.disks),
            "nics": tuple(nic.model_copy(update={"rate": None}) for nic in spec.nics),
        }
    )


def with_share_of(spec: model.VMSpec, other: model.VMSpec) -> model.VMSpec:
    """The machine, held to what another definition of it says of the same devices."""
    limits = {disk.name: disk.limits for disk in other.disks}
    rates = {nic.name: nic.rate for nic in other.nics}
    return spec.model_copy(
        update={
            "share": other.share,
            "disks": tuple(
                disk.model_copy(update={"limits": limits.get(disk.name, disk.limits)}) for disk in spec.disks
            ),
            "nics": tuple(nic.model_copy(update={"rate": rates.get(nic.name, nic.rate)}) for nic in spec.nics),
        }
    )


def is_bounded(spec: model.VMSpec) -> bool:
    """Whether it is held to anything at all."""
    return without(spec) != spec


def held(spec: model.VMSpec, hold: Hold) -> dict[str, Any]:
    """The fields of a machine's spec once it is held so."""
    match hold:
        case HoldCpu(cpu):
            return {"share": spec.share.model_copy(update={"cpu": cpu})}
        case HoldMemory(overhead):
            return {"share": spec.share.model_copy(update={"memory_overhead": overhead})}
        case HoldDisks(limits):
            return {"share": spec.share.model_copy(update={"disks": limits})}
        case HoldNics(rate):
            return {"share": spec.share.model_copy(update={"nics": rate})}
        case HoldDisk(disk):
            return {
                "disks": tuple(
                    one.model_copy(update={"limits": disk.limits}) if one.name == disk.name else one
                    for one in spec.disks
                )
            }
        case HoldNic(nic):
            return {
                "nics": tuple(
                    one.model_copy(update={"rate": nic.rate}) if one.name == nic.name else one for one in spec.nics
                )
            }


def merged(present: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """A document with a patch over it (RFC 7396): null takes away, which gives the default."""
    found = dict(present)
    for key, value in patch.items():
        if value is None:
            found.pop(key, None)
        elif isinstance(value, Mapping):
            inner = found.get(key)
            found[key] = merged(inner if isinstance(inner, Mapping) else {}, value)
        else:
            found[key] = value
    return found


def _card(nic: model.Nic) -> tuple[object, ...]:
    return nic.network, nic.model, nic.mac, nic.address


def _nics(now: model.VMSpec, wanted: model.VMSpec, *, again: bool) -> Iterator[Hold]:
    if now.share.nics != wanted.share.nics or (again and not wanted.share.nics.none):
        yield HoldNics(wanted.share.nics, tuple(nic for nic in wanted.nics if nic.rate is None))
    before = {nic.name: nic for nic in now.nics}
    for nic in wanted.nics:
        had, bound = before.get(nic.name), rate(wanted, nic)
        if had is None or _card(had) != _card(nic):  # it comes to a tap that knows nothing yet
            told = nic.rate is not None or not bound.none
        else:
            told = had.rate != nic.rate or (again and nic.rate is not None)
        if told:
            yield HoldNic(nic, bound)
