"""Ground for tests with real processes: a directory that every uid may enter, and nothing left of it afterwards."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from typing import Any, Protocol

import pytest

from bocage.engine.qemu import launch, processes, qmp
from tests.engine.qemu import running
from tests.engine.qemu import vms as starting_vms


@pytest.fixture
def ground() -> Iterator[pathlib.Path]:
    path = pathlib.Path(tempfile.mkdtemp(prefix="bocage-test-", dir="/tmp"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        for found in processes.find(path):
            with contextlib.suppress(processes.Gone):
                processes.send(found.identity, signal.SIGKILL)
        shutil.rmtree(path)


class Starter(Protocol):
    async def __call__(self, *argv: str, **options: Any) -> launch.Process: ...


@pytest.fixture
async def start(ground: pathlib.Path) -> AsyncIterator[Starter]:
    """Start a program in `ground/vm`; ended with the test."""
    started: list[launch.Process] = []

    async def start(*argv: str, before: Any = None, **options: Any) -> launch.Process:
        process = await launch.start(running.order(ground, *argv, **options), before=before, within=10)
        started.append(process)
        return process

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(process.pidfd, signal.SIGKILL)
        await processes.wait_exit(process.pidfd, within=5)
        os.close(process.pidfd)


@pytest.fixture
async def machine(ground: pathlib.Path, start: Starter) -> AsyncIterator[tuple[launch.Process, qmp.Monitor]]:
    """A paused QEMU and its monitor."""
    process = await start(*running.qemu(ground))
    async with await qmp.connect(ground / "vm" / "qmp", within=20) as monitor:
        yield process, monitor


@pytest.fixture
async def vms(ground: pathlib.Path) -> AsyncIterator[starting_vms.Vms]:
    """VMs that the engine starts; ended with the test."""
    started = starting_vms.Vms(ground)
    yield started
    await started.close()
