"""A whole server inside a guest: Debian with systemd as PID 1 and all that Bocage's package stands on.

It is booted once, saved, and restored by each later run of the tests; the package goes in by a CD. What runs inside it
is emulated twice: one VM, and that a small one, is what it carries. Its board has a watchdog and USB ports.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import fcntl
import gzip
import inspect
import os
import pathlib
import re
import shutil
import time
from collections.abc import AsyncIterator, Iterator

import pycdlib
import pytest

from bocage import home
from bocage.engine.qemu import console
from bocage.guest import debian as builder
from bocage.guest import gpt, gptdisk, sources, tools
from bocage.model import vm, work
from bocage.store import resources
from tests.built import CACHE
from tests.node import debian
from tests.node.conftest import new_home
from tests.node.house import House

TOP = pathlib.Path(__file__).parents[2]
NAME = "server"
COMMAND_BOUND = 300.0  # seconds for one command inside
_PACKAGES = TOP / "script" / "packages"
_KERNEL = "linux-image-amd64"
"""That for clouds drives neither USB nor watchdogs."""
_SETTLE = """\
systemctl stop apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer
systemctl mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer
touch /etc/cloud/cloud-init.disabled
"""


class Server:
    """The running server, and a root's shell on its serial line."""

    def __init__(self, house: House, machine: vm.VM) -> None:
        self.house, self.machine = house, machine
        self._commands = 0

    @property
    def console(self) -> console.Console:
        """Its serial line."""
        return self.house.console(self.machine)

    def said(self, since: int) -> str:
        """What it said on its serial line from an offset on, without colours."""
        with self.house.place(self.machine).serial_log.open("rb") as log:
            log.seek(since)
            return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", log.read().decode(errors="replace"))

    async def log_in(self) -> None:
        """Get a shell of root's that says nothing of its own."""
        await debian.log_in(self.house, self.machine, within=COMMAND_BOUND)
        await self._types("exec sudo -n -i")
        # The kernel's own messages would tear the lines that are waited for.
        await self._types("stty cols 4000 -echo; PS1=; PS2=; bind 'set enable-bracketed-paste off'; cd /; dmesg -n 1")

    async def run(self, command: str, *, within: float = COMMAND_BOUND, fails: bool = False) -> str:
        """What a command prints on both outputs, when it ends as it should."""
        self._commands += 1
        mark = f"ran{self._commands}"
        packed = '$(printf %s "$said" | gzip | base64 -w 0)'  # a line that is waited for has a bound
        shown = f'said=$({{ {command}; }} 2>&1 </dev/null); echo "{mark} $? {packed} whole"'
        line = await self.console.expect(pattern=rf"^{mark} \d+ ", within=within, send=shown)
        found = re.search(rf"{mark} (\d+) (\S*) whole$", line)
        assert found, line
        said = gzip.decompress(base64.b64decode(found[2])).decode(errors="replace")
        assert (found[1] != "0") == fails, f"{command}: exit code {found[1]}\n{said}"
        return said

    async def put_in(self, *paths: pathlib.Path) -> None:
        """Have files on a CD, mounted on /mnt."""
        disc = self.house.homes.path / "parcel.iso"
        await asyncio.to_thread(write_cd, disc, paths)
        name = f"parcel-{self._commands}"
        await self.house.add_image(disc, name)
        image = (await self.house.facts()).images[name]
        await change(self.house, self.machine, (vm.Cd(name="cd0", image=image.uid, bus=vm.Bus.SCSI, unit=0),))
        changed = await self.house.ask("vm.cd-change", self.machine, cd="cd0")
        assert changed.status.state is work.TaskState.DONE, changed.status
        await self.run("for try in 1 2 3 4 5; do mount -o ro /dev/sr0 /mnt && break; sleep 2; done; mountpoint /mnt")

    async def give_disk(self, size: str) -> tuple[str, str]:
        """Plug a disk in: its name outside, and its device inside."""
        before = set((await self.run("lsblk -dno PATH")).split())
        attached = await self.house.attach(self.machine, size=size)
        assert attached.status.state is work.TaskState.DONE, attached.status
        there = f"until [ $(lsblk -dno PATH | wc -l) -gt {len(before)} ]; do sleep 1; done; lsblk -dno PATH"
        (device,) = set((await self.run(there)).split()) - before
        return str(attached.spec.params["disk"]), device

    async def take_disk(self, name: str) -> None:
        """Pull a disk out."""
        present = await self.house.read(self.machine)
        [volume] = [disk.volume for disk in present.spec.disks if disk.name == name]
        detached = await self.house.ask("vm.disk-detach", present, disk=name, volume=volume)
        assert detached.status.state is work.TaskState.DONE, detached.status

    async def _types(self, command: str) -> None:
        """Type what begins another shell or changes this one, and wait until it reads again."""
        self._commands += 1
        await self.console.expect(
            pattern=f"^there-{self._commands}",
            within=COMMAND_BOUND,
            send=f"{command}\recho there-$(({self._commands}))",
        )


