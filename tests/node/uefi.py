"""The `tiny` guest on a disk that UEFI boots, and what its shell says to the firmware and to a TPM."""

from __future__ import annotations

import gzip
import pathlib
import subprocess

from bocage.guest import packages, tiny

_GRUB = "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"
_SETTINGS = """\
linux /vmlinuz console=ttyS0 quiet panic=-1 cryptomgr.notests nokaslr mitigations=off no_timer_check
initrd /initrd
boot
"""
_VARIABLE = "/v/Bird-4b1f6ee6-1b68-4f3a-9a67-0c5f4be9a111"
MOUNT = (
    ". /usr/lib/tiny/devices; modules_of efivarfs; load_named $modules; mkdir -p /v; "
    "mount -t efivarfs none /v || echo variable-unmounted"
)
WRITE_VARIABLE = f"printf '\\007\\000\\000\\000heron' > {_VARIABLE}"
READ_VARIABLE = f"echo variable-$(dd if={_VARIABLE} bs=1 skip=4 2>/dev/null)"

_PASSWORD = "00000009 40000009 0000 00 0000"  # an empty one
_INDEX = "01800001"
_WORD = "brambles"


def _command(code: str, rest: str) -> str:
    """A TPM command as the shell's `printf` takes it (TPM 2.0, part 3)."""
    body = bytes.fromhex((code + rest).replace(" ", ""))
    whole = bytes.fromhex("8002") + (len(body) + 6).to_bytes(4) + body
    return "".join(f"\\{byte:03o}" for byte in whole)


def _asks(*commands: str) -> str:
    asked = "; ".join(f"printf '{one}' >&3; dd bs=512 count=1 <&3 2>/dev/null" for one in commands)
    return f"(exec 3<>/dev/tpm0; {asked}) | tr -cd a-z"


# An index of eight bytes, which the owner writes and reads.
_DEFINE = _command("0000012A", f"40000001 {_PASSWORD} 0000 000E {_INDEX} 000B 02020002 0000 0008")
_WRITE = _command("00000137", f"40000001 {_INDEX} {_PASSWORD} 0008 {_WORD.encode().hex()} 0000")
_READ = _command("0000014E", f"40000001 {_INDEX} {_PASSWORD} 0008 0000")
WRITE_TPM = _asks(_DEFINE, _WRITE)
READ_TPM = f"echo tpm-$( {_asks(_READ)})"
KEPT = f"tpm-{_WORD}"


async def image(path: pathlib.Path, *, cache: pathlib.Path) -> pathlib.Path:
    """Write the disk: one FAT file system with GRUB, the kernel and its root."""
    kernel, root = await tiny.system(cache=cache, scratch=path.parent, report=lambda *_: None, drivers=("efivarfs",))
    (package,) = await packages.fetch(packages.Wanted("grub-efi-amd64-signed"), cache=cache)
    unpacked = path.parent / "grub"
    await packages.unpack(package, into=unpacked)
    parts = {
        "EFI/BOOT/BOOTX64.EFI": (unpacked / _GRUB).read_bytes(),
        "EFI/debian/grub.cfg": _SETTINGS.encode(),
        "vmlinuz": kernel,
        "initrd": gzip.compress(root, 6, mtime=0),
    }
    with path.open("wb") as disk:
        disk.truncate(64 << 20)
    _run("mkfs.fat", "-F", "32", str(path))
    _run("mmd", "-i", str(path), "::/EFI", "::/EFI/BOOT", "::/EFI/debian")
    for inside, content in parts.items():
        beside = path.parent / "part"
        beside.write_bytes(content)
        _run("mcopy", "-o", "-i", str(path), str(beside), f"::/{inside}")
    return path


def _run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=60, capture_output=True)
