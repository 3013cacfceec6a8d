"""What is being done and what happened: tasks, events, alarms, tokens."""

from __future__ import annotations

import datetime
import enum
from collections.abc import Iterable
from typing import Any, ClassVar

from bocage import words
from bocage.model.base import Metadata, Part, Ref, Resource, Saying, Severity, now, timed_uid


class TaskState(enum.StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self in (TaskState.DONE, TaskState.FAILED, TaskState.CANCELLED)


class TaskSpec(Part):
    action: str
    """Such as `vm.start` or `image.add`."""
    subject: Ref | None = None
    host: str | None = None
    """The uid of the host that carries it out."""
    params: dict[str, Any] = {}
    cancel: bool = False
    asked_by: str = ""
    warnings: tuple[Saying, ...] = ()
    """What the asker should know though it is done, such as disks that could outgrow their storage."""


class LogLine(Part):
    time: datetime.datetime
    said: Saying


class Progress(Part):
    done: float = 0
    total: float = 0
    """0 while it is not known."""
    unit: str = "steps"
    """`bytes`, `steps` or `seconds`."""


class TaskStatus(Part):
    state: TaskState = TaskState.PENDING
    step: Saying | None = None
    progress: Progress = Progress()
    log: tuple[LogLine, ...] = ()
    """The newest 200 lines."""
    problem: Saying | None = None
    http_status: int | None = None
    """The problem's HTTP status, when it failed."""
    result: dict[str, Any] = {}
    started: datetime.datetime | None = None
    ended: datetime.datetime | None = None


class Task(Resource[TaskSpec, TaskStatus]):
    kind: ClassVar[str] = "task"
    plural: ClassVar[str] = "tasks"
    named: ClassVar[bool] = False
    status: TaskStatus = TaskStatus()


def task(
    action: str,
    *,
    subject: Ref | None = None,
    host: str | None = None,
    asked_by: str = "",
    project: str | None = None,
    warnings: Iterable[words.Message] = (),
    **params: Any,
) -> Task:
    """A new task, to be written in one transaction with what it is about."""
    return Task(
        metadata=Metadata(
            uid=timed_uid(),
            name=action.replace(".", "-"),
            project=project or (subject.project if subject else None) or "default",
        ),
        spec=TaskSpec(
            action=action,
            subject=subject,
            host=host,
            params=params,
            asked_by=asked_by,
            warnings=tuple(Saying.of(one) for one in warnings),
        ),
    )


class EventSpec(Part):
    time: datetime.datetime
    said: Saying
    severity: Severity = Severity.INFO
    subject: Ref | None = None


class Nothing(Part):
    """The status of what has none."""


class Event(Resource[EventSpec, Nothing]):
    kind: ClassVar[str] = "event"
    plural: ClassVar[str] = "events"
    named: ClassVar[bool] = False
    status: Nothing = Nothing()


def event(message: words.Message, *, severity: Severity = Severity.INFO, subject: Ref | None = None) -> Event:
    """A new event, to be written by itself or with what it tells of."""
    project = subject.project if subject and subject.project else "default"
    return Event(
        metadata=Metadata(uid=timed_uid(), name=message.type or "event", project=project),
        spec=EventSpec(time=now(), said=Saying.of(message), severity=severity, subject=subject),
    )


BY_LEADER = "cluster"
"""Who raised an alarm, where that is the host that leads, whichever it is."""


class AlarmSpec(Part):
    said: Saying
    severity: Severity = Severity.WARNING
    subject: Ref | None = None
    raised: datetime.datetime
    raised_by: str = ""
    """The uid of the host that raised it, or `cluster` for the one that leads: who raised it clears it."""


class AlarmStatus(Part):
    acknowledged: datetime.datetime | None = None
    acknowledged_by: str = ""


class Alarm(Resource[AlarmSpec, AlarmStatus]):
    """Raised and cleared by a condition: it is deleted when that no longer holds."""

    kind: ClassVar[str] = "alarm"
    plural: ClassVar[str] = "alarms"
    named: ClassVar[bool] = False
    status: AlarmStatus = AlarmStatus()


class TokenSpec(Part):
    hash: str
    """SHA-256 of the token's secret, which has 256 bits of its own and needs no slow hash."""
    expires: datetime.datetime | None = None


class TokenStatus(Part):
    last_used: datetime.datetime | None = None


class Token(Resource[TokenSpec, TokenStatus]):
    kind: ClassVar[str] = "token"
    plural: ClassVar[str] = "tokens"
    status: TokenStatus = TokenStatus()
