"""The stream of changes: in order, nothing left out, gone on with after a break."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from bocage.api import events
from bocage.model import vm, work
from bocage.planner import causes
from tests.api.conftest import World, create, over_socket, problem


class Stream:
    """Reads a stream of server-sent events as a browser does."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.lines = response.aiter_lines()
        self.last_id: str | None = None

    async def message(self) -> tuple[str, Any]:
        """The next event: its kind, its data."""
        kind = data = None
        async with asyncio.timeout(10):
            async for line in self.lines:
                if line.startswith("event: "):
                    kind = line[7:]
                elif line.startswith("id: "):
                    self.last_id = line[4:]
                elif line.startswith("data: "):
                    data = json.loads(line[6:])
                elif not line and kind:
                    return kind, data
        raise EOFError

    async def messages(self, count: int) -> list[tuple[str, Any]]:
        return [await self.message() for _ in range(count)]


@contextlib.asynccontextmanager
async def following(world: World, last_event_id: object = None, **query: Any) -> AsyncIterator[Stream]:
    headers = {} if last_event_id is None else {"last-event-id": str(last_event_id)}
    async with (
        over_socket(world) as client,
        client.stream("GET", "/events/stream", params=query, headers=headers) as response,
    ):
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        yield Stream(response)


async def _tell(world: World, number: int) -> None:
    await world.kept.create(work.event(causes.NeverStarted(name=f"web{number}")))


async def test_events_come_as_they_happen(served, world):
    async with following(world, kinds="event") as stream:
        for number in range(3):
            await _tell(world, number)
            kind, data = await stream.message()
            assert kind == "event"
            assert data["spec"]["said"]["params"]["name"] == f"web{number}"
            assert int(stream.last_id or 0) == data["metadata"]["revision"]


async def test_a_stream_that_broke_off_goes_on_without_a_gap_and_without_a_repeat(served, world):
    seen: list[str] = []
    last: object = await world.kept.store.revision()
    writing = asyncio.create_task(_write_many(world, 60))
    while len(seen) < 60:
        async with following(world, last_event_id=last, kinds="event") as stream:
            for _ in range(min(7, 60 - len(seen))):
                _, data = await stream.message()
                seen.append(data["spec"]["said"]["params"]["name"])
            last = stream.last_id
    await writing
    assert seen == [f"web{number}" for number in range(60)]


async def _write_many(world: World, count: int) -> None:
    for number in range(count):
        await _tell(world, number)


async def test_a_change_of_several_things_has_its_id_on_the_last_of_them(served, world):
    """Else a stream that broke off in between would leave out the rest."""
    since = await world.kept.store.revision()
    async with over_socket(world) as client:
        await create(client)
    async with following(world, since=since) as stream:
        kinds = []
        for _ in range(3):
            assert stream.last_id is None
            kind, _ = await stream.message()
            kinds.append(kind)
        assert sorted(kinds) == ["task", "vm", "volume"]
        assert int(stream.last_id or 0) == since + 1


async def test_a_resource_is_told_with_its_status_and_its_end(served, world):
    async with over_socket(world) as client:
        await create(client)
        machine = await world.kept.find(vm.VM, "default", "web1")
        async with following(world, kinds="vm") as stream:
            await world.set_status("web1", state=vm.State.RUNNING)
            kind, data = await stream.message()
            assert (kind, data["metadata"]["uid"]) == ("vm", machine.uid)
            assert data["status"]["state"] == "running"
            from bocage.store import resources

            transaction = resources.Transaction()
            transaction.delete(await world.kept.get(vm.VM, "default", machine.uid))
            await world.kept.commit(transaction)
            assert await stream.message() == ("vm", {"uid": machine.uid, "deleted": True})


async def test_only_the_kinds_that_were_asked_for_are_told(served, world):
    async with following(world, kinds="event,alarm") as stream, over_socket(world) as client:
        await create(client)
        await _tell(world, 1)
        kind, _ = await stream.message()
        assert kind == "event"
        problem(await client.get("/events/stream", params={"kinds": "vm,ghost"}), 422, "event-kind-unknown")


async def test_what_is_no_longer_kept_is_said_before_the_stream_begins(served, world):
    since = await world.kept.store.revision()
    for number in range(3):
        await _tell(world, number)
    await world.kept.store.compact(since + 2)
    async with over_socket(world) as client:
        problem(await client.get("/events/stream", params={"since": since}), 410, "store-compacted")
        problem(await client.get("/events/stream", headers={"last-event-id": str(since)}), 410, "store-compacted")
        problem(await client.get("/events/stream", params={"since": since + 99}), 422, "store-future-revision")
        problem(await client.get("/events/stream", headers={"last-event-id": "x"}), 422, "last-event-id-malformed")


