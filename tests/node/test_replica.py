"""A VM on local disks with a replica: two hosts in one process, with real QEMU and the records of a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import ssl
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from bocage import daemon, home, ledger
from bocage.engine.base import Run
from bocage.engine.qemu import doubling, exporting, machine
from bocage.model import ground, vm
from bocage.node import clustered, replicas
from bocage.node.life import replica as keeping
from bocage.protocol import records, replicating, timing
from bocage.store import resources
from tests.node.house import BLANK, House

Pair = tuple[House, House]

pytestmark = [pytest.mark.fault, pytest.mark.slow]


@dataclasses.dataclass
class Lives:
    """A host's life that nobody ends."""

    life: records.Life | None

    def is_empty(self, vm: str) -> bool:
        return True


@pytest.fixture
async def pair(house: House, other_homes: home.Home, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pair]:
    """Two hosts of one cluster, each with storage of its own, that ask each other at once."""
    first = house
    monkeypatch.setattr(socket, "gethostname", lambda: "second")
    second = await House(other_homes, beside=first).open()
    houses = {one.node.ground.uid: one for one in (first, second)}
    async with contextlib.AsyncExitStack() as undo:
        undo.push_async_callback(second.close)
        book = await _book(first, undo)
        for uid, one in houses.items():
            await book.write(records.Transaction("one", {}, {records.epoch_of(uid): records.Epoch(1, 1)}))
            key = records.epoch_of(uid)
            life = records.Life(uid, "one", 1, (await book.look_up(key)).revision(key))
            one.node.ground.cluster = clustered.Cluster(
                "127.0.0.1",
                book,
                cast(Any, Lives(life)),
                timing.LAN,
                ssl.create_default_context,
            )
            await reached(one)

        async def ask(peer: clustered.Peer, method: str, path: str, document: Any = None, *, within: float) -> Any:
            (to,) = [one for one in houses.values() if await _name(one) == peer.name]
            uid = path.rsplit("/", 1)[1]
            if method == "DELETE":
                return await replicas.discard(to.node.ground, uid)
            asked = replicas.Asked.model_validate(document)
            return await replicas.prepare(to.node.ground, to.node.preparation, uid, asked)

        monkeypatch.setattr(clustered.Peer, "ask", ask)
        yield first, second
        for one in houses.values():
            for runtime in (one.homes.runtime / "replicas").glob("*"):
                await exporting.end(runtime)


async def reached(house: House) -> None:
    """Others reach it on this machine."""
    await house.resources.change_status(
        ground.Host, None, house.node.ground.uid, lambda one: one.status.model_copy(update={"address": "127.0.0.1"})
    )


async def _name(house: House) -> str:
    return (await house.resources.get(ground.Host, None, house.node.ground.uid)).name


async def _book(house: House, undo: contextlib.AsyncExitStack) -> ledger.Ledger:
    book = ledger.Ledger(house.resources.store, "one")
    await book._store.apply(puts={ledger.ROOT + records.CLUSTER: ledger.encoded(records.Cluster("one"))})
    following = asyncio.create_task(book.run())
    undo.push_async_callback(daemon._end, [following])
    await book.read()
    return book


async def in_sync(house: House, box: vm.VM) -> vm.VM:
    """The VM once its copy is."""
    return await house.until(
        lambda: house.read(box), lambda one: one.status.replica is not None and one.status.replica.state == "in-sync"
    )


