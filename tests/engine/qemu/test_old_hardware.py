"""Old hardware as a program finds it that runs on it: each disk is booted from, each port written to."""

import asyncio
import dataclasses
import os
import pathlib
import pty
import socket
import time
import tty
from collections.abc import Iterator
from typing import Any

import pytest

from bocage.engine import base, block
from bocage.engine.qemu import machine
from bocage.model import board as boards
from bocage.model import vm as model
from bocage.model.units import Size
from bocage.planner import hardware
from tests import screen
from tests.engine.qemu import bootsector, specs
from tests.engine.qemu.vms import Vms

BOUND = 60.0  # seconds for anything that a guest does
IMAGE = "00000000-0000-4000-8000-0000000000aa"


def booting(vms: Vms, kind: str, sector: bytes, **more: Any) -> base.Plan:
    """A plan whose first disk is raw and begins with a sector."""
    plan = vms.plan(of=specs.spec(kind, **more))
    chains = dict(plan.chains)
    for name in list(chains)[:1]:
        path = plan.directory / f"{name}.raw"
        path.write_bytes(sector.ljust(1 << 20, b"\0"))
        chains[name] = (block.File(path, "raw"),)
    return dataclasses.replace(plan, chains=chains)


async def says(plan: base.Plan, text: str) -> str:
    """All that the guest said, once it has said this."""
    log = plan.directory / "serial.log"
    due = time.monotonic() + BOUND
    while text not in (said := log.read_text(errors="replace")):
        assert time.monotonic() < due, f"it did not say {text!r}, but {said[-500:]!r}"
        await asyncio.sleep(0.05)
    return said


async def shown(vm: machine.QemuMachine, to: pathlib.Path, text: str) -> list[str]:
    """The lines on the screen, once this is among them."""
    due = time.monotonic() + BOUND
    while True:
        await vm.screenshot(to)
        lines = screen.text(to.read_bytes())
        if any(text in line for line in lines):
            return lines
        assert time.monotonic() < due, "\n".join(lines)
        await asyncio.sleep(0.2)


@pytest.mark.guest
@pytest.mark.parametrize("kind", ["isapc", "ide", "sata", "lsi", "sas", "megasas", "pvscsi", "scsi", "virtio"])
async def test_a_disk_is_booted_from_on_every_bus(kind: str, vms: Vms) -> None:
    more = {"boot": model.Boot(order=("disk0",))}
    plan = booting(vms, kind, bootsector.Sector().say(f"booted from {kind}").finish(), **more)
    await vms.start(plan)
    await says(plan, f"booted from {kind}")


@pytest.mark.guest
@pytest.mark.parametrize("video", ["vga", "cirrus", "vmware", "virtio"])
@pytest.mark.parametrize("kind", ["ide", "sata", "isapc"])
async def test_what_a_program_prints_is_on_the_screen_of_every_card(
    kind: str, video: str, vms: Vms, tmp_path: pathlib.Path
) -> None:
    if kind == "isapc" and video in ("vmware", "virtio"):
        pytest.skip("these cards are for PCI")
    of = specs.spec(kind)
    board = of.hardware.model_copy(update={"video": boards.Video(video)})
    boot = model.Boot(order=("disk0",))
    plan = booting(vms, kind, bootsector.Sector().say("Hello from 1994").finish(), hardware=board, boot=boot)
    vm = await vms.start(plan)
    lines = await shown(vm, tmp_path / "screen.png", "Hello from 1994")
    assert "Hello from 1994" in lines


@pytest.mark.guest
@pytest.mark.parametrize("machine_", ["isapc", "pc", "q35"])
async def test_a_floppy_is_booted_from_ejected_and_another_one_read(machine_: str, vms: Vms) -> None:
    kind = {"isapc": "isapc", "pc": "ide", "q35": "floppies"}[machine_]
    drive = model.Cd(name="floppy0", bus=model.Bus.FLOPPY, unit=0, image=IMAGE)
    plan = vms.plan(of=specs.spec(kind, cds=(drive,), boot=model.Boot(order=("floppy0",))))
    first, second = plan.directory / "one.img", plan.directory / "two.img"
    for path, text in ((first, "from the first disk"), (second, "from the second disk")):
        path.write_bytes(bootsector.Sector().say(text).finish().ljust(1440 << 10, b"\0"))
        path.chmod(0o644)
    plan = dataclasses.replace(plan, cds={"floppy0": first})
    vm = await vms.start(plan)
    await says(plan, "from the first disk")
    await vm.disks.change_cd("floppy0", None)
    await vm.disks.change_cd("floppy0", second)
    await vm.reset()
    await says(plan, "from the second disk")


@pytest.mark.guest
@pytest.mark.parametrize("kind", ["isapc", "sb16"])
async def test_a_sound_blaster_answers_at_its_port(kind: str, vms: Vms) -> None:
    of = specs.spec(kind)
    more: dict[str, Any] = {"boot": model.Boot(order=("disk0",))}
    if kind == "sb16":
        more["disks"] = (specs.disk(of.hardware, 0, model.Bus.IDE),)
    plan = booting(vms, kind, bootsector.sound_blaster().finish(), **more)
    await vms.start(plan)
    await says(plan, "sound blaster answers")


@pytest.mark.guest
async def test_without_a_sound_card_nothing_answers_there(vms: Vms) -> None:
    plan = booting(vms, "ide", bootsector.sound_blaster().say("that was all").finish())
    await vms.start(plan)
    assert "answers" not in await says(plan, "that was all")


