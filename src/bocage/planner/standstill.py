"""Shutting a whole cluster down and starting it again, stage by stage: what is next, from what is seen.

Level-triggered: asked again and again, by whoever leads at that moment, so that any of it may die at any step.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Iterable, Mapping

from bocage.model import vm as model
from bocage.model.standstill import Standstill
from bocage.planner import order

STARTED_WITHIN = 120.0  # seconds that those of one stage get to run before the next ones start all the same
_MARGIN = 5.0  # seconds beyond a guest's time to switch off until it is named
_WANTED = (model.Power.RUNNING, model.Power.PAUSED)
_OFF = (model.State.STOPPED, model.State.SAVED, model.State.CRASHED)
_UP = (model.State.RUNNING, model.State.PAUSED)


def begin(
    machines: Iterable[model.VM], *, by: str, now: datetime.datetime, within: float | None = None, kill: bool = False
) -> Standstill:
    """All that should run goes off, the last stage first."""
    ran = [one for one in machines if one.spec.power in _WANTED and one.metadata.deleted is None]
    stages = tuple(tuple(one.uid for one in stage) for stage in order.stages(ran))
    up_to = max(len(stages) - 1, 0)
    return Standstill(asked_by=by, since=now, within=within, kill=kill, stages=stages, up_to=up_to, begun=now)


def again(before: Standstill, *, within: float | None, kill: bool, now: datetime.datetime) -> Standstill:
    """Asked for once more: with the plug, or while it was about to start again."""
    changes: dict[str, object] = {"kill": kill, "within": within, "begun": now, "stuck": ()}
    if before.phase == "starting":
        changes |= {"phase": "stopping", "up_to": max(before.up_to - 1, 0)}
    return before.model_copy(update=changes)


def start(before: Standstill, *, now: datetime.datetime) -> Standstill:
    """It is over, wherever it was: what is off starts, the first stage first."""
    if before.phase == "starting":
        return before
    return before.model_copy(update={"phase": "starting", "up_to": max(before.up_to, 1), "begun": now, "stuck": ()})


def step(
    before: Standstill,
    machines: Mapping[str, model.VM],
    boots: Mapping[str, str],
    *,
    silent: Collection[str] = (),
    now: datetime.datetime,
) -> Standstill | None:
    """What is next; None: all stages were started, and the cluster works as ever.

    `boots` are the present boots of all hosts; `silent` those of which nothing is heard.
    """
    match before.phase:
        case "stopping":
            return _stopping(before, machines, boots, silent, now)
        case "down":
            back = all(boots.get(host, "") != boot and host not in silent for host, boot in before.boots.items())
            return start(before, now=now) if back and before.boots else before
        case "starting":
            return _starting(before, machines, now)


def left(of: Standstill, machines: Mapping[str, model.VM]) -> list[str]:
    """The VMs, by uid, that are waited for: those that are still to go off, or those of the stage that starts."""
    if of.phase == "starting":
        stage = of.stages[of.up_to - 1] if of.stages else ()
        return [uid for uid in stage if uid in machines and not _has_started(machines[uid])]
    going = (uid for stage in of.stages[of.up_to :] for uid in stage)
    there = [machines[uid] for uid in going if uid in machines]
    return [one.uid for one in there if one.status.state not in _OFF and one.status.host is not None]


def _stopping(
    before: Standstill,
    machines: Mapping[str, model.VM],
    boots: Mapping[str, str],
    silent: Collection[str],
    now: datetime.datetime,
) -> Standstill:
    """A silent host's VMs are waited for, too, unless the plug is to be pulled anyway."""
    going = [machines[uid] for uid in left(before, machines)]
    there = [one for one in going if not (before.kill and one.status.host in silent)]
    if not there and before.up_to > 0:
        return before.model_copy(update={"up_to": before.up_to - 1, "begun": now, "stuck": ()})
    if not there:
        known = {host: boot for host, boot in boots.items() if host not in silent}  # who is gone may never be back
        return before.model_copy(update={"phase": "down", "begun": now, "stuck": (), "boots": known})
    gone = (now - before.begun).total_seconds()
    late = tuple(one.uid for one in there if gone > (before.within or one.spec.stop.within) + _MARGIN)
    return before.model_copy(update={"stuck": late})


def _starting(before: Standstill, machines: Mapping[str, model.VM], now: datetime.datetime) -> Standstill | None:
    waits = left(before, machines)
    if waits and (now - before.begun).total_seconds() <= STARTED_WITHIN:
        return before
    if before.up_to >= len(before.stages):
        return None
    stuck = (*before.stuck, *waits)
    return before.model_copy(update={"up_to": before.up_to + 1, "begun": now, "stuck": stuck})


def _has_started(machine: model.VM) -> bool:
    return machine.status.state in _UP or machine.spec.power not in _WANTED
