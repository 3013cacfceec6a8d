"""A whole host in the test's own process: home, store, node, leader; real QEMU, no API."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import pathlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from bocage import daemon, home
from bocage.api import machines
from bocage.cluster import leader
from bocage.engine.qemu import boundedlog, console, processes
from bocage.engine.qemu import record as records
from bocage.guest import password
from bocage.model import base, device_requests, firewall, ground, requests, snapshot, work
from bocage.model import vm as vm
from bocage.node import agent, clock, host
from bocage.node.carrying import export
from bocage.node.place import directory
from bocage.planner import definition, equipment, layers, parts, reverting
from bocage.store import resources, sqlite

T = TypeVar("T")
BOUND = 120.0  # seconds for anything that a test waits for
_LOOK = 0.5  # seconds
_LINES = 80  # of each log that a failure shows
BLANK: dict[str, Any] = {"memory": "32M", "disk": "1M", "nics": []}
"""The smallest VM: nothing boots on it, and it is there at once."""


class House:
    """One running host. `close` is a daemon's orderly end; the VMs go on.

    One that stands `beside` another is of the same cluster: it has the other's store, where that one leads.
    """

    def __init__(self, homes: home.Home, beside: House | None = None) -> None:
        self.homes = homes
        self._beside = beside
        self._stack = contextlib.AsyncExitStack()
        self.node: agent.Node
        self._agent: asyncio.Task[None]
        self.resources: resources.Resources
        self.last_boot: str | None = None  # the boot id of the machine's last run, when it was another

    async def open(self) -> House:
        """Start the actors."""
        await self._open_store()
        self.node = await daemon._node(self.homes, self.resources)
        working = [asyncio.create_task(self.node.run())]
        self._agent = working[0]
        if self._beside is None:
            working.append(asyncio.create_task(leader.Leader(self.resources).run()))
        self._stack.push_async_callback(daemon._end, working)
        await self.node.ready.wait()
        return self

    async def die(self) -> None:
        """The host is dead, as far as its VMs are concerned: nobody looks after them, and no process is left."""
        await daemon._end([self._agent])
        for found in processes.find(self.homes.runtime):
            with contextlib.suppress(processes.Gone):
                processes.send(found.identity, signal.SIGKILL)
        while any(processes.alive(found.identity) for found in processes.find(self.homes.runtime)):
            await asyncio.sleep(_LOOK / 10)

    async def introduce(self) -> None:
        """What a daemon does first, and no more."""
        await self._open_store()
        await host.introduce(self.resources, self.homes.identity(), self.homes)
        await self.close()

    async def _open_store(self) -> None:
        self.homes.prepare()
        if self._beside is not None:
            self.resources = self._beside.resources
            return
        store = await sqlite.open(self.homes.database)
        self._stack.push_async_callback(store.close)
        self.resources = resources.Resources(store)
        if self.last_boot is not None:
            uid, boot = self.homes.identity().uid, self.last_boot
            await self.resources.change_status(
                ground.Host, None, uid, lambda one: one.status.model_copy(update={"boot_id": boot})
            )

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
            if present.metadata.deleted is None:
                transaction.release_name(present)
                gone = resources.with_spec(present, power=vm.Power.STOPPED)
                transaction.update(resources.bumped(present, resources.with_metadata(gone, deleted=base.now())))
        await self.resources.commit(transaction)
        return await self.ended(task.uid)

    async def ended(self, uid: str) -> work.Task:
        """A task once it has ended."""
        return await self.until(
            lambda: self.resources.get(work.Task, "default", uid), lambda one: one.status.state.ended
        )

    async def create(self, name: str = "box", **request: Any) -> vm.VM:
        """Define a VM and wait until it is made (and runs, with `start`)."""
        asked = requests.VMCreate.model_validate({"name": name, **request})
        hashed = password.hash_password(asked.seed.password) if asked.seed and asked.seed.password else None
        return await self.enter(definition.define(asked, await self.facts(), project="default", password_hash=hashed))

    async def enter(self, made: definition.Definition) -> vm.VM:
        """Enter a definition and wait until it is made (and runs, when it should)."""
        task = work.task("vm.create", subject=made.vm.ref, host=self.node.ground.uid)
        transaction = machines.creation(made)
        transaction.create(task)
        await self.resources.commit(transaction)
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
        runtime = self.homes.vm_runtime(machine.uid)
        known = records.read(runtime / "process.json")
        place = known.directory if known else self.homes.local_storage / "vms" / machine.uid
        return console.Console.of(machine.name, place, runtime)

    async def says(self, machine: vm.VM, pattern: str, *, send: str | None = None) -> str:
        """A line that the guest says; with `send` only after that was typed."""
        try:
            return await self.console(machine).expect(pattern=pattern, within=BOUND, send=send)
        except console.NotSaid as error:
            error.add_note(await self._seen())
            raise

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

    async def storage(self, name: str, path: pathlib.Path | None = None, **spec: Any) -> ground.Storage:
        """A storage more."""
        where = path or self.homes.path / name
        host = {"host": self.node.ground.uid} if spec.get("kind", "dir") == "dir" else {}
        made = ground.Storage(
            metadata=base.Metadata(name=name),
            spec=ground.StorageSpec.model_validate({**host, "path": str(where), **spec}),
        )
        await self.resources.create(made)
        ended = await self.ask("storage.create", made)
        assert ended.status.state is work.TaskState.DONE, ended.status.problem
        return await self.resources.find(ground.Storage, None, name)

    async def clone(self, which: vm.VM, name: str, **request: Any) -> tuple[vm.VM, work.Task]:
        """A copy, and the task that made it."""
        present = await self.read(which)
        volumes = {one.uid: one for one in (await self.resources.list(ground.Volume)).items}
        made, _ = definition.clone(present, volumes, name=name, **request)
        task = work.task("vm.clone", subject=made.vm.ref, host=self.node.ground.uid)
        await self.resources.create(made.vm, *made.volumes, task)
        return made.vm, await self.ended(task.uid)

    async def keep(self, which: vm.VM, name: str, *, memory: bool = False) -> work.Task:
        """A snapshot of it."""
        present = await self.read(which)
        made = snapshot.Snapshot(
            metadata=base.Metadata(name=name, project="default"),
            spec=snapshot.SnapshotSpec(vm=present.uid, memory=memory, machine=present.spec),
        )
        task = work.task(
            "vm.snapshot-create", subject=present.ref, host=self.node.ground.uid, snapshot=made.uid, name=name
        )
        await self.resources.create(made, task)
        return await self.ended(task.uid)

    async def kept(self, which: vm.VM) -> dict[str, snapshot.Snapshot]:
        """Its snapshots by name."""
        return {one.name: one for one in await self.node.preparation.snapshots(which)}

    async def go_back(self, which: vm.VM, name: str, *, start: bool = False) -> work.Task:
        """To a snapshot of it; what runs is ended."""
        to = (await self.kept(which))[name]
        return await self.ask("vm.snapshot-revert", await self.read(which), snapshot=to.uid, name=name, start=start)

    async def forget(self, which: vm.VM, name: str) -> work.Task:
        """Delete a snapshot of it."""
        doomed = (await self.kept(which))[name]
        return await self.ask("vm.snapshot-delete", await self.read(which), snapshot=doomed.uid, name=name)

    async def clone_moment(self, which: vm.VM, moment: str, name: str) -> tuple[vm.VM, work.Task]:
        """A copy of what a snapshot holds, and the task that made it."""
        present = await self.read(which)
        volumes = {one.uid: one for one in (await self.resources.list(ground.Volume)).items}
        here = reverting.Here(
            images={one.uid for one in (await self.resources.list(ground.Image)).items},
            networks={one.uid for one in (await self.resources.list(ground.Network)).items},
        )
        of = (await self.kept(which))[moment]
        made = definition.clone_of_moment(present, of, volumes, here, name=name)
        task = work.task("vm.clone", subject=made.vm.ref, host=self.node.ground.uid)
        await self.resources.create(made.vm, *made.volumes, task)
        return made.vm, await self.ended(task.uid)

    async def attach(self, which: vm.VM, **request: Any) -> work.Task:
        """One disk more."""
        present, facts = await self.read(which), await self.facts()
        lie_with = [one for one in facts.volumes.values() if one.spec.vm == which.uid]
        facts = dataclasses.replace(facts, files=set().union(*(layers.disks_of(one.spec) for one in lie_with)))
        asked = device_requests.DiskRequest.model_validate(request)
        made = equipment.attach(present, asked, facts, storage=facts.storage["local"])
        disk = made.vm.spec.disks[-1]
        task = work.task(
            "vm.disk-attach", subject=present.ref, host=self.node.ground.uid, disk=disk.name, volume=disk.volume
        )
        transaction = resources.Transaction()
        transaction.update(resources.bumped(present, made.vm))
        for volume in made.volumes:
            transaction.create(volume)
        transaction.create(task)
        await self.resources.commit(transaction)
        return await self.ended(task.uid)

    async def volumes(self) -> dict[str, ground.Volume]:
        """All volumes by name."""
        return {one.name: one for one in (await self.resources.list(ground.Volume)).items}

    async def export(self, which: vm.VM, to: pathlib.Path, *, chain: bool = False) -> None:
        """Its archive as a file."""
        pieces = export.stream(self.node.preparation, await self.read(which), chain=chain)
        with to.open("wb") as file:
            async for piece in pieces:
                file.write(piece)

    async def upload(self, path: pathlib.Path, key: str = "upload-1", storage: str = "local") -> None:
        """Send a file to the node, as the API does."""

        async def pieces() -> AsyncIterator[bytes]:
            yield path.read_bytes()

        shelf = self.node.ground.library(await self.resources.find(ground.Storage, None, storage))
        await shelf.intake.append(key, shelf.intake.offset(key), pieces())

    async def bring(self, path: pathlib.Path, *, storage: str = "local", **params: Any) -> work.Task:
        """Import an archive."""
        await self.upload(path, storage=storage)
        target = await self.resources.find(ground.Storage, None, storage)
        return await self.ask("vm.import", upload="upload-1", storage=target.uid, **params)

    def place(self, which: vm.VM) -> directory.Directory:
        """Its directory on `local`."""
        return directory.Directory(self.homes.local_storage / "vms" / which.uid)

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

    async def adapted(self, which: vm.VM) -> vm.VM:
        """The VM once what was changed of it is carried out, or waits for a cold start."""
        return await self.until(
            lambda: self.read(which), lambda one: one.status.observed_generation == one.metadata.generation
        )

    async def until(self, read: Callable[[], Awaitable[T]], holds: Callable[[T], bool]) -> T:
        """What `read` gives once it holds; looked at after every change of the store, and now and then without one."""
        due = clock.boottime() + BOUND
        since = await self.resources.store.revision()
        while not holds(found := await read()):
            assert clock.boottime() < due, f"it did not come to hold; last seen: {found}\n{await self._seen()}"
            async with contextlib.aclosing(self.resources.store.watch("/", since=since)) as changes:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK):
                        since = (await anext(changes))[-1].revision
        return found

    async def _seen(self) -> str:
        """What there is to know of each VM when something does not come: its status, processes and last words."""
        said = [f"{one.spec.time:%T.%f} {one.spec.said.text}" for one in await self.all_events()]
        said += [f"{task.spec.action}: {task.status}" for task in (await self.resources.list(work.Task)).items]
        for one in (await self.resources.list(vm.VM, trash=True)).items:
            said.append(f"{one.name}: {one.status}")
            found = processes.find(self.homes.vm_runtime(one.uid))
            said += [f"process {each.identity.pid}: {each.arguments[0]}" for each in found]
            for log in ("serial.log", "qemu.log"):
                said += [f"{log}: {line}" for line in boundedlog.tail_lines(self.place(one).path / log, _LINES)]
        return "\n".join(said)

    async def facts(self) -> parts.Facts:
        kept = self.resources
        machines = (await kept.list(vm.VM, trash=True)).items
        return parts.Facts(
            host=await kept.get(ground.Host, None, self.node.ground.uid),
            storage={one.name: one for one in (await kept.list(ground.Storage)).items},
            images={one.name: one for one in (await kept.list(ground.Image)).items},
            networks={one.name: one for one in (await kept.list(ground.Network)).items},
            volumes={one.name: one for one in (await kept.list(ground.Volume)).items},
            groups={one.name for one in (await kept.list(firewall.FirewallGroup)).items},
            macs={nic.mac: one.name for one in machines for nic in one.spec.nics},
        )


_WISHES = {
    "vm.start": vm.Power.RUNNING,
    "vm.resume": vm.Power.RUNNING,
    "vm.stop": vm.Power.STOPPED,
    "vm.kill": vm.Power.STOPPED,
    "vm.pause": vm.Power.PAUSED,
    "vm.save": vm.Power.SAVED,
    "vm.snapshot-revert": vm.Power.STOPPED,
}