@pytest.mark.guest
async def test_an_isa_ne2000_answers_at_the_port_that_it_is_set_to(vms: Vms) -> None:
    base_port = 0x360  # of the fourth, which the first NIC of these specs is
    sector = bootsector.Sector().when(base_port + 0x1F, 0x00, "reset").when(base_port + 7, 0x80, "ne2000 answers")
    plan = booting(vms, "isapc", sector.say("that was all").finish(), boot=model.Boot(order=("disk0",)))
    await vms.start(plan)
    assert "ne2000 answers" in await says(plan, "that was all")


def port(name: str, number: int, **leads: Any) -> boards.GuestPort:
    kind = "parallel" if name.startswith("lpt") else "serial"
    return boards.GuestPort.model_validate({"name": name, "kind": kind, "number": number, **leads})


@pytest.mark.guest
async def test_serial_and_parallel_ports_lead_to_files_and_tcp_ports(vms: Vms) -> None:
    with socket.create_server(("127.0.0.1", 0)) as printer, socket.create_server(("127.0.0.1", 0)) as free:
        there, scales = printer.getsockname()[1], free.getsockname()[1]
        free.close()
        ports = (
            port("com2", 2, to="file"),
            port("com3", 3, to="listen", address=f"127.0.0.1:{scales}"),
            port("lpt1", 1, to="connect", address=f"127.0.0.1:{there}"),
        )
        sector = bootsector.Sector().out(bootsector.COM2, *b"to a file").print_parallel("on paper")
        sector = sector.say("written").until(0x3ED, 0x61).say("heard from the scales")
        plan = booting(vms, "ide", sector.finish(), ports=ports)
        vm = await vms.start(plan, paused=True)
        printer.settimeout(BOUND)
        paper, _ = await asyncio.to_thread(printer.accept)
        weight = socket.create_connection(("127.0.0.1", scales), timeout=BOUND)
        weight.sendall(b"4711")
        with paper, weight:
            await vm.resume()
            await says(plan, "heard from the scales")
            paper.settimeout(BOUND)
            printed = b""
            while len(printed) < len("on paper"):
                printed += await asyncio.to_thread(paper.recv, 64)
        assert printed == b"on paper"
    out = plan.directory / "com2.out"
    assert out.read_bytes() == b"to a file"


@pytest.fixture
def line(request: pytest.FixtureRequest) -> Iterator[tuple[str, int]]:
    """A serial port of the host, and our end of it: a terminal under the name of such a port."""
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    name = next(name for number in range(900, 999) if not os.path.lexists(name := f"/dev/ttyUSB{number}"))
    os.chmod(os.ttyname(theirs), 0o660)
    os.symlink(os.ttyname(theirs), name)
    yield name, ours
    os.unlink(name)
    os.close(ours)
    os.close(theirs)


@pytest.mark.guest
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a device")
async def test_a_serial_port_leads_to_one_of_the_host(line: tuple[str, int], vms: Vms) -> None:
    device, ours = line
    sector = bootsector.Sector().out(bootsector.COM2, *b"to the modem").until(0x2FD, 0x61).say("heard the modem")
    plan = booting(vms, "ide", sector.finish(), ports=(port("com2", 2, to="device", device=device),))
    await vms.start(plan)
    heard = b""
    async with asyncio.timeout(BOUND):
        while len(heard) < len("to the modem"):
            heard += await asyncio.to_thread(os.read, ours, 64)
        assert heard == b"to the modem"
        os.write(ours, b"OK")
        await says(plan, "heard the modem")


@pytest.mark.guest
async def test_firmware_that_boots_from_a_virtio_disk_does_not_pass_for_the_guests_driver(vms: Vms) -> None:
    plan = booting(vms, "virtio", bootsector.Sector().say("no driver here").finish())
    vm = await vms.start(plan)
    await says(plan, "no driver here")
    assert await vm.drives_virtio("disk0") is False
    assert await vm.drives_virtio("disk9") is False


def wound_up_once(model_: str) -> bytes:
    """Starts a watchdog with the shortest time that it has, and never looks at it again."""
    sector = bootsector.Sector().say("winding")
    if model_ == "ib700":
        return sector.out(0x443, 0x0F).finish()  # no time at all
    slot = 0x1F  # where it sits on a board of i440FX
    sector.configure_pci(slot, 0x60, 0x0004, width=2)  # its clock at 1 MHz: two seconds until the end
    return sector.configure_pci(slot, 0x68, 0x02, width=1).finish()  # begin


@pytest.mark.guest
@pytest.mark.parametrize("model_", ["i6300esb", "ib700"])
async def test_a_watchdog_that_is_not_wound_up_does_what_it_should_and_tells(model_: str, vms: Vms) -> None:
    of = specs.spec("ide", memory=Size.parse("64M"))
    board = hardware.refit(of, {"watchdog": {"model": model_, "action": "pause"}})
    plan = booting(vms, "ide", wound_up_once(model_), hardware=board, memory=Size.parse("64M"))
    vm = await vms.start(plan)
    await says(plan, "winding")
    async with asyncio.timeout(BOUND):
        while vm.run is not base.Run.PAUSED:
            await asyncio.sleep(0.05)
            await vm.look()
    assert [(one.what, one.fields["action"]) for one in vms.happened if one.what == "watchdog"] == [
        ("watchdog", "pause")
    ]
