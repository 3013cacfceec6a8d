"""VMs for the engine's tests: started by the engine itself, each with all the isolation that there is."""

import asyncio
import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Callable
from typing import Any

from bocage.engine import base
from bocage.engine.qemu import cgroup, engine, machine
from bocage.model import vm as model
from tests.engine.qemu import specs

FIRST_UID = 1_900_065_000


class Vms:
    """What one test starts."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        self.place = cgroup.place()
        self.engine = engine.QemuEngine(place=self.place)
        self.happened: list[base.Happened] = []
        self.home = f"test-{os.getpid()}"
        self._plans: list[base.Plan] = []
        self._machines: list[machine.QemuMachine] = []

    def plan(self, kind: str = "bare", *, of: model.VMSpec | None = None, name: str = "web1", **more: Any) -> base.Plan:
        """A plan whose files are there."""
        number = len(self._plans)
        root = self.root / ("a,b" if kind == "named-with-commas" else f"v{number}")
        made = specs.plan(root, of or specs.spec(kind), name=name, linked=kind == "linked")
        uid = FIRST_UID + number if os.geteuid() == 0 else None
        group = f"bocage/{self.home}/v{number}" if self.place else ""
        made = dataclasses.replace(made, process_uid=uid, process_gid=uid, cgroup=group, **more)
        specs.make_files(made)
        for path in (root, root / "vms", made.directory):
            path.chmod(0o711)
        self._plans.append(made)
        return made

    async def start(self, plan: base.Plan, **options: Any) -> machine.QemuMachine:
        """Start a plan as its generation 7."""
        started = await self.engine.start(plan, generation=7, listener=self.happened.append, **options)
        self._machines.append(started)
        return started

    async def find(self, plan: base.Plan, by: engine.QemuEngine | None = None) -> machine.QemuMachine | None:
        """Look for a plan's process as another daemon would."""
        engine_ = by or engine.QemuEngine(place=self.place)
        found = await engine_.find(
            plan.uid, plan.name, plan.directory, plan.runtime, listener=self.happened.append, cgroup=plan.cgroup
        )
        if found:
            self._machines.append(found)
        return found

    async def close(self) -> None:
        """Nothing of it stays."""
        for one in self._machines:
            with contextlib.suppress(Exception):
                await one.kill()
        for plan in self._plans:
            group = machine.group_of(self.place, plan.cgroup)
            if group and group.exists():
                group.kill()
                await group.remove()


async def until(holds: Callable[[], bool], *, within: float = 20.0) -> None:
    """Wait for something to hold."""
    async with asyncio.timeout(within):
        while not holds():
            await asyncio.sleep(0.01)
