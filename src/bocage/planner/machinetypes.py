"""How long QEMU will build a machine type: told a year ahead, before an upgrade of it takes a VM's board away.

QEMU drops the machine types of version X.Y with its version X+6.Y (docs/about/deprecated, "Versioned machine
types"); its versions come out in April, August and December, the major one raised each April.
"""

from __future__ import annotations

import datetime
import re

from bocage import errors
from bocage.model import ground
from bocage.model import vm as model
from bocage.planner import hardware
from bocage.words import N_

AHEAD = datetime.timedelta(days=365)
_KEPT = 6  # major versions
_MONTHS = (4, 8, 12)  # of the versions .0, .1 and .2
_FIRST = 4  # the first major version of that calendar, in _FIRST_YEAR
_FIRST_YEAR = 2019
_VERSIONED = re.compile(r"pc-(q35|i440fx)-(\d+)\.(\d+)")


class Error(errors.Problem):
    """A board cannot be moved to another machine type."""


class AlreadyNewest(Error, errors.Conflict):
    type = "hardware-already-newest"
    text = N_("{name} has the newest machine type of this host: {machine}")
    name: str
    machine: str


class SavedOnOld(Error, errors.Conflict):
    """What was saved fits the board that it was saved on."""

    type = "hardware-has-saved-memory"
    text = N_("the memory of {name} is saved, and fits the machine type {machine} alone")
    hint = N_("'bocage vm start {name}' goes on from there; stop it, then try again")
    name: str
    machine: str


def dropped(machine: str) -> datetime.date | None:
    """When the QEMU comes out that no longer builds this type; None for one without a version."""
    match = _VERSIONED.fullmatch(machine)
    if not match:
        return None
    major, minor = int(match[2]), int(match[3])
    if major < _FIRST:
        major, minor = _FIRST, 0  # they went, or go, with those
    year = _FIRST_YEAR + major - _FIRST + _KEPT
    return datetime.date(year, _MONTHS[min(minor, len(_MONTHS) - 1)], 1)


def ends_soon(machine: str, host: ground.HostStatus, today: datetime.date) -> bool:
    """Whether QEMU is about to drop the type, or says itself that it will."""
    end = dropped(machine)
    return machine in host.ending or (end is not None and today >= end - AHEAD)


def is_gone(machine: str, host: ground.HostStatus) -> bool:
    """Whether the host's QEMU no longer builds the type."""
    return bool(host.types) and machine not in host.types


def upgraded(vm: model.VM, host: ground.Host) -> model.Hardware:
    """The board on the host's newest machine type of its kind; all else stays as and where it is.

    Raises AlreadyNewest, SavedOnOld and hardware.NoMachine.
    """
    board = vm.spec.hardware
    alias = hardware.alias_of(board)
    if alias not in host.status.machines:
        raise hardware.NoMachine(alias=alias, known=sorted(host.status.machines))
    newest = host.status.machines[alias]
    if newest == board.machine or _version(newest) < _version(board.machine):
        raise AlreadyNewest(name=vm.name, machine=board.machine)
    if vm.status.state is model.State.SAVED:
        raise SavedOnOld(name=vm.name, machine=board.machine)
    return board.model_copy(update={"machine": newest})


def _version(machine: str) -> tuple[int, int]:
    match = _VERSIONED.fullmatch(machine)
    return (int(match[2]), int(match[3])) if match else (0, 0)
