"""Debian VMs that were booted once: each test goes on from their saved memory, and so does each later run of the tests.

In the tests' cache lie the image, by the state of its sources, and the VMs' directories, by all that made them.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import hashlib
import inspect
import os
import pathlib
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterable, Iterator

import pytest

from bocage import home
from bocage.engine.qemu import accelerator, chain, command, devices
from bocage.guest import debian, gpt, gptdisk, seed, sources, tools
from bocage.model import vm, work
from bocage.planner import definition, hardware, parts
from tests.built import CACHE
from tests.node.conftest import new_home
from tests.node.house import BOUND, House

RELEASE = "bookworm"
BOOT_BOUND = 600.0  # seconds, where nothing but an emulated CPU is to be had
USER, PASSWORD = "ada", "open sesame"
STATIC = "10.0.3.77/24"
CPU_MODEL = "Opteron_G2-v1"
"""One without Meltdown: emulated, a kernel that need not guard against it boots in two thirds of the time."""
_KEPT = 86_400.0  # seconds after which what another state of the sources left in the cache goes
_SSH = "id_ed25519"


@dataclasses.dataclass(frozen=True, slots=True)
class Booted:
    """`storage` holds `vms` and `images` as a storage does, `host.json` and the private key beside them."""

    image: pathlib.Path
    storage: pathlib.Path

    @property
    def ssh_key(self) -> pathlib.Path:
        return self.storage / _SSH


@contextlib.contextmanager
def booted(packages: pathlib.Path) -> Iterator[Booted]:
    """The VMs, booted now when they never were; nobody else's tests use them meanwhile."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "debian.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        image = _image(packages)
        storage = CACHE / f"debian-booted-{_digest(_what_made_it(image))}"
        _forget_others(image, storage)
        if not storage.exists():
            _boot(image, storage)
        yield Booted(image, storage)


@contextlib.asynccontextmanager
async def resumed(from_: Booted, homes: home.Home, name: str) -> AsyncIterator[tuple[House, vm.VM]]:
    """A host that adopted the VMs, one of which runs on."""
    homes.prepare()
    homes.local_storage.mkdir(parents=True, mode=0o711)
    shutil.copy(from_.storage / "host.json", homes.path)
    _copy(from_.storage / "vms", homes.local_storage)
    _copy(from_.storage / "images", homes.local_storage, linked=True)
    house = await House(homes).open()
    try:
        adopted = await house.adopt_local()
        assert adopted.status.state is work.TaskState.DONE, adopted.status
        machine = await house.resources.find(vm.VM, "default", name)
        started = await house.ask("vm.start", machine)
        assert started.status.state is work.TaskState.DONE, started.status
        yield house, await house.read(machine)
    finally:
        await house.close()


async def addresses(house: House, machine: vm.VM) -> dict[str, tuple[str, ...]]:
    """The addresses of each NIC by its name, once all have some."""
    now = await house.until(
        lambda: house.read(machine), lambda one: all(nic.addresses for nic in one.status.nics) and bool(one.status.nics)
    )
    return {nic.name: nic.addresses for nic in now.status.nics}


async def log_in(house: House, machine: vm.VM, *, within: float = BOUND) -> None:
    """Get a shell on the serial line, by name and password."""
    console = house.console(machine)
    async with asyncio.timeout(within), console.writer() as write:
        for typed, answer in (("", "login: "), (USER, "Password: "), (PASSWORD, "$ ")):
            said, offset = b"", console.end
            await write(typed.encode() + b"\r")
            async for piece in console.watch(offset):
                said += piece
                if answer.encode() in said:
                    break


