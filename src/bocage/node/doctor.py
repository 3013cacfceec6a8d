"""Checks of the machine: one line each, with what to do."""

from __future__ import annotations

import asyncio
import os
import pathlib
import shutil
import time
from collections.abc import Iterator
from typing import Any

from bocage import words
from bocage.model import ground
from bocage.node.shop import Shop
from bocage.storage import space
from bocage.words import N_

_PACKAGES = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "bwrap": "bubblewrap",
    "passt": "passt",
    "dnsmasq": "dnsmasq-base",
    "nft": "nftables",
    "ip": "iproute2",
    "mcopy": "mtools",
    "syslinux": "syslinux",
}
_NEEDED = {"qemu-system-x86_64", "qemu-img"}
_ROOT_ONLY = {"dnsmasq", "nft"}
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


class Slow(Finding):
    """The reason and its advice are the accelerator's own, as `host show` and `why` give them."""

    type = "doctor-slow"
    text = N_("accelerator: tcg, so guests run slowly: {reason}")
    hint = N_("{advice}")
    reason: str
    advice: str


class NoGroups(Finding):
    type = "doctor-no-cgroups"
    text = N_("control groups cannot be made here: the processes of a VM are not kept together")
    hint = N_("run as root, or let systemd delegate a group to this user")


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


async def examine(shop: Shop) -> dict[str, Any]:
    """Every check: its level (ok, warning, error), what is so, and what to do."""
    findings = [*_packages(), *_machine(shop), *await _storages(shop)]
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


def _packages() -> Iterator[Graded]:
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    for program, package in _PACKAGES.items():
        if program in _ROOT_ONLY and os.geteuid() != 0:
            continue
        if found := shutil.which(program, path=path):
            yield "ok", Fine(what=program, detail=found)
        else:
            yield "error" if program in _NEEDED else "warning", Lacking(what=program, package=package)


def _machine(shop: Shop) -> Iterator[Graded]:
    why = shop.ground.accelerator_reason
    if shop.ground.accelerator == "kvm":
        yield "ok", Fine(what="accelerator", detail="kvm")
    else:
        yield "warning", Slow(reason=words.say(why) if why else "", advice=words.advise(why) if why else "")
    yield ("ok", Fine(what="control groups", detail="used")) if shop.ground.cgroups else ("warning", NoGroups())
    now = time.time()
    said = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now))
    yield ("ok", Fine(what="clock", detail=said)) if now > _EARLIEST else ("error", ClockWrong(said=said))
    yield "ok", Fine(what="home", detail=str(shop.ground.home.path))


async def _storages(shop: Shop) -> list[Graded]:
    listing = await shop.ground.resources.list(ground.Storage)
    findings: list[Graded] = []
    for storage in listing.items:
        if storage.status.state == "unavailable":
            reason = storage.status.reason.text if storage.status.reason else ""
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


def _free(storage: ground.Storage) -> int:
    return space.free(pathlib.Path(storage.spec.path))
