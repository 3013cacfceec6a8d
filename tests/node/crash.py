"""Kills a daemon at the N-th thing that it does to the world: between any two of them, not at a random moment.

Counted are the store's transactions (before and after each), durable writes, renames and removals of files, and
what QEMU is told to do. The deed is done in a process of its own, which ends itself with SIGKILL.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import multiprocessing
import os
import pathlib
import signal
from collections.abc import Awaitable, Callable
from typing import Any

from bocage import files, home
from bocage.engine import usb as host_usb
from bocage.engine.qemu import devices, link, saved
from bocage.model import base, device_requests, firewall, ground, requests, share, vm
from bocage.model.units import Size
from bocage.network import fences
from bocage.node.life import launching
from bocage.planner import definition, equipment
from bocage.storage import half_made
from bocage.store import resources, sqlite
from tests.node import house as houses

_LOOKS = ("query-", "qom-list", "qom-get", "qmp_capabilities", "getfd", "add-fd")  # of QMP: they change nothing
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.node.crash"])


@dataclasses.dataclass(slots=True)
class Counter:
    """Counts the things done, and dies at the one that was chosen; 0: at none."""

    fatal: int
    done: int = 0
    armed: bool = False

    def point(self) -> None:
        if self.armed:
            self.done += 1
            if self.done == self.fatal:
                os.kill(os.getpid(), signal.SIGKILL)


def die_at(path: pathlib.Path, deed: str, point: int) -> int | None:
    """Do a deed in a process of its own. None when it died at the point; else how many points there are."""
    ours, theirs = _context.Pipe(duplex=False)
    child = _context.Process(target=_child, args=(path, deed, point, theirs))
    child.start()
    theirs.close()
    try:
        points: int = ours.recv()
    except EOFError:
        child.join()
        assert child.exitcode == -signal.SIGKILL, f"{deed} at {point}: it ended with {child.exitcode}"
        return None
    child.join()
    return points


def _child(path: pathlib.Path, deed: str, point: int, told: Any) -> None:
    os.environ["BOCAGE_HOME"] = str(path)
    counter = Counter(point)
    _watch(counter)
    told.send(asyncio.run(_do(deed, counter)))


async def _do(deed: str, counter: Counter) -> int:
    opened = await houses.House(home.Home.from_environment()).open()
    try:
        for actor in opened.node.crew:
            await actor.looked.wait()
        counter.armed = True
        await DEEDS[deed](opened)
        counter.armed = False
    finally:
        await opened.close()
    return counter.done


def _watch(counter: Counter) -> None:
    """Put a point before each thing that changes the world, and one after each transaction."""
    apply = sqlite.SqliteStore.apply

    async def counted(self: sqlite.SqliteStore, **options: Any) -> int:
        counter.point()
        revision = await apply(self, **options)
        counter.point()
        return revision

    sqlite.SqliteStore.apply = counted  # type: ignore[assignment, method-assign]
    execute = link.Link.execute

    async def told(self: link.Link, command: str, *arguments: Any, **options: Any) -> Any:
        if not command.startswith(_LOOKS):
            counter.point()
        return await execute(self, command, *arguments, **options)

    link.Link.execute = told  # type: ignore[method-assign]
    for module, name in (
        (files, "write_durably"),
        (files, "rename_durably"),
        (files, "remove_tree"),
        (files, "link_durably"),
        (half_made, "finish"),
        (launching, "forget_saved"),
        (fences, "apply"),
        (saved, "_until"),  # while QEMU writes memory
    ):
        original = getattr(module, name)

        def before(original: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
            counter.point()
            return original(*arguments, **options)

        setattr(module, name, functools.partial(before, original))


async def _box(house: houses.House) -> vm.VM:
    return next(one for one in (await house.resources.list(vm.VM, trash=True)).items if one.name == "box")


def _ask(action: str, **params: Any) -> Callable[[houses.House], Awaitable[object]]:
    async def ask(house: houses.House) -> object:
        return await house.ask(action, await _box(house), **params)

    return ask


async def _create(house: houses.House) -> object:
    return await house.create("new", start=True, **houses.BLANK)


async def _clone(house: houses.House) -> object:
    return await house.clone(await _box(house), "new")


async def _undelete(house: houses.House) -> object:
    return await house.undelete(await _box(house))


async def _move(house: houses.House) -> object:
    other = (await house.facts()).storage["other"]
    return await house.ask("vm.move", await _box(house), storage=other.uid)


async def _attach(house: houses.House) -> object:
    return await house.attach(await _box(house), size="1M")


async def _detach(house: houses.House) -> object:
    disk = (await _box(house)).spec.disks[-1]
    return await house.ask("vm.disk-detach", await _box(house), disk=disk.name, volume=disk.volume)


async def _take_out(house: houses.House) -> object:
    """End a machine from which a disk was to go that it could not let go of while it ran."""
    box = await _box(house)
    disks = {one.volume for one in box.spec.disks}
    await house.ask("vm.kill", box)

    def free(known: dict[str, ground.Volume]) -> bool:
        return all(one.spec.vm is None for one in known.values() if one.uid not in disks)

    return await house.until(house.volumes, free)


async def _peak(house: houses.House) -> object:
    """Its guest needs much more memory of a sudden, and gets it."""
    which = await _box(house)
    fill = "dd if=/dev/zero of=/run/peak bs=1M count=160 2>/dev/null; echo filled $?"
    await house.says(which, "^filled 0", send=fill)

    async def needs() -> int:
        known = house.node.balancing.of(which.uid)
        return known.has - known.needs if known and known.needs and known.needs > 210 << 20 else 0

    return await house.until(needs, lambda free: free > 8 << 20)


async def _import(house: houses.House) -> object:
    local = (await house.facts()).storage["local"]
    return await house.ask("vm.import", upload="upload-1", storage=local.uid, new_identity=True, name="new")


async def _adopt(house: houses.House) -> object:
    return await house.ask("adopt", directories=[str(house.homes.path / "brought" / "box")], new_identity=False)


async def _keep(house: houses.House) -> object:
    return await house.keep(await _box(house), "now")


async def _keep_memory(house: houses.House) -> object:
    return await house.keep(await _box(house), "now", memory=True)


async def _go_back(house: houses.House) -> object:
    return await house.go_back(await _box(house), "first")


async def _forget(house: houses.House) -> object:
    return await house.forget(await _box(house), "first")


async def _adapt(house: houses.House) -> object:
    """More vCPUs, more memory, and another NIC in place of the first, in one change of a running VM."""
    box, facts = await _box(house), await house.facts()
    nic = device_requests.NicRequest(network="cell")

    def changed(present: vm.VM) -> vm.VM:
        grown = resources.with_spec(present, cpus=vm.Cpus(cores=2), memory=Size(256 << 20))
        without = equipment.detach_nic(grown, "nic0")
        storage = facts.storage["local"]
        return resources.bumped(present, equipment.attach_nic(without, nic, facts, storage=storage))

    await house.resources.change(vm.VM, "default", box.uid, changed)
    return await house.adapted(box)


async def _fix(house: houses.House) -> object:
    """Memory that follows what its guest needs becomes fixed, and more than the machine began with."""
    box, more = await _box(house), {"memory": Size(384 << 20), "dynamic_memory": None}
    await house.resources.change(
        vm.VM, "default", box.uid, lambda present: resources.bumped(present, resources.with_spec(present, **more))
    )
    return await house.adapted(box)


async def _hold(house: houses.House) -> object:
    """Another share of the host for a running VM."""
    box = await _box(house)
    held = share.Share.model_validate({"cpu": {"cap": 0.5, "weight": 300}, "disks": {"iops": 400, "rate": "4M"}})

    def changed(present: vm.VM) -> vm.VM:
        disks = tuple(one.model_copy(update={"limits": share.Io(iops=300)}) for one in present.spec.disks)
        return resources.bumped(present, resources.with_spec(present, share=held, disks=disks))

    await house.resources.change(vm.VM, "default", box.uid, changed)
    return await house.adapted(box)


async def _rescue(house: houses.House) -> object:
    """As the API does: the wish ends when the VM is off, so it comes together with that to run."""
    box, medium = await _box(house), (await house.facts()).images["medium"]
    wish = {"rescue": medium.uid, "power": vm.Power.RUNNING}
    await house.resources.change(vm.VM, "default", box.uid, lambda one: resources.with_spec(one, **wish))
    return await house.ask("vm.start", await _box(house))


async def _burn(house: houses.House) -> object:
    """Have what was uploaded in a drive, in place of what is."""
    storage = (await house.facts()).storage["local"].uid
    return await house.ask(
        "vm.cd-change", await _box(house), cd="cd0", upload="upload-1", image=base.new_uid(), storage=storage
    )


async def _rule(house: houses.House) -> object:
    """Other rules of a group."""
    group = await house.resources.find(firewall.FirewallGroup, "default", "web")
    rules = firewall.FirewallGroupSpec.model_validate({"rules": [{"ports": ["81"]}]}).rules
    await house.resources.change(
        firewall.FirewallGroup, "default", group.uid, lambda one: resources.with_spec(one, rules=rules)
    )
    return await house.ask("firewall-group.change", group)


async def _fence(house: houses.House) -> object:
    """Another group for a NIC of a running VM."""
    box, facts = await _box(house), await house.facts()
    patch = device_requests.NicPatch(firewall=("ssh",))
    changed = lambda one: resources.bumped(one, equipment.change_nic(one, "nic0", patch, facts))  # noqa: E731
    await house.resources.change(vm.VM, "default", box.uid, changed)
    return await house.adapted(box)


async def _seal(house: houses.House) -> object:
    box = await _box(house)
    asked = requests.TemplateCreate(name="web", vm="box").model_dump(mode="json")
    subject = base.Ref(kind="template", uid=base.new_uid(), project="default", name="web")
    return await house.ask("template.create", subject, request=asked, vm=box.uid, snapshot=None)


async def _drive(house: houses.House) -> object:
    """Have virtio's drivers in place of those that its system came with, and start it with them."""
    box = await _box(house)
    changed = lambda one: resources.bumped(one, definition.change(one, requests.VMPatch(drivers="virtio")))  # noqa: E731
    await house.resources.change(vm.VM, "default", box.uid, changed)
    return await house.ask("vm.start", await _box(house))


