"""Old systems as an administrator makes them: by the command line, on a real daemon, read off their screens."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import socket
import subprocess
import time
from typing import Any

import pytest

from bocage.engine.qemu import processes, record
from tests import screen
from tests.daemon.conftest import Unpacked
from tests.daemon.host import Host
from tests.engine.qemu import bootsector

pytestmark = [pytest.mark.guest, pytest.mark.slow]
BOUND = 240.0  # seconds for anything that a guest does


def bocage(host: Host, *arguments: str) -> str:
    ran = host.run(*arguments)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def add(host: Host, path: pathlib.Path, name: str) -> None:
    bocage(host, "image", "add", str(path), "--name", name)


def shows(host: Host, name: str, text: str, tmp_path: pathlib.Path) -> list[str]:
    """The lines on the VM's screen, once this is among them."""
    picture, due = tmp_path / f"{name}.png", time.monotonic() + BOUND
    while True:
        bocage(host, "vm", "screenshot", name, str(picture))
        lines = screen.text(picture.read_bytes())
        if any(text in line for line in lines):
            return lines
        assert time.monotonic() < due, "\n".join(lines)
        time.sleep(1.0)


def floppy(path: pathlib.Path, text: str) -> pathlib.Path:
    path.write_bytes(bootsector.Sector().say(text).finish().ljust(1440 << 10, b"\0"))
    return path


def hardware(host: Host, name: str) -> dict[str, Any]:
    found: dict[str, Any] = host.vm(name)["spec"]["hardware"]
    return found


def test_the_systems_are_listed_with_what_each_gets(host: Host):
    listed = json.loads(bocage(host, "os", "list", "--json"))["items"]
    found = {one["name"]: one for one in listed}
    assert found["msdos6.22"]["hardware"]["machine"] == "isapc"
    assert "win2k3" in bocage(host, "os", "list", "win2k")
    assert "localtime" in bocage(host, "os", "show", "win2k3")
    assert "isapc" in bocage(host, "os", "show", "msdos6.22")
    assert "ok  osinfo-db" in host.run("doctor").stdout
    assert host.api.system("debian11")["hardware"]["disk_bus"] == "virtio"
    refused = host.run("vm", "create", "box", "--os", "winxpp")
    assert refused.returncode != 0
    assert "winxp" in refused.stderr


def test_a_dos_machine_boots_from_one_floppy_and_then_from_another(host: Host, tmp_path: pathlib.Path):
    add(host, floppy(tmp_path / "one.img", "STARTING FROM DISK ONE"), "one")
    add(host, floppy(tmp_path / "two.img", "STARTING FROM DISK TWO"), "two")
    bocage(host, "vm", "create", "dos", "--os", "msdos6.22", "--floppy", "one", "--network", "none", "--start")
    made = hardware(host, "dos")
    assert (made["machine"], made["video"], made["sound"], made["pointer"]) == ("isapc", "cirrus", "sb16", "ps2")
    assert "STARTING FROM DISK ONE" in shows(host, "dos", "STARTING FROM DISK ONE", tmp_path)
    bocage(host, "vm", "floppy", "eject", "dos")
    bocage(host, "vm", "floppy", "insert", "dos", "two")
    bocage(host, "vm", "reset", "dos")
    shows(host, "dos", "STARTING FROM DISK TWO", tmp_path)
    assert "floppy0" in bocage(host, "vm", "show", "dos")
    bocage(host, "vm", "kill", "dos")


def test_too_much_for_a_system_is_refused_at_creation_and_later(host: Host):
    refused = host.run("vm", "create", "dos", "--os", "msdos6.22", "--memory", "128M")
    assert refused.returncode != 0
    assert "64M" in refused.stderr
    bocage(host, "vm", "create", "dos", "--os", "msdos6.22", "--network", "none")
    assert host.run("vm", "set", "dos", "--memory", "128M").returncode != 0
    bocage(host, "vm", "set", "dos", "--board", "limit-memory=256M", "--memory", "128M")
    assert host.vm("dos")["spec"]["memory"] == "128M"


def test_a_newer_release_than_the_database_knows_is_made_as_its_forerunner_and_told(host: Host):
    made = host.run("vm", "create", "box", "--os", "debian99", "--network", "none", "--disk", "1G")
    assert made.returncode == 0, made.stderr
    assert "debian99" in made.stderr
    assert hardware(host, "box")["os"].startswith("debian")


