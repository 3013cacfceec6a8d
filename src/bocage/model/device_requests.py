"""What people say of a VM's devices and its share: a new one, or changes of one."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from bocage.model import board as boards
from bocage.model import share as shares
from bocage.model import vm
from bocage.model.base import Name, Part
from bocage.model.firewall import IPv4, Peer
from bocage.model.ground import VolumeFormat
from bocage.model.units import Size


class DiskRequest(Part):
    """A disk: blank of `size`, or a volume that is there already."""

    size: Size | None = None
    volume: Name | None = None
    bus: vm.Bus | None = None
    cache: vm.Cache = vm.Cache.WRITEBACK
    format: VolumeFormat = VolumeFormat.QCOW2
    preallocated: bool = False
    serial: vm.Serial | None = None
    limits: shares.Io = shares.Io()

    @model_validator(mode="after")
    def _one_of(self) -> DiskRequest:
        if (self.size is None) == (self.volume is None):
            raise ValueError("give either the size of a new disk or the name of a volume")
        return self


class IoPatch(Part):
    """Changes of limits (RFC 7396: what is left out stays, null takes a limit away)."""

    iops: shares.Count | None = None
    rate: Size | None = None
    burst_iops: shares.Count | None = None
    burst_rate: Size | None = None
    burst_seconds: int | None = None


class RatePatch(Part):
    inward: Size | None = None
    outward: Size | None = None


class DiskPatch(Part):
    """Changes of a disk."""

    limits: IoPatch = IoPatch()


class CpuPatch(Part):
    weight: int | None = None
    cap: float | None = None
    pin: shares.CpuSet | None = None
    node: int | None = None
    reserve: float | None = None


class SharePatch(Part):
    """Changes of a VM's share (RFC 7396: what is left out stays, null gives back what is usual)."""

    cpu: CpuPatch | None = None
    memory_overhead: Size | None = None
    disks: IoPatch | None = None
    nics: RatePatch | None = None


class NicRequest(Part):
    network: Name = "default"
    model: vm.NicModel | None = None
    """None: what the VM's hardware says."""
    mac: vm.Mac | None = None
    publish: tuple[vm.Publish, ...] = ()
    connected: bool = True
    rate: shares.NetRate | None = None
    """None: that of every NIC of the VM."""
    ip: IPv4 | None = None
    """The address that the network's DHCP keeps for it; None: one is chosen."""
    allowed: Annotated[tuple[Peer, ...], Field(max_length=64)] = ()
    vlan: vm.Vlan | None = None
    trunk: Annotated[tuple[vm.Vlan, ...], Field(max_length=256)] = ()
    spoofing: Literal["deny", "allow"] = "deny"
    firewall: Annotated[tuple[Name, ...], Field(max_length=16)] = ()


class NicPatch(Part):
    """Changes of a NIC (RFC 7396: what is left out stays)."""

    network: Name | None = None
    publish: tuple[vm.Publish, ...] | None = None
    connected: bool | None = None
    rate: RatePatch | None = None
    """Null gives back that of every NIC of the VM."""
    ip: IPv4 | Literal["any"] | None = None
    """`any`: the network chooses."""
    allowed: Annotated[tuple[Peer, ...], Field(max_length=64)] | None = None
    vlan: vm.Vlan | Literal["none"] | None = None
    trunk: Annotated[tuple[vm.Vlan, ...], Field(max_length=256)] | None = None
    spoofing: Literal["deny", "allow"] | None = None
    firewall: Annotated[tuple[Name, ...], Field(max_length=16)] | None = None


class UsbRequest(Part):
    """A USB device of the host, by what it is or by where it is plugged in."""

    id: boards.UsbId | None = None
    serial: str | None = None
    port: str | None = None
