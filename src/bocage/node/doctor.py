"""Checks of the machine: one line each, with what to do."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import pathlib
import shutil
import socket
import time
from collections.abc import Iterator
from typing import Any

from bocage import words
from bocage.model import ground, vm
from bocage.node.shop import Shop
from bocage.storage import space
from bocage.words import N_

_HOLDS_BACK = pathlib.Path("/proc/sys/vm/unprivileged_userfaultfd")  # 1: each process may hold back its own writes
_EARLIEST = 1_735_689_600  # 2025-01-01: no clock of a machine that runs this is right before it
_LOW = 2 << 30  # bytes


class Finding(words.Message):
    """One line of the doctor's."""


class Fine(Finding):
    type = "doctor-fine"
    text = N_("{what}: {detail}")
    what: str
    detail: str


class Lacking(Finding):
    type = "doctor-lacking"
    text = N_("{what} is not installed")
    hint = N_("apt install {package}")
    what: str
    package: str


class LackingForUefi(Lacking):
    type = "doctor-lacking-for-uefi"
    text = N_("{what} is not installed: there are no VMs with UEFI firmware")


class LackingForProfiles(Lacking):
    type = "doctor-lacking-for-profiles"
    text = N_("{what} is not installed: 'bocage vm create --os' does not work")


class LackingForTpm(Lacking):
    type = "doctor-lacking-for-tpm"
    text = N_("{what} is not installed: there are no VMs with a TPM")


class LackingForBuilds(Lacking):
    type = "doctor-lacking-for-builds"
    text = N_("{what} is not installed: 'bocage image build' does not work")


class LackingForNetworks(Lacking):
    type = "doctor-lacking-for-networks"
    text = N_("{what} is not installed: networks of the kinds nat and isolated do not work")


class LackingForUserNetworks(Lacking):
    type = "doctor-lacking-for-user-networks"
    text = N_("{what} is not installed: networks of the kind user are QEMU's own, which is slower")


class LackingForIsolation(Lacking):
    type = "doctor-lacking-for-isolation"
    text = N_("{what} is not installed: VMs run without a mount namespace of their own")


class LackingForDisks(Lacking):
    type = "doctor-lacking-for-disks"
    text = N_("{what} is not installed: of disks, 'bocage storage create --disk' and 'bocage host disks' do less")


class LackingForIpmi(Lacking):
    type = "doctor-lacking-for-ipmi"
    text = N_("{what} is not installed: this host cannot ask those BMCs that are set with ipmi://")


class Slow(Finding):
    """The reason and its advice are the accelerator's own, as `host show` and `why` give them."""

    type = "doctor-slow"
    text = N_("accelerator: tcg, so guests run slowly: {reason}")
    hint = N_("{advice}")
    reason: str
    advice: str


class PortTaken(Finding):
    type = "doctor-port-taken"
    text = N_("port {port}/{protocol} of {address}, which {name} publishes, is taken by another program")
    hint = N_("'ss -lntup' shows which; {name} does not start before it is free")
    name: str
    address: str
    port: int
    protocol: str


class NoGroups(Finding):
    type = "doctor-no-cgroups"
    text = N_("control groups cannot be made here: the processes of a VM are not kept together")
    hint = N_("run as root, or let systemd delegate a group to this user")


class MemoryBehind(Finding):
    type = "doctor-memory-behind"
    text = N_("snapshots with memory: written behind the guest, which goes on at once")


class MemoryAhead(Finding):
    type = "doctor-memory-ahead"
    text = N_(
        "snapshots with memory: the guest stands while the last of it is written; "
        "'sysctl vm.unprivileged_userfaultfd=1' would spare it that"
    )


class MemoryAheadAlways(Finding):
    type = "doctor-memory-ahead-always"
    text = N_("snapshots with memory: the guest stands while the last of it is written, for want of userfaultfd")


class ClockWrong(Finding):
    type = "doctor-clock"
    text = N_("the clock says {said}, which cannot be")
    hint = N_("set it, and keep it right: apt install systemd-timesyncd")
    said: str


class StorageLow(Finding):
    type = "doctor-storage-low"
    text = N_("storage {name} has {free:size} free")
    hint = N_("make room: 'bocage volume list', 'bocage image list'")
    name: str
    free: int


class StorageGone(Finding):
    type = "doctor-storage-gone"
    text = N_("storage {name} is not there: {reason}")
    hint = N_("is its file system mounted?")
    name: str
    reason: str


