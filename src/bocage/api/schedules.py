"""What a VM's snapshot schedule would do now, before it does it."""

from __future__ import annotations

import datetime
import zoneinfo
from typing import Annotated

from fastapi import Query
from pydantic import BaseModel, Field
from starlette.responses import Response

from bocage import errors
from bocage.api import answers, calls, machines, problems, routing, snapshots
from bocage.model import base, schedule
from bocage.planner import parts, retention
from bocage.words import N_

router = routing.router("schedule", routing.IN_PROJECT + "/vms/{name}/schedule")

Reading = Annotated[calls.Call, calls.may("vm:read")]


class NoSchedule(problems.Error, errors.Conflict):
    type = "vm-has-no-schedule"
    text = N_("{name} has no schedule of snapshots")
    hint = N_("'bocage vm snapshot schedule {name} hourly=24,daily=7' gives it one")
    name: str


class Kept(BaseModel):
    name: str
    taken: datetime.datetime
    periods: list[schedule.Period] = Field(description="Those whose first snapshot it is.")


class Plan(BaseModel):
    """What a schedule would do at a moment."""

    zone: str
    take: bool = Field(description="Whether one is due.")
    memory: bool = Field(description="Whether the memory of a VM that runs is taken, too.")
    due: datetime.datetime = Field(description="When the present period began.")
    next: datetime.datetime
    keep: list[Kept]
    drop: list[str]


@router.get("", name="plan", response_model=Plan, responses=routing.problem_responses(404, 409))
async def plan(
    project: calls.Project,
    name: calls.Name,
    call: Reading,
    keep: Annotated[str | None, Query(max_length=200, description="Another one: `hourly=24,daily=7`.")] = None,
    at: Annotated[str | None, Query(max_length=5, description="When its days begin: `02:00`.")] = None,
    zone: Annotated[str | None, Query(max_length=64, description="Its time zone.")] = None,
    memory: Annotated[bool | None, Query(description="Whether with the memory of a VM that runs.")] = None,
) -> Response:
    """The decision of the VM's schedule, or of another one, on the snapshots that schedules have made."""
    machine = await machines.find(call, project, name)
    wanted = machine.spec.snapshots
    given = {
        "at": at or (wanted.at if wanted else "00:00"),
        "zone": zone or (wanted.zone if wanted else None),
        "memory": memory if memory is not None else wanted is not None and wanted.memory,
    }
    if keep is not None:
        counts = parts.validated(schedule.SnapshotSchedule, keep, "keep").keep  # type: ignore[arg-type]
        wanted = parts.validated(schedule.SnapshotSchedule, {"keep": counts, **given}, "")
    elif wanted is not None:
        wanted = parts.validated(schedule.SnapshotSchedule, {**dict(wanted), **given}, "")
    else:
        raise NoSchedule(name=machine.name)
    host = await machines.carrier(call, machine)
    place = wanted.zone or (host.status.time_zone if host else "UTC")
    known = [one for one in await snapshots.of(call, machine) if one.spec.scheduled]
    when = {one.uid: one.status.taken or one.metadata.created for one in known}
    taken = [retention.Taken(uid=one.uid, name=one.name, when=when[one.uid]) for one in known]
    decision = retention.decide(wanted, taken, now=base.now(), zone=zoneinfo.ZoneInfo(place))
    answer = Plan(
        zone=place,
        take=decision.take,
        memory=wanted.memory,
        due=decision.due,
        next=decision.next,
        keep=[Kept(name=one.taken.name, taken=one.taken.when, periods=list(one.periods)) for one in decision.keep],
        drop=[one.name for one in decision.drop],
    )
    return answers.json(answer.model_dump_json())
