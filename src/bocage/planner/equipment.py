"""A VM's devices, one by one: disks, NICs, USB devices and drives that come, change and go."""

from __future__ import annotations

from bocage.model import device_requests, ground, share
from bocage.model import vm as model
from bocage.planner import definition, hardware, parts, shares

_OF_NIC = ("connected", "allowed", "trunk", "spoofing", "firewall")


def attach(
    vm: model.VM, request: device_requests.DiskRequest, facts: parts.Facts, *, storage: ground.Storage
) -> definition.Definition:
    """The VM with one more disk. Raises the errors of `parts` and `hardware`, and errors.InvalidFields."""
    made = _parts_of(vm, storage)
    made.disk(request, facts)
    changed = definition.with_spec(vm, disks=tuple(made.disks))
    hardware.check(changed.spec)
    return definition.Definition(changed, tuple(made.volumes))


def attach_nic(
    vm: model.VM, request: device_requests.NicRequest, facts: parts.Facts, *, storage: ground.Storage
) -> model.VM:
    """The VM with one more NIC, the last. Raises the errors of `parts` and `hardware`, and errors.InvalidFields."""
    made = _parts_of(vm, storage)
    changed = definition.with_spec(vm, nics=(*vm.spec.nics, made.nic(request, facts)))
    hardware.check(changed.spec)
    return changed


def attach_usb(vm: model.VM, request: device_requests.UsbRequest) -> model.VM:
    """The VM with one more USB device of its host. Raises the errors of `fitting`, and errors.InvalidFields."""
    changed = vm.model_copy(update={"spec": definition.with_usb(vm.spec, request)})
    hardware.check(changed.spec)
    return changed


def detach_usb(vm: model.VM, name: str) -> model.VM:
    """The VM without its USB device `name`; it may also be told by what it is. Raises NoSuchDevice."""
    found = [one for one in vm.spec.usb if name in (one.name, one.id, one.port)]
    if len(found) != 1:
        raise parts.NoSuchDevice(vm=vm.name, kind="USB device", name=name[:80])
    return definition.with_spec(vm, usb=tuple(one for one in vm.spec.usb if one != found[0]))


def detach_nic(vm: model.VM, name: str) -> model.VM:
    """The VM without the NIC `name`. Raises NoSuchDevice."""
    _nic(vm, name)
    return definition.with_spec(
        vm, nics=tuple(nic for nic in vm.spec.nics if nic.name != name), boot=vm.spec.boot.without(name)
    )


def change_nic(vm: model.VM, name: str, patch: device_requests.NicPatch, facts: parts.Facts) -> model.VM:
    """The VM with the fields of `patch` that are set in its NIC `name`. Raises NoSuchDevice and NoSuch."""
    changed = {one: getattr(patch, one) for one in _OF_NIC if getattr(patch, one) is not None}
    if patch.ip is not None:
        changed["ip"] = None if patch.ip == "any" else patch.ip
    if patch.vlan is not None:
        changed["vlan"] = None if patch.vlan == "none" else patch.vlan
    parts.check_groups(facts, patch.firewall or ())
    if patch.network is not None:
        changed["network"] = parts.named(facts.networks, "network", patch.network).uid
    if patch.publish is not None:
        changed["publish"] = patch.publish
    if "rate" in patch.model_fields_set:
        changed["rate"] = _rate(_nic(vm, name), patch.rate)
    nic = _nic(vm, name).model_copy(update=changed)
    if nic.vlan or nic.trunk or nic.ip or nic.allowed or nic.firewall or nic.spoofing == "allow":
        parts.check_network(_by_uid(facts, nic.network), nic)
    return definition.with_spec(vm, nics=tuple(nic if one.name == name else one for one in vm.spec.nics))


def change_disk(vm: model.VM, name: str, patch: device_requests.DiskPatch) -> model.VM:
    """The VM with other limits of its disk `name`. Raises NoSuchDevice and errors.InvalidFields."""
    disk = next((one for one in vm.spec.disks if one.name == name), None)
    if disk is None:
        raise parts.NoSuchDevice(vm=vm.name, kind="disk", name=name[:80])
    limits = shares.merged(disk.limits.model_dump(), patch.limits.model_dump(exclude_unset=True))
    changed = disk.model_copy(update={"limits": parts.validated(share.Io, limits, "limits")})
    return definition.with_spec(vm, disks=tuple(changed if one.name == name else one for one in vm.spec.disks))


def change_cd(vm: model.VM, name: str, image: ground.Image | None) -> model.VM:
    """The VM with another image in its drive `name`; None empties it.

    Raises NoSuchDevice, NotACd and NotAFloppy.
    """
    drive = next((cd for cd in vm.spec.cds if cd.name == name), None)
    if drive is None:
        raise parts.NoSuchDevice(vm=vm.name, kind="drive", name=name)
    if image:
        parts.check_medium(drive, image)
    content = image.uid if image else None
    cds = (cd.model_copy(update={"image": content}) if cd.name == name else cd for cd in vm.spec.cds)
    return definition.with_spec(vm, cds=tuple(cds))


def _rate(nic: model.Nic, patch: device_requests.RatePatch | None) -> share.NetRate | None:
    if patch is None:
        return None
    before = nic.rate.model_dump() if nic.rate else {}
    return parts.validated(share.NetRate, shares.merged(before, patch.model_dump(exclude_unset=True)), "rate")


def _by_uid(facts: parts.Facts, uid: str) -> ground.Network:
    for network in facts.networks.values():
        if network.uid == uid:
            return network
    raise parts.NoSuch(kind="network", name=uid)


def _nic(vm: model.VM, name: str) -> model.Nic:
    for nic in vm.spec.nics:
        if nic.name == name:
            return nic
    raise parts.NoSuchDevice(vm=vm.name, kind="NIC", name=name[:80])


def _parts_of(vm: model.VM, storage: ground.Storage) -> parts.Parts:
    """What a VM's board holds already."""
    made = parts.Parts(
        uid=vm.uid, name=vm.name, project=vm.metadata.project or "", board=vm.spec.hardware, storage=storage
    )
    made.disks = list(vm.spec.disks)
    made.names = {device.name for device in vm.spec.devices}
    made.addresses = set(hardware.used_addresses(vm.spec))
    made.macs = {nic.mac for nic in vm.spec.nics}
    made.units = {(bus, unit) for bus in model.Bus for unit in hardware.used_units(vm.spec, bus)}
    return made