def test_the_board_is_changed_by_options_and_by_hand_and_waits_for_a_cold_start(host: Host, tmp_path: pathlib.Path):
    add(host, floppy(tmp_path / "one.img", "HELLO"), "one")
    bocage(host, "vm", "create", "nt", "--os", "winnt4.0", "--floppy", "one", "--network", "none", "--start")
    shows(host, "nt", "HELLO", tmp_path)
    bocage(host, "vm", "set", "nt", "--board", "sound=ac97,rtc=utc", "--serial", "file")
    pending = {one["path"] for one in host.api.vms.diff("nt")["pending"]}
    assert {"hardware.sound", "hardware.rtc.base", "hardware.devices.sound"} <= pending
    assert any(path.startswith("ports") for path in pending)
    definition = host.homes.local_storage / "vms" / host.vm("nt")["metadata"]["uid"] / "vm.yaml"
    definition.write_text(definition.read_text().replace("video: cirrus", "video: vga"))
    bocage(host, "vm", "apply", "nt")
    assert hardware(host, "nt")["video"] == "vga"
    bocage(host, "vm", "kill", "nt")
    bocage(host, "vm", "start", "nt")
    shows(host, "nt", "HELLO", tmp_path)
    line = bocage(host, "vm", "command", "nt")
    assert '"AC97"' in line
    assert '"VGA"' in line
    assert host.api.vms.diff("nt")["pending"] == []
    bocage(host, "vm", "kill", "nt")


def test_memtest_runs_on_a_pentium_iii_from_its_cd(host: Host, tmp_path: pathlib.Path, unpacked: Unpacked):
    add(host, unpacked("memtest86+") / "usr/lib/memtest86+/memtest86+ia32.iso", "memtest")
    bocage(
        host, "vm", "create", "old", "--os", "win2k", "--cd", "memtest", "--memory", "64M", "--disk", "1M",
        "--network", "none", "--start",
    )  # fmt: skip
    lines = shows(host, "old", "CLK/Temp", tmp_path)
    assert any("Memtest86+" in line for line in lines)
    assert any("Pentium" in line for line in lines), lines
    bocage(host, "vm", "kill", "old")


def test_memtest_runs_on_a_pc_with_an_isa_bus_alone_from_a_floppy(
    host: Host, tmp_path: pathlib.Path, unpacked: Unpacked
):
    program = unpacked("memtest86+") / "boot/memtest86+ia32.bin"
    image = tmp_path / "boot.img"
    for command in (
        ["mformat", "-C", "-i", str(image), "-f", "1440", "::"],
        ["mcopy", "-i", str(image), str(program), "::memtest"],
        ["syslinux", "--install", str(image)],
    ):
        subprocess.run(command, check=True, timeout=30, capture_output=True)
    (tmp_path / "syslinux.cfg").write_text("default memtest\nlabel memtest\n  linux memtest\n")
    subprocess.run(["mcopy", "-i", str(image), str(tmp_path / "syslinux.cfg"), "::"], check=True, timeout=30)
    add(host, image, "boot")
    bocage(host, "vm", "create", "isa", "--machine", "isapc", "--floppy", "boot", "--memory", "16M",
           "--network", "none", "--start")  # fmt: skip
    shows(host, "isa", "CLK/Temp", tmp_path)
    bocage(host, "vm", "kill", "isa")


@pytest.mark.parametrize("card", ["rtl8139", "ne2k", "pcnet", "tulip", "e1000", "e1000e", "vmxnet3", "virtio"])
def test_a_program_drives_each_network_card_and_gets_an_address(
    card: str, host: Host, tmp_path: pathlib.Path, unpacked: Unpacked
):
    add(host, unpacked("ipxe") / "usr/lib/ipxe/ipxe.iso", "ipxe")
    machine = "q35" if card in ("e1000e", "vmxnet3") else "pc"
    bocage(
        host, "vm", "create", "net", "--cd", "ipxe", "--machine", machine, "--network", f"default,model={card}",
        "--memory", "64M", "--disk", "1M", "--start",
    )  # fmt: skip
    shows(host, "net", "Configuring (net0", tmp_path)
    shows(host, "net", "... ok", tmp_path)
    bocage(host, "vm", "kill", "net")


def test_debians_installer_for_i386_runs_on_hardware_of_its_first_years(
    host: Host, tmp_path: pathlib.Path, unpacked: Unpacked
):
    room = next(unpacked("debian-installer-12-netboot-i386").rglob("text/debian-installer/i386"))
    image = tmp_path / "installer.img"
    with image.open("wb") as disk:
        disk.truncate(96 << 20)
    (tmp_path / "syslinux.cfg").write_text(
        "default installer\nlabel installer\n  linux linux\n  initrd initrd.gz\n"
        "  append vga=normal nomodeset fb=false lowmem/low=note panic=5\n"
    )
    for command in (
        ["mkfs.fat", "-F", "16", str(image)],
        ["mcopy", "-i", str(image), *(str(room / name) for name in ("linux", "initrd.gz")), "::"],
        ["mcopy", "-i", str(image), str(tmp_path / "syslinux.cfg"), "::"],
        ["syslinux", "--install", str(image)],
    ):
        subprocess.run(command, check=True, timeout=60, capture_output=True)
    add(host, image, "installer")
    bocage(
        host, "vm", "create", "inst", "--os", "debian4", "--image", "installer", "--memory", "512M",
        "--cpu-model", "pentium3-v1", "--board", "video=cirrus", "--network", "default,model=ne2k", "--start",
    )  # fmt: skip
    made = hardware(host, "inst")
    assert made["machine"].startswith("pc-i440fx-")
    assert host.vm("inst")["spec"]["disks"][0]["bus"] == "ide"
    lines = shows(host, "inst", "Select a language", tmp_path)
    assert any("English" in line for line in lines), lines
    bocage(host, "vm", "kill", "inst")


