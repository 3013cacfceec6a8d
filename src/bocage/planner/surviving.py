"""What one VM survives, in plain words: the loss of its disk, of its host, of the site, and a slip of the hand."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Collection, Sequence
from typing import Literal

from bocage import words
from bocage.model import base, ground, snapshot
from bocage.model import vm as model
from bocage.model.failover import Failover
from bocage.planner import failing, placement
from bocage.planner import snapshot as worlds
from bocage.words import N_


class Loss(base.Part):
    """One thing that may happen, and what becomes of a VM then."""

    loss: Literal["disk", "host", "site", "slip"]
    answer: Literal["yes", "partly", "no"]
    """Whether it is there again; `partly`: not by itself, or not as it was."""
    said: base.Saying
    shown: datetime.datetime | None = None
    """When that was last seen to be so; None: never."""


@dataclasses.dataclass(frozen=True, slots=True)
class Facts:
    """All that the answer depends on."""

    machine: model.VM
    storages: Sequence[ground.Storage]  # of its directory and its disks
    hosts: Collection[ground.Host]
    homes: failing.Homes  # were its host to die
    by_time: bool = False  # whether time can prove its host's death
    snapshots: Sequence[snapshot.Snapshot] = ()
    failovers: Sequence[Failover] = ()


class Mirrored(words.Message):
    type = "survives-disk-mirrored"
    text = N_("each storage that it lies on has all of it on two disks")


class MirrorBroken(words.Message):
    type = "survives-disk-mirror-broken"
    text = N_("the storage {storage} is a mirror that lacks a disk just now")
    storage: str


class OneDisk(words.Message):
    type = "survives-disk-one"
    text = N_("as far as is known here, {storage} lies on one disk, and no copy of it is anywhere else")
    hint = N_("a storage on two disks ('bocage storage create NAME --disk DEVICE --mirror DEVICE') survives one")
    storage: str


class ArraysMatter(words.Message):
    type = "survives-disk-array"
    text = N_("that is the matter of what {storage} lies on; it is not seen from here")
    storage: str


class StartsOn(words.Message):
    type = "survives-host-starts"
    text = N_("its host's death is proven by {proof}, and then it starts on {host} by itself")
    proof: str
    host: str


class StaysOff(words.Message):
    type = "survives-host-off"
    text = N_("it is off, and stays so; {host} has it then, and can start it")
    host: str


class NeedsPerson(words.Message):
    type = "survives-host-person"
    text = N_("{host} could have it, once a person has answered for it that its host is off")
    hint = N_("set the host's BMC ('bocage host set NAME --bmc redfish://USER@ADDRESS'): it proves that by itself")
    host: str


class NotWithHost(words.Message):
    type = "survives-host-no"
    text = N_("no other host could have it: {reason:saying}")
    reason: dict[str, object]


class NoBackup(words.Message):
    type = "survives-site-no"
    text = N_("nothing of it is kept outside of this site")
    hint = N_("'bocage vm export NAME FILE' makes a file that can be carried away")


class Snapshots(words.Message):
    type = "survives-slip-snapshots"
    text = N_("{count} snapshots lead back, the newest of {newest}; one that is deleted lies in the trash for a week")
    count: int
    newest: str


class TrashOnly(words.Message):
    type = "survives-slip-trash"
    text = N_("one that is deleted lies in the trash for a week, but nothing leads back from what its guest did")
    hint = N_("'bocage vm snapshot create NAME' keeps a moment; 'bocage vm snapshot schedule NAME' does so by itself")


def losses(of: Facts) -> list[Loss]:
    """Each of the four, in the order of how often they happen last."""
    return [_disk(of), _host(of), _loss("site", "no", NoBackup()), _slip(of)]


def _loss(
    loss: Literal["disk", "host", "site", "slip"],
    answer: Literal["yes", "partly", "no"],
    said: words.Message,
    shown: datetime.datetime | None = None,
) -> Loss:
    return Loss(loss=loss, answer=answer, said=base.Saying.of(said), shown=shown)


def _disk(of: Facts) -> Loss:
    """The weakest of its storages decides."""
    for one in of.storages:
        mirror = one.status.mirror
        if not one.shared and mirror is None:
            return _loss("disk", "no", OneDisk(storage=one.name))
        if mirror is not None and mirror.working < 2:
            return _loss("disk", "no", MirrorBroken(storage=one.name))
    for one in of.storages:
        if one.shared:
            return _loss("disk", "partly", ArraysMatter(storage=one.name))
    return _loss("disk", "yes", Mirrored())


def _host(of: Facts) -> Loss:
    machine = of.machine
    key = worlds.key(machine.metadata.project, machine.name)
    to = of.homes.where.get(key)
    if to is None:
        why = of.homes.nowhere.get(key)
        reason = base.Saying.of(why or placement.NoHosts())
        return _loss("host", "no", NotWithHost(reason=reason.model_dump()))
    shown = max(
        (
            one.started
            for failover in of.failovers
            for one in failover.status.vms
            if one.vm.uid == machine.uid and one.started is not None
        ),
        default=None,
    )
    own = next((one for one in of.hosts if one.uid == machine.status.host), None)
    proof = "its BMC" if own is not None and own.bmc_is_its_own else "time" if of.by_time else ""
    if not proof:
        return _loss("host", "partly", NeedsPerson(host=to), shown)
    if machine.spec.power not in (model.Power.RUNNING, model.Power.PAUSED):
        return _loss("host", "yes", StaysOff(host=to), shown)
    return _loss("host", "yes", StartsOn(proof=proof, host=to), shown)


def _slip(of: Facts) -> Loss:
    taken = [one.status.taken for one in of.snapshots if one.status.state == "ready" and one.status.taken]
    if not taken:
        return _loss("slip", "partly", TrashOnly())
    return _loss("slip", "yes", Snapshots(count=len(taken), newest=f"{max(taken):%Y-%m-%d %H:%M} UTC"))
