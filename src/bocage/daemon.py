"""Sets the actors around the store: one process, one home."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import pathlib
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

import bocage
from bocage import errors, files, home, ledger, systemd, under_way
from bocage.cluster import leader
from bocage.engine.qemu import cgroup, scopes
from bocage.engine.qemu import engine as qemu
from bocage.membership import member, place
from bocage.model import base, ground
from bocage.node import agent, clustered, default_network, events, host, jobs
from bocage.node import ground as node_ground
from bocage.node.shop import Shop
from bocage.physical import bmcs
from bocage.store import contract, remembered, resources, secrets, sqlite

log = logging.getLogger("bocage")

_OPEN_AGAIN = 0.5  # seconds
_FOLLOW_AGAIN = 0.2
_Learn = Callable[[Sequence[str]], None]
"""To be told etcd's members."""


def run(homes: home.Home, listen: str) -> None:
    """Run the daemon until SIGTERM or SIGINT; VMs go on. Raises errors.Problem when it cannot start."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for quiet in ("uvicorn", "httpx", "httpcore"):
        logging.getLogger(quiet).setLevel(logging.WARNING)
    logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL + 1)  # a connection that ends is told by type, once
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        anew = runner.run(_main(homes, listen))
    if anew:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - ourselves


async def _main(homes: home.Home, listen: str) -> bool:
    """Whether the daemon is to start anew, on another store than it had."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as undo:
        try:
            working, anew = await undo.enter_async_context(_standing(homes, listen, stop))
        except _Stopped:
            return False
        log.info("bocage %s at home in %s", bocage.__version__, homes.path)
        waiting = [asyncio.create_task(one.wait()) for one in (stop, anew)]
        done, _ = await asyncio.wait([*waiting, *working], return_when=asyncio.FIRST_COMPLETED)
        for one in waiting:
            one.cancel()
        try:
            for ended in done.difference(waiting) if not anew.is_set() else ():
                ended.result()  # an actor never ends by itself: show why
        except contract.Replaced as replaced:
            log.warning("%s; starting anew", replaced)
            anew.set()
    log.info("starting anew" if anew.is_set() else "stopped; the VMs go on")
    return anew.is_set()


class _Stopped(Exception):
    """The daemon was asked to end before it had begun."""


@contextlib.asynccontextmanager
async def _standing(
    homes: home.Home, listen: str, stop: asyncio.Event
) -> AsyncIterator[tuple[list[asyncio.Task[None]], asyncio.Event]]:
    from bocage.node import http

    homes.prepare()
    async with contextlib.AsyncExitStack() as undo:
        identity = await asyncio.to_thread(homes.identity)
        anew = asyncio.Event()
        store, at, members = await undo.enter_async_context(_store(homes, identity.uid, stop, anew))
        kept = resources.Resources(store)
        if at and at.witness:
            undo.enter_context(_pid_file(homes, listen))
            await undo.enter_async_context(_api(homes, identity, kept, at, anew, listen=listen))
            systemd.notify("READY=1")
            yield [], anew
            return
        node = await _node(homes, kept, address=at.address if at else "")
        working = await _living(node, store, at, members) if at else []
        undo.push_async_callback(_end, working)
        undo.enter_context(_pid_file(homes, listen))
        if at:  # looked at by people when the store is silent; never decided by
            memory = remembered.Remembered(store)
            working.append(asyncio.create_task(memory.run()))
            shown = resources.Resources(memory)
        else:
            shown = kept
        parts = node.shop, node.crew, node.sampling
        await undo.enter_async_context(http.serve(*parts, homes.node_socket, shown))
        working += [asyncio.create_task(node.run())]
        if not at:
            working.append(asyncio.create_task(leader.Leader(kept).run()))
        await node.ready.wait()
        if at:
            from bocage.membership import door

            await undo.enter_async_context(door.serve(homes, at, kept, http.Interface(*parts, shown).app()))
        await undo.enter_async_context(_api(homes, identity, shown, at, anew, listen=listen, host=node.ground.uid))
        systemd.notify("READY=1")
        # What stands now stands for good: a full collection over it would hold up every answer.
        gc.freeze()
        gc.set_threshold(10_000, 20, 100)
        yield working, anew