def test_a_killed_tpm_is_told_and_back_after_a_restart_and_what_serves_a_port_at_once(
    host: Host, tmp_path: pathlib.Path
):
    add(host, floppy(tmp_path / "one.img", "HELLO"), "one")
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    bocage(host, "vm", "create", "safe", "--machine", "pc", "--floppy", "one", "--tpm", "--disk", "1M",
           "--network", "none", "--serial", f"listen:{address},rfc2217", "--start")  # fmt: skip
    uid = host.vm("safe")["metadata"]["uid"]
    state = host.homes.local_storage / "vms" / uid / "tpm.state"
    assert state.stat().st_size > 0

    def running() -> list[processes.Found]:
        found = processes.find(host.homes.vm_runtime(uid))
        return [one for one in found if pathlib.PurePath(one.arguments[0]).name == "swtpm"]

    assert len(running()) == 1
    swtpm, vm = running()[0].identity.pid, host.vm("safe")
    groups = [pathlib.Path(f"/proc/{pid}/cgroup").read_text() for pid in (swtpm, vm["status"]["pid"])]
    assert groups[0] == groups[1]
    if own := vm["status"]["isolation"]["uid"]:
        assert pathlib.Path(f"/proc/{swtpm}").stat().st_uid == own
    kept = record.read(host.homes.vm_runtime(uid) / "process.json")
    assert kept is not None
    for one in (kept.ports["com2"].process, running()[0].identity):
        os.kill(one.pid, signal.SIGKILL)
    host.until(lambda: host.vm("safe"), lambda vm: vm["status"]["tpm_lost"])
    told = {"vm-tpm-lost", "vm-port-mended"}
    host.until(lambda: {one["spec"]["said"]["type"] for one in host.api.events.list()["items"]}, told.issubset)
    host.until(
        lambda: [one["spec"]["said"]["type"] for one in host.api.alarms.list()["items"]],
        lambda types: "alarm-tpm-lost" in types,
    )
    assert host.vm("safe")["status"]["state"] == "running"
    bocage(host, "vm", "kill", "safe")
    bocage(host, "vm", "start", "safe")
    assert not host.vm("safe")["status"]["tpm_lost"]
    assert len(running()) == 1
    host.kill()
    host.start()
    host.becomes("safe", "running")
    assert not host.vm("safe")["status"]["tpm_lost"]
    bocage(host, "vm", "kill", "safe")
    assert running() == []


def test_the_board_moves_to_a_newer_machine_type_at_the_next_cold_start(host: Host, tmp_path: pathlib.Path):
    add(host, floppy(tmp_path / "one.img", "HELLO"), "one")
    bocage(host, "vm", "create", "old", "--machine", "pc", "--floppy", "one", "--network", "none", "--disk", "1M")
    assert host.run("vm", "upgrade-hardware", "old").returncode != 0
    document = host.vm("old")
    newest = document["spec"]["hardware"]["machine"]
    document["spec"]["hardware"]["machine"] = "pc-i440fx-2.4"
    host.api.vms.replace("old", {key: document[key] for key in ("metadata", "spec")})
    host.until(
        lambda: [one["spec"]["said"]["type"] for one in host.api.alarms.list()["items"]],
        lambda types: "alarm-machine-type-ends" in types,
    )
    bocage(host, "vm", "start", "old")
    shows(host, "old", "HELLO", tmp_path)
    said = host.run("vm", "upgrade-hardware", "old")
    assert newest in said.stdout
    assert "cold start" in said.stdout
    assert {one["path"] for one in host.api.vms.diff("old")["pending"]} == {"hardware.machine"}
    bocage(host, "vm", "kill", "old")
    bocage(host, "vm", "start", "old")
    shows(host, "old", "HELLO", tmp_path)
    host.until(
        lambda: [one["spec"]["said"]["type"] for one in host.api.alarms.list()["items"]],
        lambda types: "alarm-machine-type-ends" not in types,
    )
    bocage(host, "vm", "kill", "old")