_NEEDED: tuple[tuple[str, str, type[Lacking]], ...] = (
    ("qemu-system-x86_64", "qemu-system-x86", Lacking),
    ("qemu-img", "qemu-utils", Lacking),
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "ovmf", LackingForUefi),
    ("swtpm", "swtpm", LackingForTpm),
    ("/usr/share/osinfo/VERSION", "osinfo-db", LackingForProfiles),
    ("bwrap", "bubblewrap", LackingForIsolation),
    ("passt", "passt", LackingForUserNetworks),
    ("ip", "iproute2", Lacking),
    ("mcopy", "mtools", LackingForBuilds),
    ("mkfs.fat", "dosfstools", LackingForBuilds),
    ("mke2fs", "e2fsprogs", LackingForBuilds),
    ("syslinux", "syslinux", LackingForBuilds),
    ("/usr/lib/syslinux/mbr/mbr.bin", "syslinux-common", LackingForBuilds),
    ("mmdebstrap", "mmdebstrap", LackingForBuilds),
)
"""Programs, or files, and the Debian packages that bring them; the same as in script/packages."""
_AS_ROOT = (
    ("nft", "nftables", LackingForNetworks),
    ("dnsmasq", "dnsmasq-base", LackingForNetworks),
    ("mkfs.xfs", "xfsprogs", LackingForDisks),
    ("mdadm", "mdadm", LackingForDisks),
    ("smartctl", "smartmontools", LackingForDisks),
)


_FOR_IPMI = ("ipmitool", "ipmitool", LackingForIpmi)


async def examine(shop: Shop) -> dict[str, Any]:
    """Every check: its level (ok, warning, error), what is so, and what to do."""
    findings = [*await _packages(shop), *_machine(shop), *await _storages(shop), *await _ports(shop)]
    return {
        "checks": [
            {
                "level": level,
                "type": found.type,
                "params": found.params,
                "text": words.say(found),
                "hint": words.advise(found),
            }
            for level, found in findings
        ]
    }


Graded = tuple[str, Finding]


async def _packages(shop: Shop) -> list[Graded]:
    hosts = (await shop.ground.resources.list(ground.Host)).items
    by_ipmi = any(host.spec.bmc and host.spec.bmc.kind == "ipmi" for host in hosts)
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    findings: list[Graded] = []
    for what, package, lacking in (
        *_NEEDED,
        *(_AS_ROOT if os.geteuid() == 0 else ()),
        *([_FOR_IPMI] if by_ipmi else []),
    ):
        if found := shutil.which(what, path=path, mode=os.F_OK):
            findings.append(("ok", Fine(what=package if what.startswith("/") else what, detail=found)))
        else:
            findings.append(("error" if lacking is Lacking else "warning", lacking(what=what, package=package)))
    return findings


def _machine(shop: Shop) -> Iterator[Graded]:
    why = shop.ground.accelerator_reason
    if shop.ground.accelerator == "kvm":
        yield "ok", Fine(what="accelerator", detail="kvm")
    else:
        yield "warning", Slow(reason=words.say(why) if why else "", advice=words.advise(why) if why else "")
    yield ("ok", Fine(what="control groups", detail="used")) if shop.ground.cgroups else ("warning", NoGroups())
    yield "ok", _memory()
    now = time.time()
    said = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now))
    yield ("ok", Fine(what="clock", detail=said)) if now > _EARLIEST else ("error", ClockWrong(said=said))
    yield "ok", Fine(what="home", detail=str(shop.ground.home.path))


def _memory() -> Finding:
    """How QEMU can write the memory of a VM that runs; it itself is asked each time."""
    try:
        return MemoryBehind() if int(_HOLDS_BACK.read_text()) else MemoryAhead()
    except (OSError, ValueError):
        return MemoryAheadAlways()


async def _storages(shop: Shop) -> list[Graded]:
    listing = await shop.ground.resources.list(ground.Storage)
    findings: list[Graded] = []
    for storage in listing.items:
        if not storage.concerns(shop.ground.uid):
            continue
        if storage.status.state == "unavailable" or not storage.reached_by(shop.ground.uid):
            told = storage.reason_on(shop.ground.uid)
            reason = told.text if told else ""
            findings.append(("error", StorageGone(name=storage.name, reason=reason)))
            continue
        free = await asyncio.to_thread(_free, storage)
        low = free < _LOW
        findings.append(
            ("warning", StorageLow(name=storage.name, free=free))
            if low
            else ("ok", Fine(what=f"storage {storage.name}", detail=f"{words.size(free)} free"))
        )
    return findings


async def _ports(shop: Shop) -> list[Graded]:
    """The API's own address, and the ports that VMs publish and do not have yet."""
    findings: list[Graded] = []
    with contextlib.suppress(OSError, ValueError, KeyError):
        listen = json.loads(await asyncio.to_thread(shop.ground.home.pid_file.read_text))["listen"]
        findings.append(("ok", Fine(what="API", detail=f"listens on {listen} and on {shop.ground.home.socket}")))
    for machine in (await shop.ground.resources.list(vm.VM)).items:
        if machine.status.state not in (vm.State.STOPPED, vm.State.CRASHED, vm.State.SAVED):
            continue
        for port in (port for nic in machine.spec.nics for port in nic.publish):
            if await asyncio.to_thread(_is_taken, port):
                told = PortTaken(
                    name=machine.name, address=port.host_address, port=port.host_port, protocol=port.protocol
                )
                findings.append(("warning", told))
    return findings


def _is_taken(port: vm.Publish) -> bool:
    family = socket.AF_INET6 if ":" in port.host_address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM if port.protocol == "tcp" else socket.SOCK_DGRAM) as probe:
        if port.protocol == "tcp":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((port.host_address, port.host_port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def _free(storage: ground.Storage) -> int:
    return space.free(pathlib.Path(storage.spec.path))
