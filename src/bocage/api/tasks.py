"""Tasks: what is being done. The node carries them out; here they are read, waited for, cancelled."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Annotated

from fastapi import Query
from starlette.responses import Response

from bocage.api import answers, calls, paging, routing
from bocage.model import keys, work
from bocage.store import contract, resources

LONGEST_WAIT = 300.0  # seconds
_PROJECT = "default"

router = routing.router("task", "/tasks")
in_project = routing.router("task", routing.IN_PROJECT + "/tasks")

State = Annotated[work.TaskState | None, Query(description="Only those in this state.")]
Reading = Annotated[calls.Call, calls.may("task:read")]


@router.get("", name="list_all", response_model=answers.Listed[work.Task], responses=routing.problem_responses(410))
async def list_all(
    call: Reading, limit: paging.Limit = 100, after: paging.After = None, state: State = None
) -> Response:
    """All tasks, the oldest first."""
    keep = None if state is None else lambda view: view.state == state
    return await call.api.views.page(work.Task, None, limit=limit, after=after, keep=keep)


@in_project.get(
    "", name="list", response_model=answers.Listed[work.Task], responses=routing.problem_responses(404, 410)
)
async def list_(
    project: calls.Project,
    call: Reading,
    limit: paging.Limit = 100,
    after: paging.After = None,
    state: State = None,
) -> Response:
    """The tasks of a project, the oldest first."""
    keep = None if state is None else lambda view: view.state == state
    return await call.api.views.page(work.Task, project, limit=limit, after=after, keep=keep)


@router.get("/{uid}", name="get", response_model=work.Task, responses=routing.problem_responses(404))
async def get(
    uid: calls.Uid,
    call: Reading,
    wait: Annotated[float | None, Query(ge=0, le=LONGEST_WAIT, description="Seconds to wait for its end.")] = None,
) -> Response:
    """One task; with `wait`, when it has ended or after so many seconds."""
    task = await call.resources.get(work.Task, _PROJECT, uid)
    if wait and not task.status.state.ended:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                task = await _ended(call, task)
    return answers.one(task)


@in_project.get("/{uid}", name="get_in_project", response_model=work.Task, responses=routing.problem_responses(404))
async def get_in_project(
    project: calls.Project,
    uid: calls.Uid,
    call: Reading,
    wait: Annotated[float | None, Query(ge=0, le=LONGEST_WAIT, description="Seconds to wait for its end.")] = None,
) -> Response:
    """One task of a project."""
    return await get(uid, call, wait)


@router.post("/{uid}/cancel", name="cancel", response_model=work.Task, responses=routing.problem_responses(404, 409))
async def cancel(uid: calls.Uid, call: Annotated[calls.Call, calls.may("task:cancel")]) -> Response:
    """Ask for its end; what it had made is undone. A task that has ended stays as it is."""

    def ask(task: work.Task) -> work.Task | None:
        if task.status.state.ended or task.spec.cancel:
            return None
        return resources.with_spec(task, cancel=True)

    task = await call.resources.change(work.Task, _PROJECT, uid, ask)
    return answers.one(task)


async def _ended(call: calls.Call, task: work.Task) -> work.Task:
    """The task when it has ended, or when the daemon is about to."""
    store, place = call.resources.store, keys.base(work.Task.kind, task.metadata.project, task.uid)
    closing = asyncio.create_task(call.api.closing.wait())
    try:
        while not closing.done():
            revision = await store.revision()
            task = await call.resources.get(work.Task, task.metadata.project, task.uid)
            if task.status.state.ended:
                break
            async with contextlib.aclosing(store.watch(place, since=revision)) as watch:
                change = asyncio.ensure_future(anext(watch))
                try:
                    await asyncio.wait([change, closing], return_when=asyncio.FIRST_COMPLETED)
                finally:
                    change.cancel()
                    await asyncio.wait([change])
                if not change.cancelled() and isinstance(error := change.exception(), contract.Closed):
                    raise error
    finally:
        closing.cancel()
    return task
