"""The disks of a host: what each is, how it is, and what lies on it (lsblk(8), wipefs(8), smartctl(8))."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from typing import Any

from bocage import errors, process, storage
from bocage.model import ground
from bocage.words import N_

_BOUND = 60.0  # seconds; a disk that is broken answers late
_ASKED = "NAME,PATH,TYPE,SIZE,MODEL,SERIAL,WWN,TRAN,ROTA,RO,FSTYPE,PTTYPE,MOUNTPOINTS"
_UNREADABLE = 0b11  # of smartctl's exit code: it could not be asked (smartctl(8), "exit status")


class NotADisk(storage.Error, errors.Invalid):
    type = "disk-is-none"
    text = N_("{path} is no disk of this host")
    hint = N_("'bocage host disks' lists them")
    path: str


class NotEmpty(storage.Error, errors.Conflict):
    """Something lies on it, or it is in use: it is never made a storage over that."""

    type = "disk-not-empty"
    text = N_("{path} is not empty: {content}")
    hint = N_("look at it; when nothing on it is needed any more, 'wipefs --all {path}' takes the signatures away")
    path: str
    content: str


async def look(path: str | None = None) -> list[ground.HostDisk]:
    """All disks, or the one block device at `path`. Raises NotADisk."""
    asked = ["lsblk", "--json", "--bytes", "--output", _ASKED, *([path] if path else [])]
    if path:
        _check_is_block(path)
    told = json.loads(await process.run(*asked, within=_BOUND))["blockdevices"]
    disks = [one for one in told if one["size"] and (path or one["type"] == "disk")]
    return [disk(one, await _smart(one["path"])) for one in disks]


def disk(told: Mapping[str, Any], smart: Mapping[str, Any]) -> ground.HostDisk:
    """A disk from what lsblk and smartctl tell, as JSON; without an answer of smartctl's its health is not known."""
    passed = smart.get("smart_status", {}).get("passed")
    nvme = smart.get("nvme_smart_health_information_log", {})
    return ground.HostDisk(
        path=told["path"],
        size_bytes=int(told["size"]),
        model=(told.get("model") or smart.get("model_name") or "").strip(),
        serial=(told.get("serial") or smart.get("serial_number") or "").strip(),
        wwn=told.get("wwn") or "",
        transport=told.get("tran") or "",
        rotational=bool(told.get("rota")),
        read_only=bool(told.get("ro")),
        content=tuple(_content(told)),
        health="unknown" if passed is None else "good" if passed else "failing",
        temperature=smart.get("temperature", {}).get("current"),
        hours=smart.get("power_on_time", {}).get("hours"),
        worn_percent=nvme.get("percentage_used"),
    )


def _content(told: Mapping[str, Any]) -> Iterator[str]:
    """What lies on a device and who uses it, in the words of the tools: `gpt`, `xfs`, `/srv`, `sda1`."""
    for key in ("pttype", "fstype"):
        if told.get(key):
            yield str(told[key])
    yield from (str(one) for one in told.get("mountpoints") or () if one)
    yield from (str(one["name"]) for one in told.get("children") or ())


async def check_empty(path: str) -> None:
    """Raise NotADisk, and NotEmpty for what bears a signature, has parts, is mounted, or is in use otherwise."""
    (found,) = await look(path)
    content = list(found.content)
    signatures = await process.run("wipefs", "--no-act", "--json", path, within=_BOUND)
    content += [one["type"] for one in (json.loads(signatures) if signatures.strip() else {}).get("signatures", ())]
    if found.read_only:
        content.append("read-only")
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        content.append(error.strerror or str(error))
    if content:
        raise NotEmpty(path=path, content=", ".join(dict.fromkeys(content)))


def _check_is_block(path: str) -> None:
    try:
        block = stat.S_ISBLK(os.stat(path).st_mode)
    except OSError:
        block = False
    if not block:
        raise NotADisk(path=path)


async def _smart(path: str) -> dict[str, Any]:
    """What smartctl says; empty where it is not installed, or the disk cannot be asked."""
    if not shutil.which("smartctl", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"):
        return {}
    # Its exit code tells of the disk, not of itself: the shell lets that be.
    said = await process.run(
        "sh", "-c", 'smartctl --json --health --attributes "$1" || true', "sh", path, within=_BOUND
    )
    found: dict[str, Any] = json.loads(said or b"{}")
    return {} if found.get("smartctl", {}).get("exit_status", 0) & _UNREADABLE else found
