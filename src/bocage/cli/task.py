"""`bocage task`: what is being done and what was."""

from __future__ import annotations

from typing import Annotated

import typer

from bocage import words
from bocage.cli import failure, lazy, options, output, people, session, table, waiting
from bocage.client import rest
from bocage.words import N_

TaskUid = Annotated[str, typer.Argument(metavar="TASK", help="Its uid, or its beginning or end.")]
_COLUMNS = (
    table.Column("TASK"),
    table.Column("ACTION"),
    table.Column("SUBJECT", least=8),
    table.Column("STATE"),
    table.Column("DONE", right=True),
    table.Column("BEGAN"),
    table.Column("REMARK", least=10),
)


def list_tasks(
    all_: Annotated[bool, typer.Option("--all", help="Those that ended, too.")] = False,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="So many at most, the newest.")] = 50,
    json: options.Json = False,
) -> None:
    """List the tasks that are being done; with --all also what was done.

    Examples:
      bocage task list --all
    """
    with session.connect() as api:
        found = api.all_tasks.list()
    found["items"] = sorted(
        (one for one in found["items"] if all_ or not rest.ended(one)), key=lambda one: str(one["metadata"]["created"])
    )[-limit:]
    if json:
        output.document(found)
    elif not found["items"]:
        output.complain("nothing is being done" + ("" if all_ else "; 'bocage task list --all' shows what was"))
    else:
        output.line(table.render(_COLUMNS, [_row(one) for one in found["items"]]))


def _row(task: rest.Document) -> tuple[str, ...]:
    spec, status = task["spec"], task["status"]
    return (
        short(task["metadata"]["uid"]),
        spec["action"],
        (spec.get("subject") or {}).get("name") or people.NOTHING,
        status["state"],
        "" if rest.ended(task) else waiting.share(status.get("progress") or {}),
        people.ago(status.get("started") or task["metadata"]["created"]),
        people.saying(status.get("problem") or (None if rest.ended(task) else status.get("step"))),
    )


def short(uid: str) -> str:
    """The end of a uid, which tells tasks apart (their beginnings are a time)."""
    return uid.rpartition("-")[2]


def find(api: rest.Client, given: str) -> str:
    """The uid of the task whose uid begins or ends with `given`."""
    if len(given) == 36:
        return given
    tasks = [one["metadata"]["uid"] for one in api.all_tasks.list()["items"]]
    found = [uid for uid in tasks if uid.startswith(given) or uid.endswith(given)]
    if len(found) == 1 and given:
        return str(found[0])
    if not found:
        raise NoTask(given=given)
    raise failure.Usage(option="TASK", wrong=f"'{given}' is short for {len(found)} tasks", right="give more of it")


class NoTask(failure.Error):
    type = "no-task-like-this"
    status = 404
    text = N_("there is no task '{given}'")
    hint = N_("'bocage task list --all' shows them")
    given: str


def show(task: TaskUid, json: options.Json = False) -> None:
    """Show one task, with its log.

    Examples:
      bocage task show 4ef86ec98a57
    """
    with session.connect() as api:
        found = api.tasks.get(find(api, task))
    if json:
        output.document(found)
        return
    spec, status = found["spec"], found["status"]
    output.line(
        table.facts(
            [
                ("task", found["metadata"]["uid"]),
                ("action", waiting.describe(found)),
                ("state", status["state"]),
                ("step", people.saying(status.get("step")) if not rest.ended(found) else ""),
                ("progress", waiting.share(status.get("progress") or {})),
                ("problem", people.saying(status.get("problem"))),
                ("", people.hint(status.get("problem"))),
                ("asked by", words.asker(spec.get("asked_by") or "")),
                ("began", people.clock(status["started"]) if status.get("started") else ""),
                ("ended", people.clock(status["ended"]) if status.get("ended") else ""),
            ]
        )
    )
    for line in status.get("log") or ():
        output.line(f"{people.clock(line['time'])}  {table.clean(people.saying(line['said']))}")


def wait(
    task: TaskUid,
    timeout: Annotated[float | None, typer.Option(metavar="SECONDS", min=0, help="Not longer than this.")] = None,
    json: options.Json = False,
) -> None:
    """Wait until a task has ended; the exit code is the task's.

    Examples:
      bocage task wait 4ef86ec98a57 --timeout 600
    """
    with session.connect() as api:
        found = waiting.watch(api, api.tasks.get(find(api, task)), timeout=timeout)
    if json:
        output.document(found)
    waiting.check(found)
    if not rest.ended(found):
        raise failure.TaskFailed(
            sentence=f"{waiting.describe(found)} goes on after {timeout:g} s", advice="", http_status=504
        )
    if not json:
        output.line(f"{waiting.describe(found)}: {found['status']['state']}")


def cancel(task: TaskUid, json: options.Json = False) -> None:
    """Cancel a task; what it had begun is undone.

    Examples:
      bocage task cancel 4ef86ec98a57
    """
    with session.connect() as api:
        uid = find(api, task)
        found = api.tasks.cancel(uid)
        if not rest.ended(found):
            found = api.tasks.wait(found, every=5, timeout=30)
    if json:
        output.document(found)
    else:
        output.line(f"{waiting.describe(found)}: {found['status']['state']}")


NOUN = lazy.Group(
    "task",
    help="Tasks: what is being done and what was.",
    verbs={
        "Tasks": {
            "list": "task:list_tasks",
            "show": "task:show",
            "wait": "task:wait",
            "cancel": "task:cancel",
        }
    },
)