async def test_a_quiet_stream_shows_that_it_lives(served, world, monkeypatch):
    monkeypatch.setattr(events, "HEARTBEAT", 0.02)
    async with following(world, kinds="event") as stream, asyncio.timeout(10):
        while await anext(stream.lines) != ": still here":
            pass


async def test_a_listener_that_leaves_is_forgotten(served, world):
    store: Any = world.kept.store
    before = len(store._watches)
    async with following(world):
        assert len(store._watches) == before + 1
    async with asyncio.timeout(10):
        while len(store._watches) > before:
            await asyncio.sleep(0.005)


async def test_two_hundred_listeners_hear_the_same(served, world):
    async def listen(started: asyncio.Semaphore) -> list[str]:
        async with following(world, kinds="event") as stream:
            started.release()
            return [data["spec"]["said"]["params"]["name"] for _, data in await stream.messages(5)]

    started = asyncio.Semaphore(0)
    listening = [asyncio.create_task(listen(started)) for _ in range(200)]
    for _ in listening:
        await started.acquire()
    await _write_many(world, 5)
    heard = await asyncio.gather(*listening)
    assert all(one == [f"web{number}" for number in range(5)] for one in heard)


async def test_a_task_is_waited_for(served, world):
    async with over_socket(world) as client:
        task = await create(client)
        uid = task["metadata"]["uid"]
        quick = (await client.get(f"/tasks/{uid}", params={"wait": 0.01})).json()
        assert quick["status"]["state"] == "pending"
        waiting = asyncio.create_task(client.get(f"/tasks/{uid}", params={"wait": 60}))
        [held] = await world.tasks("vm.create")
        await world.end(held, result={"vm": "done"})
        ended = (await asyncio.wait_for(waiting, 10)).json()
        assert ended["status"]["state"] == "done"
        assert (await client.get(f"/projects/default/tasks/{uid}", params={"wait": 60})).json() == ended


async def test_a_task_is_waited_for_though_old_revisions_are_forgotten(served, world):
    async with over_socket(world) as client:
        task = await create(client)
        for number in range(3):
            await _tell(world, number)
        await world.kept.store.compact(await world.kept.store.revision())
        waiting = asyncio.create_task(client.get(f"/tasks/{task['metadata']['uid']}", params={"wait": 60}))
        [held] = await world.tasks("vm.create")
        await world.end(held, work.TaskState.FAILED)
        assert (await asyncio.wait_for(waiting, 10)).json()["status"]["state"] == "failed"


async def test_a_task_is_cancelled_once_and_not_after_its_end(client, world):
    task = await create(client)
    uid = task["metadata"]["uid"]
    first = (await client.post(f"/tasks/{uid}/cancel")).json()
    second = (await client.post(f"/tasks/{uid}/cancel")).json()
    assert first["spec"]["cancel"]
    assert second["metadata"]["revision"] == first["metadata"]["revision"]
    other = await create(client, "web2")
    held = await world.kept.get(work.Task, "default", other["metadata"]["uid"])
    await world.end(held)
    assert not (await client.post(f"/tasks/{held.uid}/cancel")).json()["spec"]["cancel"]
    problem(await client.post("/tasks/nope/cancel"), 404, "not-found")


async def test_tasks_are_listed_by_state(client, world):
    await create(client)
    await create(client, "web2")
    [first, _] = await world.tasks("vm.create")
    await world.end(first)
    assert len((await client.get("/tasks", params={"state": "done"})).json()["items"]) == 1
    assert len((await client.get("/projects/default/tasks")).json()["items"]) == 2


@pytest.mark.parametrize("wait", ["-1", "301", "nan", "inf"])
async def test_a_wait_has_a_bound(client, wait):
    problem(await client.get("/tasks/x", params={"wait": wait}), 422, "invalid-fields")


async def test_alarms_are_acknowledged_once(client, world):
    from bocage.model import base

    alarm = work.Alarm(
        metadata=base.Metadata(name="full", project="default"),
        spec=work.AlarmSpec(said=base.Saying(type="x"), raised=base.now()),
    )
    await world.kept.create(alarm)
    first = (await client.post(f"/alarms/{alarm.uid}/acknowledge")).json()
    assert first["status"]["acknowledged_by"] == "unix:0"
    assert (await client.post(f"/alarms/{alarm.uid}/acknowledge")).json()["status"] == first["status"]