@contextlib.asynccontextmanager
async def _api(
    homes: home.Home,
    identity: home.Identity,
    kept: resources.Resources,
    at: place.Place | None,
    anew: asyncio.Event,
    *,
    listen: str,
    host: str | None = None,
) -> AsyncIterator[None]:
    from bocage.api import serve  # the largest import: VMs are found again before it
    from bocage.membership import standing

    membership = standing.Standing(homes, identity.uid, kept, anew)
    papers = place.certificates(homes) if at else None
    async with serve.serve(kept, homes=homes, host=host, listen=listen, membership=membership, papers=papers):
        yield


async def _living(
    node: agent.Node, store: contract.Store, at: place.Place, members: list[_Learn]
) -> list[asyncio.Task[None]]:
    """This host's life in its cluster, which goes before all that starts VMs; and its part in leading that."""
    from bocage.cluster import leadership
    from bocage.node.lives import array, lives, setting
    from bocage.store.etcd import records

    homes, uid = node.ground.home, node.ground.uid
    asyncio.get_running_loop().set_default_executor(under_way.Threads(thread_name_prefix="asyncio"))
    book = ledger.Ledger(store, at.incarnation)
    where = setting.of(homes, uid, at.access(homes), root=records.ROOT)
    own = lives.Lives(where, book, array.Array(node.ground.resources, uid))
    own.changed.append(node.wake)
    members.append(own.learn)
    node.ground.rights = own
    trust = place.certificates(homes).context
    node.ground.cluster = clustered.Cluster(at.address, book, own, where.profile, trust)
    box = await asyncio.to_thread(secrets.Box.open, homes.secret_key)
    leads = leadership.Leadership(
        uid,
        node.ground.resources,
        book,
        own,
        profile=where.profile,
        bmc_of=lambda host: bmcs.of(host, box),
        trust=await asyncio.to_thread(trust),
        port=place.HOST_PORT,
    )
    return [asyncio.create_task(one) for one in (_follow(book), own.run(), leads.run())]


async def _follow(book: ledger.Ledger) -> None:
    """Keep up the protocol's records. Raises contract.Closed and contract.Replaced."""
    while True:
        try:
            await book.run()
        except (contract.Closed, contract.Replaced):
            raise
        except errors.Problem as problem:
            log.warning("the cluster's records: %s", problem)
            await asyncio.sleep(_FOLLOW_AGAIN)


@contextlib.asynccontextmanager
async def _store(
    homes: home.Home, uid: str, stop: asyncio.Event, anew: asyncio.Event
) -> AsyncIterator[tuple[contract.Store, place.Place | None, list[_Learn]]]:
    """SQLite's engine, or etcd's where this host is part of a cluster. Raises _Stopped."""
    async with contextlib.AsyncExitStack() as undo:
        at = place.read(homes)
        store: contract.Store
        members: list[_Learn] = []
        if at is None:
            store = await sqlite.open(homes.database)  # refuses a second daemon
            undo.push_async_callback(store.close)
            await member.sweep(homes)
        else:
            undo.callback(os.close, await asyncio.to_thread(sqlite.lock, homes.database))
            await asyncio.to_thread(_set_aside, homes)
            store, at = await undo.enter_async_context(_etcd(homes, uid, at, stop, anew, members))
        yield store, at, members


@contextlib.asynccontextmanager
async def _etcd(
    homes: home.Home, uid: str, at: place.Place, stop: asyncio.Event, anew: asyncio.Event, members: list[_Learn]
) -> AsyncIterator[tuple[contract.Store, place.Place]]:
    """etcd's engine; `members` are told whenever etcd has others."""
    from bocage.membership import keeper  # late, as all that needs httpx
    from bocage.store.etcd import engine

    opened: list[engine.EtcdStore] = []

    def tell(clients: Sequence[str]) -> None:
        for learn in members:
            learn(clients)

    keeping = keeper.Keeper(homes, at, member.Member(homes, uid, at.address), tell, anew.set)
    async with contextlib.AsyncExitStack() as undo:
        undo.push_async_callback(keeping.close)
        running = asyncio.create_task(keeping.run())
        undo.push_async_callback(_end, [running])
        while not opened:
            if stop.is_set():
                raise _Stopped
            try:
                opened.append(await engine.open(keeping.at.access(homes), client=uid))
            except contract.Failed as failed:
                log.warning("%s; it is asked again", failed)
                await asyncio.sleep(_OPEN_AGAIN)
        (store,) = opened
        undo.push_async_callback(store.close)
        members.append(store.learn)
        tell(keeping.at.clients)
        await asyncio.to_thread(keeping.opened, store.incarnation)
        yield store, keeping.at


