"""Secure Boot with Debian's own signed loaders, and a TPM as the guest sees it."""

from __future__ import annotations

import pathlib
import subprocess

import pytest

from tests.daemon.conftest import Unpacked
from tests.daemon.host import Host
from tests.node import debian

pytestmark = [pytest.mark.guest, pytest.mark.slow]
GRUB_SAYS = "the signed loader runs"
# TPM2_PCR_Extend of register 16, which is anybody's, with an empty password.
_COMMAND = "8002 00000041 00000182 00000010 00000009 40000009 0000 00 0000 00000001 000b"
_BYTES = "".join(f"\\{byte:03o}" for byte in bytes.fromhex(_COMMAND.replace(" ", "")))
EXTEND = f"exec 3<>/dev/tpm0; printf '{_BYTES}{'heron' * 6}12' >&3; dd bs=64 count=1 <&3 >/dev/null 2>&1"


def esp(path: pathlib.Path, shim: bytes, unpacked: Unpacked) -> pathlib.Path:
    """A disk with a boot loader: shim, which Microsoft vouches for, and GRUB, which Debian does."""
    grub = unpacked("grub-efi-amd64-signed") / "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"
    (path.parent / "grub.cfg").write_text(f"echo '{GRUB_SAYS}'\nsleep 600\n")
    (path.parent / "shim.efi").write_bytes(shim)
    with path.open("wb") as disk:
        disk.truncate(64 << 20)
    made = [
        ["mkfs.fat", "-F", "32", str(path)],
        ["mmd", "-i", str(path), "::/EFI", "::/EFI/BOOT", "::/EFI/debian"],
        ["mcopy", "-i", str(path), str(path.parent / "shim.efi"), "::/EFI/BOOT/BOOTX64.EFI"],
        ["mcopy", "-i", str(path), str(grub), "::/EFI/BOOT/grubx64.efi"],
        ["mcopy", "-i", str(path), str(path.parent / "grub.cfg"), "::/EFI/debian/grub.cfg"],
    ]
    for command in made:
        subprocess.run(command, check=True, timeout=30, capture_output=True)
    return path


def boot(host: Host, disk: pathlib.Path, *options: str) -> None:
    for arguments in (
        ["image", "add", str(disk), "--name", "loader"],
        ["vm", "create", "box", "--image", "loader", "--memory", "256M", "--network", "none", *options, "--start"],
    ):
        ran = host.run(*arguments)
        assert ran.returncode == 0, ran.stderr


def says(host: Host, name: str, pattern: str) -> str:
    return host.api.vms.expect(name, pattern, timeout=120.0)


def test_what_is_signed_boots_with_secure_boot(host: Host, tmp_path: pathlib.Path, unpacked: Unpacked):
    shim = (unpacked("shim-signed") / "usr/lib/shim/shimx64.efi.signed").read_bytes()
    boot(host, esp(tmp_path / "esp.img", shim, unpacked), "--secure-boot")
    assert GRUB_SAYS in says(host, "box", GRUB_SAYS)
    assert host.vm("box")["spec"]["hardware"]["secure_boot"]


def test_debian_boots_whole_with_secure_boot_and_finds_its_tpm(host: Host, packages_cache: pathlib.Path):
    boot(host, debian.image(packages_cache), "--secure-boot", "--tpm")
    says(host, "box", "secureboot: Secure boot enabled")
    said = (host.homes.by_name / "default/box/serial.log").read_text(errors="replace")
    assert "Kernel is locked down from EFI Secure Boot" in said
    says(host, "box", "ACPI: TPM2")


@pytest.mark.parametrize("secure", [True, False])
def test_a_loader_that_was_tampered_with_boots_only_without_secure_boot(
    secure: bool, host: Host, tmp_path: pathlib.Path, unpacked: Unpacked
):
    shim = bytearray((unpacked("shim-signed") / "usr/lib/shim/shimx64.efi.signed").read_bytes())
    where = shim.index(b"shim,")  # its own name, in a section that is signed and never run
    shim[where] ^= 0x20
    disk = esp(tmp_path / "esp.img", bytes(shim), unpacked)
    boot(host, disk, *(["--secure-boot"] if secure else ["--firmware", "uefi"]))
    if secure:
        says(host, "box", "Access Denied|Security Violation")
        assert GRUB_SAYS not in (host.homes.by_name / "default/box/serial.log").read_text(errors="replace")
    else:
        says(host, "box", GRUB_SAYS)


@pytest.mark.parametrize("interface", ["crb", "tis"])
def test_the_guest_sees_a_tpm_2_0_that_keeps_its_measurements_apart(interface: str, tiny_host: Host):
    made = tiny_host.run(
        "vm", "create", "box", "--image", "tiny", "--memory", "128M", "--network", "none",
        "--board", f"tpm={interface}", "--start",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    says(tiny_host, "box", "^tiny: ready")
    expect = tiny_host.api.vms.expect
    asked = "echo tpm is $(cat /sys/class/tpm/tpm0/tpm_version_major)"
    assert expect("box", r"^tpm is \d", send=asked, timeout=60.0).strip() == "tpm is 2"
    asked = "echo pcr $(cat /sys/class/tpm/tpm0/pcr-sha256/0)"
    measured = expect("box", r"^pcr [0-9A-F]{64}", send=asked, timeout=60.0).split()[1]
    assert set(measured) != {"0"}  # the firmware has measured itself


def test_what_a_tpm_measured_goes_on_with_saved_memory_on_another_storage_too(tiny_host: Host):
    made = tiny_host.run(
        "vm", "create", "box", "--image", "tiny", "--memory", "128M", "--network", "none", "--tpm", "--start"
    )
    assert made.returncode == 0, made.stderr
    says(tiny_host, "box", "^tiny: ready")
    expect, asked = tiny_host.api.vms.expect, "echo pcr $(cat /sys/class/tpm/tpm0/pcr-sha256/16)"
    unmeasured = expect("box", r"^pcr [0-9A-F]{64}", send=asked, timeout=60.0)
    before = expect("box", r"^pcr [0-9A-F]{64}", send=f"{EXTEND}; {asked}", timeout=60.0)
    assert before != unmeasured
    other = tiny_host.path / "other"
    assert tiny_host.run("storage", "create", "other", "--path", str(other)).returncode == 0
    refused = tiny_host.run("vm", "migrate", "box", "--storage", "other")
    assert "'bocage vm save box' first" in refused.stderr
    tiny_host.done(tiny_host.api.vms.act("box", "save"))
    moved = tiny_host.run("vm", "migrate", "box", "--storage", "other")
    assert moved.returncode == 0, moved.stderr
    tiny_host.done(tiny_host.api.vms.start("box"))
    assert expect("box", r"^pcr [0-9A-F]{64}", send=asked, timeout=60.0) == before
    assert list(other.glob("vms/*/tpm.state"))