def plugged_in() -> list[ground.HostUsb]:
    """What is plugged into a host: a keyboard of QEMU's own will stand for it (`keyboard`)."""
    node = home.Home.from_environment().path / "device"
    node.touch()
    return [ground.HostUsb(id="0529:0001", port="1-2", node=str(node))]


def keyboard(name: str, unit: int, file: str) -> dict[str, Any]:
    """In place of a device of the host."""
    assert file.startswith("/dev/fdset/")
    return {"driver": "usb-kbd", "id": name, "bus": "board.usb.0", "port": str(unit)}


def _usb(how: Callable[[vm.VM], vm.VM]) -> Callable[[houses.House], Awaitable[object]]:
    async def changed(house: houses.House) -> object:
        host_usb.look, devices.usb = plugged_in, keyboard  # type: ignore[assignment]
        box = await _box(house)
        await house.resources.change(vm.VM, "default", box.uid, lambda one: resources.bumped(one, how(one)))
        return await house.adapted(box)

    return changed


DEEDS: dict[str, Callable[[houses.House], Awaitable[object]]] = {
    "create": _create,
    "start": _ask("vm.start"),
    "kill": _ask("vm.kill"),
    "pause": _ask("vm.pause"),
    "resume": _ask("vm.resume"),
    "save": _ask("vm.save"),
    "restore": _ask("vm.start"),
    "discard": _ask("vm.kill"),
    "reset": _ask("vm.reset"),
    "stop": _ask("vm.stop"),
    "reboot": _ask("vm.reboot"),
    "delete": _ask("vm.delete"),
    "undelete": _undelete,
    "purge": _ask("vm.delete", purge=True),
    "clone": _clone,
    "move": _move,
    "move-linked": _move,
    "move-running": _move,
    "attach": _attach,
    "plug": _attach,
    "detach": _detach,
    "take-out": _take_out,
    "grow-running": _ask("vm.disk-grow", disk="disk0", size="2M"),
    "grow": _ask("vm.disk-grow", disk="disk0", size="2M"),
    "peak": _peak,
    "import": _import,
    "adopt": _adopt,
    "keep": _keep,
    "keep-running": _keep,
    "keep-memory": _keep_memory,
    "go-back": _go_back,
    "go-back-to-memory": _go_back,
    "forget": _forget,
    "forget-running": _forget,
    "adapt": _adapt,
    "fix": _fix,
    "hold": _hold,
    "rescue": _rescue,
    "rescue-end": _ask("vm.kill"),
    "burn": _burn,
    "burn-running": _burn,
    "rule": _rule,
    "fence": _fence,
    "seal": _seal,
    "drive": _drive,
    "usb-attach": _usb(lambda one: equipment.attach_usb(one, device_requests.UsbRequest(id="0529:0001"))),
    "usb-detach": _usb(lambda one: equipment.detach_usb(one, "usb0")),
    "flatten": _ask("vm.flatten"),
    "flatten-running": _ask("vm.flatten"),
}
