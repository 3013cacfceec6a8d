"""Alarms: conditions that a person should know of, until they no longer hold."""

from __future__ import annotations

from typing import Annotated

from starlette.responses import Response

from bocage.api import answers, calls, paging, routing
from bocage.model import base, work
from bocage.store import resources

router = routing.router("alarm", "/alarms")


@router.get("", name="list", response_model=answers.Listed[work.Alarm], responses=routing.problem_responses(410))
async def list_(
    call: Annotated[calls.Call, calls.may("alarm:read")], limit: paging.Limit = 100, after: paging.After = None
) -> Response:
    """All alarms."""
    return await call.api.views.page(work.Alarm, None, limit=limit, after=after)


@router.post(
    "/{uid}/acknowledge", name="acknowledge", response_model=work.Alarm, responses=routing.problem_responses(404)
)
async def acknowledge(uid: calls.Uid, call: Annotated[calls.Call, calls.may("alarm:acknowledge")]) -> Response:
    """Say that it was seen; it stays while its condition holds."""
    alarm = await _find(call, uid)

    def seen(present: work.Alarm) -> work.AlarmStatus | None:
        if present.status.acknowledged:
            return None
        return work.AlarmStatus(acknowledged=base.now(), acknowledged_by=call.asker.name)

    changed = await call.resources.change_status(work.Alarm, alarm.metadata.project, alarm.uid, seen)
    return answers.one(changed)


async def _find(call: calls.Call, uid: str) -> work.Alarm:
    for alarm in (await call.resources.list(work.Alarm)).items:
        if alarm.uid == uid:
            return alarm
    raise resources.Missing(kind=work.Alarm.kind, name=uid[:80])