async def test_a_replica_takes_each_write_stands_back_when_it_fails_and_is_started_from_when_the_host_dies(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = pair
    box = await first.create(start=True, **{**BLANK, "disk": "16M"})
    there = next(
        one for one in (await first.resources.list(ground.Storage)).items if one.spec.host == second.node.ground.uid
    )
    await asks(first, box, "write -P 1 0 1M")
    kept = vm.Replica(host=second.node.ground.uid, storage=there.uid)
    monkeypatch.setattr(keeping, "_RATE", 4 << 20)
    await first.resources.change(vm.VM, "default", box.uid, lambda one: resources.with_spec(one, replica=kept))
    copies = process(first, box).copies
    await first.until(lambda: progress(copies), lambda done: 0 < done < 16 << 20)
    assert not await copies._has_bitmap("disk0")  # whoever takes this pass up copies all of it again
    monkeypatch.setattr(keeping, "_RATE", 1 << 30)
    await in_sync(first, box)
    assert await copies._has_bitmap("disk0")
    assert (await record(first, box)).in_sync
    assert await asks(first, box, "write -P 2 1M 1M") == ["wrote 1048576/1048576 bytes at offset 1048576"]

    # whoever serves the copy dies: that write is not acknowledged, and tried again it is, once the record says stale
    await exporting.end(second.homes.replica_runtime(box.uid))
    assert await asks(first, box, "write -P 3 2M 1M") == ["write failed: Input/output error"]
    await first.until(lambda: record(first, box), lambda one: not one.in_sync)
    await first.until(lambda: asks(first, box, "write -P 3 2M 1M"), lambda said: said[0].startswith("wrote"))
    told = ["replica-in-sync", "replica-stale", "replica-in-sync"]
    await first.until(first.events, lambda every: [one for one in every if one.startswith("replica-")] == told)
    assert (await record(first, box)).in_sync
    await asks(first, box, "write -P 4 3M 1M")

    await first.die()
    await taken_over(pair, box)
    moved = await second.until(
        lambda: second.read(box),
        lambda one: one.spec.storage == there.uid and one.status.state is vm.State.RUNNING and runs(second, box),
    )
    assert moved.status.host == second.node.ground.uid
    assert moved.spec.replica is not None
    assert moved.spec.replica.host == first.node.ground.uid
    assert not exporting.serves(second.homes.replica_runtime(box.uid))
    for number in (1, 2, 3, 4):
        said = await asks(second, box, f"read -P {number} {number - 1}M 1M")
        assert said == [f"read 1048576/1048576 bytes at offset {(number - 1) << 20}"]

    # the old side comes back as the replica of what was its own
    again = await House(first.homes, beside=first).open()
    try:
        again.node.ground.cluster = first.node.ground.cluster
        await reached(again)
        await in_sync(second, box)
        assert (await record(second, box)).host == first.node.ground.uid
        assert again.node.crew.of(box.uid) is None

        await second.resources.change(vm.VM, "default", box.uid, lambda one: resources.with_spec(one, replica=None))
        await second.until(lambda: second.read(box), lambda one: one.status.replica is None)
        await second.until(lambda: gone(again, box), bool)
        assert (await asks(second, box, "write -P 5 4M 1M"))[0].startswith("wrote")
    finally:
        await again.close()


async def gone(house: House, box: vm.VM) -> bool:
    """Whether nothing of its replica is left there."""
    return not house.place(box).path.exists() and not exporting.serves(house.homes.replica_runtime(box.uid))


def runs(house: House, box: vm.VM) -> bool:
    """Whether a process of it is there, which goes on."""
    actor = house.node.crew.of(box.uid)
    return actor is not None and actor.standing.machine is not None and actor.standing.machine.run is Run.RUNNING


def process(house: House, box: vm.VM) -> machine.QemuMachine:
    crew = house.node.crew.of(box.uid)
    assert crew is not None
    running = crew.standing.machine
    assert isinstance(running, machine.QemuMachine)
    return running


async def progress(copies: doubling.Doubling) -> int:
    return copies.progress[0]


async def asks(house: House, box: vm.VM, command: str) -> list[str]:
    """What QEMU says to a command of qemu-io on the disk that the guest has."""
    running = process(house, box)
    log = running._paths.qemu_log
    before = log.stat().st_size
    drive = "/machine/peripheral/disk0/virtio-backend"
    await running.link.execute("human-monitor-command", {"command-line": f'qemu-io -d {drive} "{command}"'})
    said = log.read_bytes()[before:].decode()
    return [line for line in said.splitlines() if " failed" in line or " bytes at " in line]


async def record(house: House, box: vm.VM) -> records.Replica:
    """What the cluster's records say of the copy."""
    cluster, key = house.node.ground.cluster, records.replica_of(box.uid)
    assert cluster is not None
    found = (await cluster.book.look_up(key)).get(records.Replica, key)
    assert found is not None
    return found


async def taken_over(pair: Pair, box: vm.VM) -> None:
    """What the leader does when the first one's death is proven: the records give the VM to the copy's host."""
    first, second = pair
    cluster = second.node.ground.cluster
    assert cluster is not None
    host = first.node.ground.uid
    epoch, leader = records.epoch_of(host), records.LEADER
    raised = {epoch: records.Epoch(2, 1), leader: records.Leader(second.node.ground.uid, 1)}
    await cluster.book.write(records.Transaction("one", {}, raised))
    keys = (epoch, leader, records.owner_of(box.uid), records.replica_of(box.uid))
    view = await cluster.book.look_up(*keys)
    taking = replicating.taking_over(box.uid, view, view.revision(epoch), view.revision(leader), "one", host)
    assert taking is not None
    assert isinstance(await cluster.book.write(taking), records.Applied)
