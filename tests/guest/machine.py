"""A guest of plain QEMU, without anything of Bocage around it: its serial line, its QMP, its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import re
import tempfile
from collections.abc import AsyncIterator

from qemu.qmp import QMPClient

BOUND = 90.0  # seconds for anything that a guest is asked, on a machine that others use too
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


class Machine:
    """A running guest; what it says on its serial line is kept, and looked at from where the last look ended."""

    def __init__(self, process: asyncio.subprocess.Process, qmp: QMPClient) -> None:
        self.process, self.qmp = process, qmp
        self._said = ""
        self._seen = 0
        self._news = asyncio.Condition()

    async def listen(self) -> None:
        assert self.process.stdout
        while piece := await self.process.stdout.read(65536):
            async with self._news:
                self._said += piece.decode(errors="replace")
                self._news.notify_all()

    def _find(self, pattern: str) -> re.Match[str] | None:
        *lines, _ = self._said[self._seen :].split("\n")
        passed = self._seen
        for line in lines:
            passed += len(line) + 1
            if found := re.fullmatch(pattern, _CONTROL.sub("", line)):
                self._seen = passed
                return found
        return None

    async def expect(self, pattern: str, *, within: float = BOUND) -> re.Match[str]:
        """The first whole line that matches, among what was not looked at yet."""
        try:
            async with asyncio.timeout(within), self._news:
                while not (found := self._find(pattern)):
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"no line {pattern!r} in {self._said[self._seen :][-3000:]!r}") from None
        return found

    async def ready(self) -> dict[str, str]:
        """The next ready line, as its fields."""
        line = (await self.expect(r"tiny: ready (.*)"))[1]
        return dict(field.split("=", 1) for field in line.split(" "))

    async def said(self, text: str, *, within: float = BOUND) -> None:
        """Wait for a text that ends no line, such as a prompt, after what was looked at."""
        async with asyncio.timeout(within), self._news:
            while (at := self._said.find(text, self._seen)) < 0:
                await self._news.wait()
            self._seen = at + len(text)

    async def prompt(self) -> None:
        """Wait for the first shell; what is typed before is lost when the kernel takes over the serial line."""
        async with asyncio.timeout(BOUND), self._news:
            while "tiny# " not in self._said:
                await self._news.wait()

    def send(self, text: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(text.encode())

    async def run(self, command: str, pattern: str, *, within: float = BOUND) -> re.Match[str]:
        """Type a command and wait for a whole line of its output."""
        await self.prompt()
        self.send(f"{command}\n")
        return await self.expect(pattern, within=within)

    async def tell(self, command: str, **arguments: object) -> object:
        return await asyncio.wait_for(self.qmp.execute(command, arguments or None), BOUND)

    async def until(self, question: str, status: str) -> None:
        """Ask again until the answer's `status` is this one."""
        async with asyncio.timeout(BOUND):
            while True:
                answer = await self.tell(question)
                assert isinstance(answer, dict)
                if answer.get("status") == status:
                    return
                assert answer.get("status") != "failed", answer
                await asyncio.sleep(0.05)

    async def ended(self) -> int:
        return await asyncio.wait_for(self.process.wait(), BOUND)


@contextlib.asynccontextmanager
async def boot(
    image: pathlib.Path, *arguments: str, machine: str = "q35", cpus: str = "1", memory: str = "128"
) -> AsyncIterator[Machine]:
    """Start `image`, whose own file is not written to, as the disk `vda`; kill what is left at the end."""
    async with contextlib.AsyncExitStack() as undo:
        place = undo.enter_context(tempfile.TemporaryDirectory(prefix="guest-"))
        socket = os.path.join(place, "qmp")
        qmp = QMPClient("test")
        await qmp.start_server(socket)
        undo.push_async_callback(_disconnect, qmp)
        process = await asyncio.create_subprocess_exec(
            "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-M", f"{machine},accel=tcg", "-cpu", "Westmere", "-smp", cpus, "-m", memory,
            "-chardev", "stdio,id=line,signal=off", "-serial", "chardev:line",
            "-qmp", f"unix:{socket},server=off",
            "-drive", f"file={image},format={_format(image)},if=none,id=system,snapshot=on",
            "-device", "virtio-blk-pci,drive=system,bootindex=1", *arguments,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        undo.push_async_callback(_end, process)
        await asyncio.wait_for(qmp.accept(), BOUND)
        guest = Machine(process, qmp)
        listener = asyncio.create_task(guest.listen())
        undo.callback(listener.cancel)
        yield guest


def disk(number: int, path: pathlib.Path, *, size: int | None = None, cache: str = "writeback") -> list[str]:
    """The arguments for one more virtio disk, a raw file, made when `size` (bytes) is given."""
    if size is not None:
        with path.open("wb") as file:
            file.truncate(size)
    name = f"disk{number}"
    return [
        "-drive", f"file={path},format=raw,if=none,id={name},cache={cache}",
        "-device", f"virtio-blk-pci,drive={name}",
    ]  # fmt: skip


def nic(number: int, mac: str, *, more: str = "restrict=on") -> list[str]:
    """The arguments for a NIC on QEMU's own network, which leads nowhere."""
    return ["-netdev", f"user,id=net{number},{more}", "-device", f"virtio-net-pci,netdev=net{number},mac={mac}"]


def cd(path: pathlib.Path) -> list[str]:
    """The arguments for a CD on a virtio SCSI controller."""
    return [
        "-device", "virtio-scsi-pci", "-drive", f"file={path},format=raw,if=none,id=cd,readonly=on",
        "-device", "scsi-cd,drive=cd",
    ]  # fmt: skip


def _format(image: pathlib.Path) -> str:
    return "qcow2" if image.suffix == ".qcow2" else "raw"


async def _disconnect(qmp: QMPClient) -> None:
    with contextlib.suppress(Exception):
        await qmp.disconnect()


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()