def _set_aside(homes: home.Home) -> None:
    """The database of before is kept; nothing may take it for the present one."""
    for rest in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.replace(f"{homes.database}{rest}", f"{homes.former_database}{rest}")


async def _node(homes: home.Home, kept: resources.Resources, *, address: str = "") -> agent.Node:
    identity = await asyncio.to_thread(homes.identity)
    facts = await host.introduce(kept, identity, homes, address=address)
    place = scopes.place() or cgroup.place()
    node = agent.Node(
        node_ground.Ground(
            home=homes,
            identity=identity,
            resources=kept,
            events=events.Events(kept),
            engine=qemu.QemuEngine(place=place, version=facts.status.qemu),
            accelerator=facts.status.accelerator,
            accelerator_reason=facts.status.accelerator_reason.message if facts.status.accelerator_reason else None,
            qemu=facts.status.qemu,
            boot_id=facts.boot_id,
            rebooted=facts.rebooted,
            cgroups=place is not None,
            leave_from=facts.status.leaving.order if facts.status.leaving else None,
        )
    )
    await _first_things(node.shop, clustered=bool(address))
    return node


async def _first_things(shop: Shop, *, clustered: bool) -> None:
    """The storage `local` and the network `default` are there from the first start; all storage is looked at.

    Storage of several hosts waits in a cluster for this one's life: until then nothing is done there.
    """
    kept = shop.ground.resources
    await asyncio.to_thread(jobs.images.sweep, shop.ground.home.cache)
    storages = (await kept.list(ground.Storage)).items
    path = str(shop.ground.home.local_storage)
    mine = [one for one in storages if one.spec.host == shop.ground.uid]
    if not any(one.name == "local" or one.spec.path == path for one in mine):
        name = await _free_name(shop, {one.name for one in storages})
        uid = await asyncio.to_thread(_uid_of_storage, shop.ground.home.local_storage)
        spec = ground.StorageSpec(host=shop.ground.uid, path=path)
        await kept.create(ground.Storage(metadata=base.Metadata(name=name, uid=uid), spec=spec))
        storages = (await kept.list(ground.Storage)).items
    for storage in (one for one in storages if one.concerns(shop.ground.uid)):
        try:
            new = storage.status.state == "pending"
            if storage.shared and (new or clustered):
                continue  # a new one is made by whoever was asked to
            await (jobs.storages.prepare(shop, storage) if new else jobs.storages.reopen(shop, storage))
        except (errors.Problem, OSError) as error:
            log.warning("storage %s: %s", storage.name, error)
    await default_network.ensure(shop)


async def _free_name(shop: Shop, taken: set[str]) -> str:
    """What this host's own storage is called: `local`, and `local-HOST` where another host's is."""
    if "local" not in taken:
        return "local"
    name = (await shop.ground.resources.get(ground.Host, None, shop.ground.uid)).name
    return next(one for one in (f"local-{name}"[:63].rstrip("-"), f"local-{shop.ground.uid[:8]}") if one not in taken)


def _uid_of_storage(root: pathlib.Path) -> str:
    """The uid that the directory bears already, when the database was lost; else a new one."""
    from bocage.storage import directory

    with contextlib.suppress(errors.Problem):
        return directory.uid_at(root)
    return base.new_uid()


@contextlib.contextmanager
def _pid_file(homes: home.Home, listen: str) -> Iterator[None]:
    from bocage.engine.qemu import processes

    identity = processes.identify(os.getpid())
    content = {
        "pid": identity.pid,
        "start_time": identity.start_time,
        "version": bocage.__version__,
        "listen": listen,
    }
    files.write_durably(homes.pid_file, json.dumps(content) + "\n")
    try:
        yield
    finally:
        homes.pid_file.unlink(missing_ok=True)


async def _end(working: list[asyncio.Task[None]]) -> None:
    for task in working:
        task.cancel()
    await asyncio.wait(working, timeout=15.0)
