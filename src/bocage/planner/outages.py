"""What is said when hosts fall silent: the steps of a failover, and what needs a person."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bocage import words
from bocage.model import base, ground, plan, standing
from bocage.planner.alarms import Condition
from bocage.words import N_

_NAMED = 20  # VMs that an alarm names


class EpochRaised(words.Message):
    type = "failover-epoch-raised"
    text = N_("{leader} has ended the life of {host}: none of its beats counts from now on")
    host: str
    leader: str


class LedBy(words.Message):
    type = "failover-led-by"
    text = N_("{leader} leads now, and goes on with it")
    leader: str


class PowerOrdered(words.Message):
    type = "failover-power-ordered"
    text = N_("the BMC of {host} was told to switch it off")
    host: str


class PowerRead(words.Message):
    type = "failover-power-read"
    text = N_("the BMC of {host} says that it is off")
    host: str


class PowerStillOn(words.Message):
    type = "failover-power-on"
    text = N_("the BMC of {host} says that it is still on")
    host: str


class BmcFailed(words.Message):
    type = "failover-bmc-failed"
    text = N_("the BMC of {host} does not do it: {problem:saying}")
    host: str
    problem: dict[str, Any]


class PersonConfirmed(words.Message):
    type = "failover-confirmed"
    text = N_("{by:asker} has answered for it that {host} has no power")
    host: str
    by: str


class _Proven(words.Message):
    """What proved it."""

    host: str


class ProvenByPower(_Proven):
    type = "failover-proven-power"
    text = N_("{host} is dead: its BMC has said twice, after the order, that it is off")


class ProvenByStorage(_Proven):
    type = "failover-proven-storage"
    text = N_("{host} is shut out: the storage lets nothing of it in")


class ProvenByTime(_Proven):
    type = "failover-proven-time"
    text = N_("{host} has stopped by now: its guard or its watchdog has seen to it")


class ProvenByWord(_Proven):
    type = "failover-proven-word"
    text = N_("{host} has said itself that nothing of that life runs any more")


class ProvenByPerson(_Proven):
    type = "failover-proven-person"
    text = N_("{host} is dead: a person has answered for it")


PROVEN: dict[str, type[_Proven]] = {
    "power": ProvenByPower,
    "storage": ProvenByStorage,
    "time": ProvenByTime,
    "word": ProvenByWord,
    "person": ProvenByPerson,
}


class Given(words.Message):
    type = "failover-vm-given"
    text = N_("{vm} is given to {to}, since {host} is dead")
    vm: str
    host: str
    to: str


class Returned(words.Message):
    type = "failover-returned"
    text = N_("{host} is back")
    host: str


class ReturnedWithout(words.Message):
    type = "failover-returned-without"
    text = N_("{host} is back; it was told, before it may run anything, that {vms} went to others")
    host: str
    vms: list[str]


class NothingToMove(words.Message):
    type = "failover-nothing-to-move"
    text = N_("{host} had nothing that another host could have; its power is left as it is")
    host: str


class Ended(words.Message):
    type = "failover-ended"
    text = N_("all that others could have of {host} is where it should be")
    host: str


class AsksBmc(words.Message):
    type = "failover-asks-bmc"
    text = N_("the BMC of {host} is being asked")
    host: str


class WaitsForTime(words.Message):
    type = "failover-waits-for-time"
    text = N_("until its guard and its watchdog must have stopped {host}: {left:seconds} after its life was ended")
    host: str
    left: float


class HostSilent(Condition):
    type = "alarm-host-silent"
    text = N_("{host} does not beat any more")
    hint = N_("'bocage failover show' says what becomes of its VMs")
    host: str


class HostDead(Condition):
    type = "alarm-host-dead"
    text = N_("{host} was taken out, and what others could have of it was given to them")
    hint = N_("'bocage failover show'; it may come back by itself once it is started")
    host: str


class WaitsForPerson(Condition):
    type = "alarm-failover-waits"
    text = N_("the VMs of {host} cannot be started elsewhere: no BMC is set for it that could prove that it is off")
    hint = N_("'bocage failover confirm {host}' when you have made sure yourself that it has no power")
    host: str


class WaitsForBmc(Condition):
    type = "alarm-failover-bmc-fails"
    text = N_("the VMs of {host} cannot be started elsewhere: its BMC does not say that it is off: {problem:saying}")
    hint = N_("'bocage failover confirm {host}' when you have made sure yourself that it has no power")
    host: str
    problem: dict[str, Any]


class MostSilent(Condition):
    type = "alarm-most-hosts-silent"
    text = N_("{hosts} fell silent together, more than half of all: no host is switched off, and no VM is moved")
    hint = N_("the network between the hosts is likelier the cause than their death; look at the switch first")
    hosts: list[str]


class NoHostForVm(Condition):
    type = "alarm-vm-without-host"
    text = N_("{vm} has no host since {host} is dead: {reason:saying}")
    hint = N_("it is given to one as soon as that is no longer so")
    vm: str
    host: str
    reason: dict[str, Any]


class NotSurvived(Condition):
    type = "alarm-not-survived"
    text = N_("if {failed} died, there would not be room for {vms}; the first of these: {reason:saying}")
    hint = N_("stop or shrink a VM, or add a host; 'bocage plan rebalance' may make room")
    failed: str
    vms: list[str]
    reason: dict[str, Any]

    @classmethod
    def of(cls, unsurvived: Sequence[plan.Unsurvived]) -> NotSurvived:
        """Of those that have no room when some hosts die: the first such hosts, and all that is short then."""
        first = unsurvived[0]
        short = [one.vm for one in unsurvived if one.hosts == first.hosts]
        return cls(failed=", ".join(first.hosts), vms=short[:_NAMED], reason=first.reason.model_dump())


class StandsStill(Condition):
    type = "alarm-standstill"
    text = N_("the cluster was shut down on purpose: nothing fails over, and what is off stays off")
    hint = N_("'bocage cluster show' says how far that is, 'bocage cluster start' ends it")


class BmcProves(words.Message):
    type = "proof-bmc"
    text = N_("its BMC at {address} switches it off, and says when it is off")
    address: str


class NoBmcProves(words.Message):
    type = "proof-bmc-none"
    text = N_("no BMC is set for {host}")
    hint = N_("'bocage host set {host} --bmc redfish://USER@ADDRESS' sets it")
    host: str


class BmcNotItsOwn(words.Message):
    type = "proof-bmc-not-its-own"
    text = N_("the BMC at {address} was not seen to be that of {host}")
    hint = N_("'bocage host show {host}' says what it tells of itself")
    host: str
    address: str


class TimeProves(words.Message):
    type = "proof-time"
    text = N_("its guard and its hardware watchdog stop it within a known time")


class NoTimeProves(words.Message):
    type = "proof-time-none"
    text = N_("it does not stop by itself when the store does not hear it")


class WordProves(words.Message):
    type = "proof-word"
    text = N_("its own word, when it comes back: 'nothing of that life runs any more'")


class PersonProves(words.Message):
    type = "proof-person"
    text = N_("a person's word, by 'bocage failover confirm {host}'")
    host: str


def proofs(host: ground.Host, *, by_time: bool) -> list[standing.Proof]:
    """By what its death can be shown, or why not. `by_time`: its guard and a tested watchdog bound its life."""
    bmc = host.spec.bmc
    power: words.Message
    if bmc is None:
        power = NoBmcProves(host=host.name)
    elif not host.bmc_is_its_own:
        power = BmcNotItsOwn(host=host.name, address=bmc.address)
    else:
        power = BmcProves(address=bmc.address)
    time: words.Message = TimeProves() if by_time else NoTimeProves()
    return [
        standing.Proof(kind="power", there=isinstance(power, BmcProves), said=base.Saying.of(power)),
        standing.Proof(kind="time", there=by_time, said=base.Saying.of(time)),
        standing.Proof(kind="word", there=True, said=base.Saying.of(WordProves())),
        standing.Proof(kind="person", there=True, said=base.Saying.of(PersonProves(host=host.name))),
    ]