def image(packages: pathlib.Path) -> pathlib.Path:
    """The image of Debian, built once for each state of its sources."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "debian.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _image(packages)


def _image(packages: pathlib.Path) -> pathlib.Path:
    code = map(inspect.getfile, (debian, gpt, gptdisk, sources, tools))
    image = CACHE / f"debian-{RELEASE}-{_digest(_contents([*code, *_files(debian._HERE)]))}.qcow2"
    if not image.exists():
        steps: list[float] = []
        beside = CACHE / f"debian-building-{os.getpid()}" / image.name
        beside.parent.mkdir()
        try:
            asyncio.run(
                debian.build(beside, release=RELEASE, cache=packages, report=lambda _, fraction: steps.append(fraction))
            )
            assert [path.name for path in beside.parent.iterdir()] == [image.name]
            assert steps == sorted(steps)
            assert steps[-1] == 1.0
            beside.rename(image)
        finally:
            shutil.rmtree(beside.parent)
    return image


def _boot(image: pathlib.Path, storage: pathlib.Path) -> None:
    """Boot them, save them, and put aside what the next host adopts."""
    with pytest.MonkeyPatch.context() as patch, new_home(patch) as homes:
        key = homes.path / _SSH
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "ada@example", "-f", key], check=True)
        asyncio.run(_booted_and_saved(homes, image, key.with_suffix(".pub").read_text().strip()))
        beside = storage.with_name(f"{storage.name}.part")
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        for path in (key, homes.path / "host.json", homes.local_storage / "vms", homes.local_storage / "images"):
            _copy(path, beside)
        beside.rename(storage)


async def _booted_and_saved(homes: home.Home, image: pathlib.Path, ssh_key: str) -> None:
    """`heron` boots by its BIOS and takes its seed, `owl` boots by UEFI and has none."""
    house = await House(homes).open()
    octets = os.urandom(2)  # an address of the loopback that no other program publishes on
    common = {"image": "debian", "memory": "640M", "cpu_model": CPU_MODEL, "start": True}
    try:
        await house.add_image(image, "debian")
        heron = await house.create(
            "heron",
            **common,
            cpus={"sockets": 1, "cores": 2},
            disk="5G",
            disks=[{"size": "96M", "serial": "SECOND"}],
            nics=[
                {"publish": [{"host_address": f"127.83.{octets[0]}.{octets[1]}", "host_port": 2222, "guest_port": 22}]},
                {"mac": "52:54:00:00:00:77"},
            ],
            seed={
                "user": USER,
                "password": PASSWORD,
                "ssh_keys": [ssh_key],
                "network": [{"nic": "nic1", "address": STATIC}],
            },
        )
        owl = await house.create("owl", **common, firmware="uefi")
        await house.console(owl).expect(pattern=r"Debian GNU/Linux \d+ .* ttyS0", within=BOOT_BOUND)
        finished = r"Cloud-init v\. .* finished .*DataSourceNoCloud"
        await house.console(heron).expect(pattern=finished, within=BOOT_BOUND)
        for machine in (heron, owl):
            await addresses(house, machine)
            saved = await house.ask("vm.save", machine)
            assert saved.status.state is work.TaskState.DONE, saved.status
    finally:
        await house.close()


def _what_made_it(image: pathlib.Path) -> Iterator[bytes]:
    """This QEMU on this CPU, its firmware, the image, and the code that lays out the board and the seed."""
    yield from _contents(["/usr/share/OVMF/OVMF_CODE_4M.fd"])
    yield subprocess.run(["qemu-system-x86_64", "--version"], check=True, capture_output=True).stdout
    yield accelerator.fingerprint().encode()
    with image.open("rb") as file:
        yield hashlib.file_digest(file, "sha256").digest()
    code = (command, devices, chain, definition, hardware, parts, seed)
    yield from _contents([__file__, *map(inspect.getfile, code)])


def _files(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path


def _contents(paths: Iterable[str | pathlib.Path]) -> Iterator[bytes]:
    for path in map(pathlib.Path, paths):
        yield path.name.encode()
        yield path.read_bytes()


def _digest(pieces: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(len(piece).to_bytes(8, "big") + piece)
    return digest.hexdigest()[:16]


def _forget_others(*present: pathlib.Path) -> None:
    for path in CACHE.glob("debian-*"):
        if path not in present and path.stat().st_mtime < time.time() - _KEPT:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _copy(path: pathlib.Path, into: pathlib.Path, *, linked: bool = False) -> None:
    """With owners and holes; `linked` for files that are never written, where the file system can."""
    link = ["--link"] if linked and path.stat().st_dev == into.stat().st_dev else []
    subprocess.run(["cp", "--archive", "--sparse=always", *link, path, into], check=True)