@contextlib.contextmanager
def booted(packages: pathlib.Path) -> Iterator[debian.Booted]:
    """The server, booted now when it never was; nobody else's tests use it meanwhile."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "server.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        image = _image(packages)
        own = debian._contents([__file__])
        storage = CACHE / f"server-booted-{debian._digest([*own, *debian._what_made_it(image)])}"
        _forget_others(image, storage)
        if not storage.exists():
            _boot(image, storage)
        yield debian.Booted(image, storage)


@contextlib.asynccontextmanager
async def resumed(from_: debian.Booted, homes: home.Home) -> AsyncIterator[Server]:
    """The server as it went on from its saved memory, with root's shell on its line."""
    async with debian.resumed(from_, homes, NAME) as (house, machine):
        yield Server(house, machine)


def wanted_packages() -> list[str]:
    """What the package depends on, as `script/packages` has it."""
    lines = [line.split() for line in _PACKAGES.read_text().splitlines() if line and not line.startswith("#")]
    return [fields[0] for fields in lines if len(fields) == 2 or fields[2] in ("root", "disks")]


def write_cd(disc: pathlib.Path, paths: tuple[pathlib.Path, ...]) -> None:
    """A CD with files under their own names."""
    made = pycdlib.PyCdlib()
    made.new(interchange_level=3, rock_ridge="1.09", vol_ident="PARCEL")
    for number, path in enumerate(paths):
        made.add_file(str(path), f"/FILE{number}.;1", rr_name=path.name)
    made.write(str(disc))
    made.close()


async def change(house: House, machine: vm.VM, cds: tuple[vm.Cd, ...]) -> None:
    """Give it other CD drives, or other CDs in them."""
    await house.resources.change(vm.VM, "default", machine.uid, lambda one: resources.with_spec(one, cds=cds))


def _image(packages: pathlib.Path) -> pathlib.Path:
    code = map(inspect.getfile, (builder, gpt, gptdisk, sources, tools))
    made_of = debian._contents([*code, *debian._files(builder._HERE)])
    wanted = [*wanted_packages(), _KERNEL]
    image = CACHE / f"server-{debian.RELEASE}-{debian._digest([*made_of, *(one.encode() for one in wanted)])}.qcow2"
    if not image.exists():
        beside = CACHE / f"server-building-{os.getpid()}" / image.name
        beside.parent.mkdir()
        try:
            building = builder.build(
                beside, release=debian.RELEASE, cache=packages, report=lambda step, fraction: None, more=wanted
            )
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(builder, "_PACKAGES", [one for one in builder._PACKAGES if "linux-image" not in one])
                asyncio.run(building)
            beside.rename(image)
        finally:
            shutil.rmtree(beside.parent)
    return image


def _boot(image: pathlib.Path, storage: pathlib.Path) -> None:
    with pytest.MonkeyPatch.context() as patch, new_home(patch) as homes:
        asyncio.run(_booted_and_saved(homes, image))
        beside = storage.with_name(f"{storage.name}.part")
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        for path in (homes.path / "host.json", homes.local_storage / "vms", homes.local_storage / "images"):
            debian._copy(path, beside)
        beside.rename(storage)


async def _booted_and_saved(homes: home.Home, image: pathlib.Path) -> None:
    house = await House(homes).open()
    try:
        await house.add_image(image, "debian")
        empty = homes.path / "empty.iso"
        await asyncio.to_thread(write_cd, empty, ())
        await house.add_image(empty, "empty")
        machine = await house.create(
            NAME,
            image="debian",
            memory="1536M",
            cpu_model=debian.CPU_MODEL,
            cpus={"sockets": 1, "cores": 2},
            disk="10G",
            cds=["empty"],
            nics=[],
            board={"watchdog": {"action": "reset"}},
            seed={"user": debian.USER, "password": debian.PASSWORD},
        )
        disc = (await house.facts()).images["empty"]
        # The bus that a kernel for clouds drives.
        await change(house, machine, (vm.Cd(name="cd0", image=disc.uid, bus=vm.Bus.SCSI, unit=0),))
        started = await house.ask("vm.start", machine)
        assert started.status.state is work.TaskState.DONE, started.status
        finished = r"Cloud-init v\. .* finished .*DataSourceNoCloud"
        await house.console(machine).expect(pattern=finished, within=debian.BOOT_BOUND)
        server = Server(house, machine)
        await server.log_in()
        for line in _SETTLE.splitlines():
            await server.run(line)
        await server.run("systemctl is-system-running --wait || systemctl --failed --no-legend")
        saved = await house.ask("vm.save", machine)
        assert saved.status.state is work.TaskState.DONE, saved.status
    finally:
        await house.close()


def _forget_others(*present: pathlib.Path) -> None:
    for path in CACHE.glob("server-*"):
        if path not in present and path.stat().st_mtime < time.time() - debian._KEPT:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
