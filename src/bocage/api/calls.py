"""One call of the API: who asks, what they may do, what the application works with, how its writes are answered."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterable
from typing import Annotated, Any

from fastapi import Depends, Path
from starlette.requests import HTTPConnection
from starlette.responses import Response

from bocage import errors, words
from bocage.api import answers, auth, idempotency, index, nodes, problems, views
from bocage.membership import standing
from bocage.model import base, ground, work
from bocage.store import resources as stored
from bocage.words import N_

PROJECTS = frozenset({"default"})  # the one that is there from the first start


class NoProject(problems.Error, errors.NotFound):
    type = "no-such-project"
    text = N_("there is no project named {project}")
    hint = N_("this installation has the project 'default'")
    project: str


@dataclasses.dataclass(slots=True)
class Api:
    """What the application works with."""

    resources: stored.Resources
    index: index.Index
    views: views.Views
    nodes: nodes.Nodes
    host: str | None = None  # the uid of the host it runs on
    membership: standing.Standing | None = None
    closing: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    planning: asyncio.Semaphore = dataclasses.field(default_factory=lambda: asyncio.Semaphore(1))
    """A long plan takes all that one thread has."""
    answered: int = 0  # answers that are kept for idempotency keys since the last pruning
    working: set[asyncio.Task[Any]] = dataclasses.field(default_factory=set)

    async def close(self) -> None:
        """End streams, and what was begun beside requests."""
        self.closing.set()
        for task in self.working:
            task.cancel()
        await asyncio.gather(*self.working, return_exceptions=True)
        await self.index.close()
        await self.nodes.close()

    async def this_host(self) -> ground.Host:
        """The host that the API runs on. Raises resources.Missing."""
        if self.host:
            return await self.resources.get(ground.Host, None, self.host)
        hosts = (await self.resources.list(ground.Host)).items
        if not hosts:
            raise stored.Missing(kind="host", name="localhost")
        return hosts[0]

    def reaching(self, storage: ground.Storage) -> str | None:
        """The uid of the host that does what is asked of a storage: of those that reach it this one, if it can."""
        every = sorted(uid for uid, found in storage.status.hosts.items() if found.state == "ready")
        return storage.spec.host or (every[0] if every and self.host not in every else self.host)

    def beside(self, work_: Any) -> None:
        """Do something that no request waits for."""
        task = asyncio.create_task(work_)
        self.working.add(task)
        task.add_done_callback(self.working.discard)


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """What a route gets."""

    connection: HTTPConnection
    asker: auth.Asker
    api: Api

    @property
    def resources(self) -> stored.Resources:
        return self.api.resources

    def task(
        self,
        action: str,
        *,
        subject: base.Ref | None = None,
        host: str | None,
        warnings: Iterable[words.Message] = (),
        **params: Any,
    ) -> work.Task:
        """A new task in this asker's name."""
        return work.task(action, subject=subject, host=host, asked_by=self.asker.name, warnings=warnings, **params)

    async def commit(self, transaction: stored.Transaction, answer: Response) -> Response:
        """Write, and answer; the answer is kept with what is written when the request has an idempotency key."""
        once: idempotency.Once | None = getattr(self.connection.state, "once", None)
        if once:
            once.enter(transaction, answer)
        await self.resources.commit(transaction)
        if once:
            self.api.answered += 1
            if self.api.answered % idempotency.PRUNE_EVERY == 1:
                self.api.beside(idempotency.prune(self.resources.store))
        return answer

    async def accept(
        self, task: work.Task, *, transaction: stored.Transaction | None = None, location: str | None = None
    ) -> Response:
        """Write a task, with what else belongs to it, and answer 202 with it."""
        transaction = transaction or stored.Transaction()
        transaction.create(task)
        return await self.commit(transaction, answers.accepted(task, location=location))


class May:
    """The dependency that lets a call through to a route, by the permission that the route declares."""

    def __init__(self, permission: str) -> None:
        self.permission = permission

    async def __call__(self, connection: HTTPConnection) -> Call:
        asker: auth.Asker = connection.state.asker
        if not asker.may(self.permission):
            raise auth.NotAllowed(asker=asker.name, permission=self.permission)
        project = connection.path_params.get("project")
        if project is not None and project not in PROJECTS:
            raise NoProject(project=project[:80])
        return Call(connection, asker, connection.app.state.api)


def may(permission: str) -> Any:
    """Declare what a route needs: `call: Annotated[calls.Call, calls.may("vm:create")]`."""
    return Depends(May(permission))


Project = Annotated[str, Path(description="The project; `default` is always there.", examples=["default"])]
Uid = Annotated[str, Path(description="Its uid.", examples=["01890a5d-ac96-774b-bcce-b302099a8057"])]
Name = Annotated[str, Path(description="Its name, or its uid.", examples=["web1"])]
