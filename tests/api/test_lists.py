"""Lists: pages of one moment, filters, cursors."""

import asyncio
import base64
from typing import Any

import httpx

from bocage.model import base, vm, work
from tests.api.conftest import VMS, create, problem


async def _all_pages(client: httpx.AsyncClient, path: str, limit: int, **query: Any) -> tuple[list[Any], set[int]]:
    items: list[Any] = []
    revisions: set[int] = set()
    after: str | None = None
    while True:
        params = {**query, "limit": limit, **({"after": after} if after else {})}
        page = (await client.get(path, params=params)).json()
        assert len(page["items"]) <= limit
        items += page["items"]
        revisions.add(page["revision"])
        after = page["after"]
        if after is None:
            return items, revisions


async def test_pages_together_are_the_whole_list_whatever_their_size(client):
    for number in range(7):
        await create(client, f"web{number}")
    whole = (await client.get(VMS)).json()["items"]
    assert len(whole) == 7
    for limit in (1, 2, 3, 6, 7, 8):
        items, revisions = await _all_pages(client, VMS, limit)
        assert items == whole
        assert len(revisions) == 1


async def test_all_pages_are_of_one_moment_while_writes_go_on(client, world):
    for number in range(12):
        await create(client, f"web{number}")
    first = (await client.get(VMS, params={"limit": 4})).json()
    before = {item["metadata"]["name"]: item["spec"]["memory"] for item in first["items"]}

    async def disturb() -> None:
        for number in range(12):
            await client.patch(f"{VMS}/web{number}", json={"memory": "2G"})
            await client.delete(f"{VMS}/web{number}")
            await create(client, f"new{number}")

    disturbing = asyncio.create_task(disturb())
    after = first["after"]
    while after:
        page = (await client.get(VMS, params={"limit": 4, "after": after})).json()
        assert page["revision"] == first["revision"]
        before |= {item["metadata"]["name"]: item["spec"]["memory"] for item in page["items"]}
        after = page["after"]
        await asyncio.sleep(0)
    await disturbing
    assert before == {f"web{number}": "512M" for number in range(12)}


async def test_a_list_shows_every_change_of_spec_status_and_owner(client, world):
    await create(client)
    assert (await client.get(VMS)).json()["items"][0]["status"]["state"] == "stopped"
    machine = await world.set_status("web1", state=vm.State.RUNNING)
    await world.own(machine)
    await client.patch(f"{VMS}/web1", json={"tags": ["a"]})
    [item] = (await client.get(VMS)).json()["items"]
    assert item == (await client.get(f"{VMS}/web1")).json()
    assert item["status"]["host"] == world.host.uid
    assert item["metadata"]["tags"] == ["a"]


async def test_filters_leave_out_and_pages_are_still_filled(client, world):
    for number in range(9):
        await create(client, f"web{number}", tags=["odd"] if number % 2 else [])
    await world.set_status("web3", state=vm.State.CRASHED)
    items, _ = await _all_pages(client, VMS, 2, tag="odd")
    assert sorted(item["metadata"]["name"] for item in items) == ["web1", "web3", "web5", "web7"]
    assert len((await client.get(VMS, params={"tag": "odd", "limit": 3})).json()["items"]) == 3
    assert len((await client.get(VMS, params={"state": "crashed"})).json()["items"]) == 1
    assert len((await client.get(VMS, params={"name": "web5"})).json()["items"]) == 1
    problem(await client.get(VMS, params={"state": "asleep"}), 422, "invalid-fields")


async def test_a_cursor_that_is_none_is_refused(client):
    for after in ("!", "e30", "bnVsbA", base64.urlsafe_b64encode(b'[1,"/etc"]').decode(), "A" * 1024, "A"):
        problem(await client.get(VMS, params={"after": after}), 422, "cursor-malformed")
    problem(await client.get(VMS, params={"after": "A" * 2000}), 422, "invalid-fields")
    future = base64.urlsafe_b64encode(b'[999999,"/bocage/1/vm/default/x"]').decode()
    problem(await client.get(VMS, params={"after": future}), 422, "store-future-revision")


async def test_a_list_that_is_too_old_says_so(client, world):
    for number in range(3):
        await create(client, f"web{number}")
    after = (await client.get(VMS, params={"limit": 1})).json()["after"]
    await client.patch(f"{VMS}/web0", json={"memory": "1G"})
    await world.kept.store.compact(await world.kept.store.revision())
    problem(await client.get(VMS, params={"limit": 1, "after": after}), 410, "store-compacted")


async def test_events_are_listed_newest_last(client, world):
    from bocage.planner import causes

    for number in range(5):
        await world.kept.create(work.event(causes.NeverStarted(name=f"web{number}")))
    items = (await client.get("/events", params={"limit": 2})).json()["items"]
    assert [item["spec"]["said"]["params"]["name"] for item in items] == ["web3", "web4"]
    assert items[0]["spec"]["said"]["text"] == "nobody has asked for it to run"


async def test_a_damaged_record_hides_no_other_and_is_in_the_log_once(client, world, caplog):
    await create(client)
    uid = base.new_uid()
    await world.kept.store.apply(puts={f"/bocage/1/vm/default/{uid}/spec": b'{"metadata": {}}'})
    for _ in range(2):
        assert [item["metadata"]["name"] for item in (await client.get(VMS)).json()["items"]] == ["web1"]
    assert len([record for record in caplog.records if uid in record.getMessage()]) == 1
    problem(await client.get(f"{VMS}/{uid}"), 500, "resource-damaged")


async def test_every_list_answers_in_the_same_form(client, world):
    await world.kept.create(
        work.Alarm(
            metadata=base.Metadata(name="full", project="default"),
            spec=work.AlarmSpec(said=base.Saying(type="x"), raised=base.now()),
        )
    )
    inside = [f"/projects/default/{noun}" for noun in ("vms", "images", "volumes", "networks", "tasks")]
    for path in (*inside, "/hosts", "/storage", "/tasks", "/events", "/alarms", "/tokens"):
        assert (await client.get(path)).json().keys() == {"items", "revision", "after"}
