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
from collections.abc import AsyncIterator, Iterator

import bocage
from bocage import errors, files, home, systemd
from bocage.cluster import leader
from bocage.engine.qemu import cgroup, scopes
from bocage.engine.qemu import engine as qemu
from bocage.model import base, ground
from bocage.node import agent, default_network, events, host, jobs
from bocage.node import ground as node_ground
from bocage.node.shop import Shop
from bocage.store import resources, sqlite

log = logging.getLogger("bocage")


def run(homes: home.Home, listen: str) -> None:
    """Run the daemon until SIGTERM or SIGINT; VMs go on. Raises errors.Problem when it cannot start."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for quiet in ("uvicorn", "httpx", "httpcore"):
        logging.getLogger(quiet).setLevel(logging.WARNING)
    logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL + 1)  # a connection that ends is told by type, once
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_main(homes, listen))


async def _main(homes: home.Home, listen: str) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with _standing(homes, listen) as working:
        log.info("bocage %s at home in %s", bocage.__version__, homes.path)
        stopping = asyncio.create_task(stop.wait())
        done, _ = await asyncio.wait([stopping, *working], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        for ended in done - {stopping}:
            ended.result()  # an actor never ends by itself: show why
    log.info("stopped; the VMs go on")


@contextlib.asynccontextmanager
async def _standing(homes: home.Home, listen: str) -> AsyncIterator[list[asyncio.Task[None]]]:
    from bocage.node import http

    homes.prepare()
    async with contextlib.AsyncExitStack() as undo:
        store = await sqlite.open(homes.database)  # refuses a second daemon
        undo.push_async_callback(store.close)
        kept = resources.Resources(store)
        node = await _node(homes, kept)
        undo.enter_context(_pid_file(homes, listen))
        await undo.enter_async_context(http.serve(node.shop, node.crew, node.sampling, homes.node_socket))
        working = [asyncio.create_task(node.run()), asyncio.create_task(leader.Leader(kept).run())]
        undo.push_async_callback(_end, working)
        await node.ready.wait()
        from bocage.api import serve  # the largest import: VMs are found again before it

        await undo.enter_async_context(serve.serve(kept, homes=homes, host=node.ground.uid, listen=listen))
        systemd.notify("READY=1")
        # What stands now stands for good: a full collection over it would hold up every answer.
        gc.freeze()
        gc.set_threshold(10_000, 20, 100)
        yield working


async def _node(homes: home.Home, kept: resources.Resources) -> agent.Node:
    identity = await asyncio.to_thread(homes.identity)
    facts = await host.introduce(kept, identity, homes)
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
    await _first_things(node.shop)
    return node


async def _first_things(shop: Shop) -> None:
    """The storage `local` and the network `default` are there from the first start; all storage is looked at."""
    kept = shop.ground.resources
    await asyncio.to_thread(jobs.images.sweep, shop.ground.home.cache)
    storages = await kept.list(ground.Storage)
    if not any(storage.name == "local" for storage in storages.items):
        spec = ground.StorageSpec(host=shop.ground.uid, path=str(shop.ground.home.local_storage))
        uid = await asyncio.to_thread(_uid_of_storage, shop.ground.home.local_storage)
        await kept.create(ground.Storage(metadata=base.Metadata(name="local", uid=uid), spec=spec))
        storages = await kept.list(ground.Storage)
    for storage in (one for one in storages.items if one.concerns(shop.ground.uid)):
        try:
            new = storage.status.state == "pending"
            if new and storage.shared:
                continue  # whoever was asked to make it does
            await (jobs.storages.prepare(shop, storage) if new else jobs.storages.reopen(shop, storage))
        except (errors.Problem, OSError) as error:
            log.warning("storage %s: %s", storage.name, error)
    await default_network.ensure(shop)


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
