"""What one host can carry at all: said when a VM is defined, where QEMU would say it at the start."""

from __future__ import annotations

from bocage import words
from bocage.model import faults, ground, vm
from bocage.words import N_


class MoreThanHost(faults.Fault):
    type = "fault-memory-beyond-host"
    text = N_("{given} is more memory than the host has")
    hint = N_("less than the {total} of {host}, which needs some for itself")
    given: str
    total: str
    host: str


class MoreThanSystem(faults.Fault):
    """The guest's system would not run with it."""

    type = "fault-beyond-system"
    text = N_("{given} is more than {os} can take")
    hint = N_("{most} at most; 'spec.hardware.limits' says so, and whoever knows better can change it there")
    given: str
    most: str
    os: str


class NoSuchTag(faults.Fault):
    type = "fault-host-lacks-tag"
    text = N_("{host} has no tag {given}, and no other host reaches the VM's storage")
    hint = N_("'bocage host set {host} --tag {given}' gives it, beside the tags that it has")
    given: str
    host: str


def check(spec: vm.VMSpec, host: ground.Host | None, *, present: vm.VMSpec | None = None, path: str = "") -> None:
    """Raise errors.InvalidFields when the host could never start it; `path` is that of the spec in the request.

    What is as it is in `present` is not looked at: a VM that came from a larger host can be changed all the same.
    """
    _check_system(spec, present, path)
    _check_tags(spec, host, present, path)
    total = host.status.memory_bytes if host else 0
    if host is None or not total or spec.memory <= total or (present and present.memory == spec.memory):
        return
    fault = MoreThanHost(given=str(spec.memory), total=words.size(total), host=host.name)
    raise faults.problem([faults.At(f"{path}.memory" if path else "memory", fault)])


def _check_tags(spec: vm.VMSpec, host: ground.Host | None, present: vm.VMSpec | None, path: str) -> None:
    """Hold the spec against the one host that could have it."""
    wanted = spec.placement.host_tags
    if host is None or (present and present.placement.host_tags == wanted):
        return
    at = f"{path}.placement.host_tags" if path else "placement.host_tags"
    lacking = [tag for tag in wanted if tag not in host.metadata.tags]
    if lacking:
        raise faults.problem([faults.At(at, NoSuchTag(given=tag, host=host.name)) for tag in lacking])


def _check_system(spec: vm.VMSpec, present: vm.VMSpec | None, path: str) -> None:
    """Hold the spec against what its guest's system can use at all."""
    most, os = spec.hardware.limits, spec.hardware.os or "its system"
    found: list[faults.At] = []
    for field, given, bound in (("cpus", spec.cpus, most.cpus), ("memory", spec.memory, most.memory)):
        amount = given.count if isinstance(given, vm.Cpus) else int(given)
        if bound is None or amount <= bound or (present and getattr(present, field) == given):
            continue
        fault = MoreThanSystem(given=str(amount if field == "cpus" else given), most=str(bound), os=os)
        found.append(faults.At(f"{path}.{field}" if path else field, fault))
    if found:
        raise faults.problem(found)
