"""Waiting for tasks: a bar on a terminal, silence elsewhere, and what came of them."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

from bocage.cli import failure, output, people, table
from bocage.client import rest

_LOOK = 0.4  # seconds between two looks while a bar is shown
_BEFORE_BAR = 0.6  # what is done sooner needs no bar
Watch = Callable[[rest.Document], None]


def finish(
    api: rest.Client, task: rest.Document, *, wait: bool, json: bool, said: str | Callable[[rest.Document], str]
) -> rest.Document:
    """See a task to its end and tell how it went; `said` is the line for a person when it is done, or makes it.

    Raises failure.TaskFailed. Without `wait` it only says which task it is.
    """
    tell_warnings(task)
    if wait:
        task = watch(api, task)
    if json:
        output.document(task)
    elif not wait:
        output.line(f"{describe(task)}: 'bocage task wait {task['metadata']['uid']}' waits for it")
    if wait:
        check(task)
        if not json:
            output.line(said if isinstance(said, str) else said(task))
    return task


def tell_warnings(task: rest.Document) -> None:
    """Say what the asker should know though it is done; in front of all that may go wrong."""
    for warning in task["spec"].get("warnings") or ():
        output.complain(table.paragraph(people.saying(warning), lead="note: "))
        if hint := people.hint(warning):
            output.complain(table.paragraph(hint, lead="  → "))


def watch(api: rest.Client, task: rest.Document, *, timeout: float | None = None) -> rest.Document:
    """The task as it ended (or is after `timeout` seconds); Ctrl-C leaves it going on, and says so."""
    try:
        with _interruptible() as check_pressed:
            if not output.interactive():
                return api.tasks.wait(task, on_progress=check_pressed, timeout=timeout)
            task = api.tasks.wait(task, on_progress=check_pressed, every=_BEFORE_BAR, timeout=_BEFORE_BAR)
            if rest.ended(task):
                return task
            with _bar(task) as show:

                def look(now: rest.Document) -> None:
                    check_pressed(now)
                    show(now)

                return api.tasks.wait(task, on_progress=look, every=_LOOK, timeout=timeout)
    except KeyboardInterrupt:
        uid = task["metadata"]["uid"]
        output.complain(f"\nthe task goes on; 'bocage task cancel {uid}' ends it")
        raise


@contextlib.contextmanager
def _interruptible() -> Iterator[Watch]:
    """What is called now and then raises KeyboardInterrupt when Ctrl-C was pressed and got lost.

    Python raises it wherever the program is just then; in a destructor or a callback it is dropped.
    """
    pressed = False

    def note(number: int, frame: object) -> None:
        nonlocal pressed
        pressed = True
        raise KeyboardInterrupt

    def check_pressed(task: rest.Document) -> None:
        if pressed:
            raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # the asker has us ignore it
        yield check_pressed
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield check_pressed
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def check(task: rest.Document) -> None:
    """Raise failure.TaskFailed when the task did not come to a good end."""
    status = task["status"]
    if status["state"] == "failed":
        problem = status.get("problem")
        raise failure.TaskFailed(
            sentence=people.saying(problem) or f"{describe(task)} failed",
            advice=people.hint(problem) or f"'bocage task show {task['metadata']['uid']}' has its log",
            http_status=status.get("http_status") or 500,
        )
    if status["state"] == "cancelled":
        raise failure.TaskFailed(sentence=f"{describe(task)} was cancelled", advice="", http_status=500)


def describe(task: rest.Document) -> str:
    """Such as `vm.start web1`."""
    subject = task["spec"].get("subject") or {}
    return " ".join(part for part in (task["spec"]["action"], subject.get("name")) if part)


def share(progress: dict[str, Any]) -> str:
    """How far a task is, for a table."""
    done, total, unit = progress.get("done") or 0, progress.get("total") or 0, progress.get("unit")
    if total:
        return f"{min(100, 100 * done / total):.0f} %"
    return people.size(int(done)) if unit == "bytes" and done else ""


@contextlib.contextmanager
def _bar(task: rest.Document) -> Iterator[Watch]:
    from rich import console, progress

    columns = (
        progress.SpinnerColumn(),
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(bar_width=20),
        progress.TextColumn("{task.fields[amount]}", markup=False),
        progress.TimeElapsedColumn(),
    )
    with progress.Progress(*columns, console=console.Console(stderr=True), transient=True) as bars:
        one = bars.add_task(describe(task), total=None, amount="")

        def show(now: rest.Document) -> None:
            at = now["status"].get("progress") or {}
            step = people.saying(now["status"].get("step"))
            bars.update(
                one,
                description=f"{describe(now)}: {step}"[:44] if step else describe(now),
                total=at.get("total") or None,
                completed=at.get("done") or 0,
                amount=_amount(at),
            )

        show(task)
        yield show


def _amount(at: dict[str, Any]) -> str:
    if at.get("unit") != "bytes":
        return ""
    done = people.size(int(at.get("done") or 0))
    return f"{done}/{people.size(int(at['total']))}" if at.get("total") else done
