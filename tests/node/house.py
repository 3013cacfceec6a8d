"""A whole host in the test's own process: home, store, node, leader; real QEMU, no API."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from bocage import daemon, home
from bocage.cluster import leader
from bocage.engine.qemu import console
from bocage.model import base, ground, requests, work
from bocage.model import vm as vm
from bocage.node import agent
from bocage.planner import definition, parts
from bocage.store import resources, sqlite

T = TypeVar("T")
BOUND = 120.0  # seconds for anything that a test waits for


class House:
    """One running host. `close` is a daemon's orderly end; the VMs go on."""

    def __init__(self, homes: home.Home) -> None:
        self.homes = homes
        self._stack = contextlib.AsyncExitStack()
        self.node: agent.Node
        self.resources: resources.Resources

    async def open(self) -> House:
        """Start the actors."""
        self.homes.prepare()
        store = await sqlite.open(self.homes.database)
        self._stack.push_async_callback(store.close)
        self.resources = resources.Resources(store)
        self.node = await daemon._node(self.homes, self.resources)
        working = [asyncio.create_task(self.node.run()), asyncio.create_task(leader.Leader(self.resources).run())]
        self._stack.push_async_callback(daemon._end, working)
        await self.node.ready.wait()
        return self

    async def close(self) -> None:
        await self._stack.aclose()

    async def ask(
        self, action: str, subject: base.Resource[Any, Any] | base.Ref | None = None, **params: Any
    ) -> work.Task:
        """Write a task, with the wish it stands for, and wait for its end."""
        task = work.task(
            action,
            subject=subject.ref if isinstance(subject, base.Resource) else subject,
            host=self.node.ground.uid,
            **params,
        )
        transaction = resources.Transaction()
        transaction.create(task)
        wish = _WISHES.get(action)
        if wish and isinstance(subject, vm.VM):
            present = await self.resources.get(vm.VM, "default", subject.uid)
            transaction.update(resources.bumped(present, resources.with_spec(present, power=wish)))
        if action == "vm.delete" and isinstance(subject, vm.VM):
            present = await self.resources.get(vm.VM, "default", subject.uid)
            transaction.release_name(present)
            transaction.update(resources.with_metadata(present, deleted=base.now()))
        await self.resources.commit(transaction)
        return await self.ended(task.uid)

    async def ended(self, uid: str) -> work.Task:
        """A task once it has ended."""
        return await self.until(
            lambda: self.resources.get(work.Task, "default", uid), lambda one: one.status.state.ended
        )

    async def create(self, name: str = "box", **request: Any) -> vm.VM:
        """Define a VM and wait until it is made (and runs, with `start`)."""
        made = definition.define(
            requests.VMCreate.model_validate({"name": name, **request}), await self.facts(), project="default"
        )
        task = work.task("vm.create", subject=made.vm.ref, host=self.node.ground.uid)
        await self.resources.create(made.vm, *made.volumes, task)
        ended = await self.ended(task.uid)
        assert ended.status.state is work.TaskState.DONE, ended.status
        return await self.read(made.vm)

    async def add_image(self, path: pathlib.Path, name: str = "tiny") -> None:
        """Take in an image file."""
        storage = await self.resources.find(ground.Storage, None, "local")
        subject = base.Ref(kind="image", uid=base.new_uid(), project="default", name=name)
        ended = await self.ask("image.add", subject, name=name, path=str(path), storage=storage.uid)
        assert ended.status.state is work.TaskState.DONE, ended.status.problem

    def console(self, machine: vm.VM) -> console.Console:
        """Its serial line."""
        directory = self.homes.local_storage / "vms" / machine.uid
        return console.Console.of(machine.name, directory, self.homes.vm_runtime(machine.uid))

    async def says(self, machine: vm.VM, pattern: str, *, send: str | None = None) -> str:
        """A line that the guest says; with `send` only after that was typed."""
        return await self.console(machine).expect(pattern=pattern, within=BOUND, send=send)

    async def undelete(self, which: vm.VM) -> work.Task:
        """Bring it back from the trash under its name."""
        present = await self.read(which)
        task = work.task("vm.undelete", subject=present.ref, host=self.node.ground.uid)
        transaction = resources.Transaction()
        transaction.create(task)
        back = resources.with_metadata(present, deleted=None)
        transaction.update(back)
        transaction.take_name(back)
        await self.resources.commit(transaction)
        return await self.ended(task.uid)

    async def adopt_local(self, **params: Any) -> work.Task:
        """Take in all that lies in the storage `local`."""
        storage = await self.resources.find(ground.Storage, None, "local")
        return await self.ask("adopt", storage=storage.uid, **params)

    async def all_events(self) -> list[work.Event]:
        return (await self.resources.list(work.Event)).items

    async def events(self) -> list[str]:
        """The types of all events, the oldest first."""
        return [event.spec.said.type for event in (await self.resources.list(work.Event)).items]

    async def read(self, which: vm.VM) -> vm.VM:
        return await self.resources.get(vm.VM, "default", which.uid)

    async def becomes(self, which: vm.VM, *states: vm.State) -> vm.VM:
        """The VM once it is in one of these states."""
        return await self.until(lambda: self.read(which), lambda one: one.status.state in states)

    async def until(self, read: Callable[[], Awaitable[T]], holds: Callable[[T], bool]) -> T:
        """What `read` gives once it holds; looked at after every change of the store."""
        async with asyncio.timeout(BOUND):
            since = await self.resources.store.revision()
            if holds(found := await read()):
                return found
            watch = self.resources.store.watch("/", since=since)
            async with contextlib.aclosing(watch) as changes:
                async for _ in changes:
                    if holds(found := await read()):
                        return found
        raise AssertionError

    async def facts(self) -> parts.Facts:
        kept = self.resources
        machines = (await kept.list(vm.VM, trash=True)).items
        return parts.Facts(
            host=await kept.get(ground.Host, None, self.node.ground.uid),
            storage={one.name: one for one in (await kept.list(ground.Storage)).items},
            images={one.name: one for one in (await kept.list(ground.Image)).items},
            networks={one.name: one for one in (await kept.list(ground.Network)).items},
            volumes={one.name: one for one in (await kept.list(ground.Volume)).items},
            macs={nic.mac: one.name for one in machines for nic in one.spec.nics},
        )


_WISHES = {
    "vm.start": vm.Power.RUNNING,
    "vm.resume": vm.Power.RUNNING,
    "vm.stop": vm.Power.STOPPED,
    "vm.kill": vm.Power.STOPPED,
    "vm.pause": vm.Power.PAUSED,
    "vm.save": vm.Power.SAVED,
}
