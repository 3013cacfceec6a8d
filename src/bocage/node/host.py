"""What this host is and can do: read from the machine, shown in the host's status."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import pathlib
import re
import shutil
import socket
import uuid

import bocage
from bocage import errors, home, process
from bocage.engine.qemu import accelerator, capabilities, paths
from bocage.model import base, ground
from bocage.node import zone
from bocage.node.place import uids
from bocage.store import resources

_MACHINE_UUIDS = (pathlib.Path("/sys/class/dmi/id/product_uuid"), pathlib.Path("/etc/machine-id"))
_A_PC = re.compile(r"pc-(q35|i440fx)-\d+\.\d+|isapc")
_FIRMWARE = {"uefi": (paths.OVMF_CODE, paths.OVMF_VARS), "secure-boot": (paths.OVMF_SECURE, paths.OVMF_MICROSOFT)}


@dataclasses.dataclass(frozen=True, slots=True)
class Facts:
    """What was found out at the daemon's start.

    After a start of the machine the status bears the boot id of before until its VMs were looked at, so that a
    daemon which ends in between does not take that start for dealt with.
    """

    status: ground.HostStatus
    boot_id: str
    rebooted: bool


async def look(homes: home.Home, present: ground.Host | None, *, address: str = "") -> Facts:
    """Probe the accelerator, read what QEMU can do, and see whether the machine was started anew."""
    user = accelerator.User(uids.FIRST, uids.FIRST, accelerator.device_groups()) if os.geteuid() == 0 else None
    accelerated = await accelerator.probe(cache=homes.cache / "accelerator.json", user=user)
    problem: errors.Problem | None = None
    qemu, machines, cpu_model = "", {}, ""
    types, ending, cpu_models = list[str](), list[str](), tuple[str, ...]()
    try:
        able = await capabilities.read(under=accelerated.kind, cache=homes.cache / "qemu.json")
    except (process.Missing, capabilities.Error) as error:
        problem = error
    else:
        qemu = ".".join(map(str, able.version))
        machines = {alias: able.machines[alias] for alias in ("q35", "pc", "isapc") if alias in able.machines}
        cpu_models, cpu_model = able.whole_cpus(), able.default_cpu()
        types = sorted({name for name in able.machines.values() if _A_PC.fullmatch(name)})
        ending = [name for name in types if name in able.deprecated]
    boot_id = await asyncio.to_thread(pathlib.Path("/proc/sys/kernel/random/boot_id").read_text)
    status = ground.HostStatus(
        version=bocage.__version__,
        home=str(homes.path),
        address=address,
        kernel=os.uname().release,
        cpus=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        accelerator=accelerated.kind,
        accelerator_reason=base.Saying.of(accelerated.reason),
        qemu=qemu,
        machines=machines,
        types=tuple(types),
        ending=tuple(ending),
        cpu_model=cpu_model,
        cpu_models=cpu_models,
        cpu_maker=capabilities.cpu_maker(),
        firmware=("bios", *(name for name, files in _FIRMWARE.items() if all(map(os.path.exists, files)))),
        tpm=shutil.which("swtpm") is not None,
        privileged=os.geteuid() == 0,
        time_zone=zone.of_host().key,
        boot_id=boot_id.strip(),
        smbios_uuid=await asyncio.to_thread(_machine_uuid),
        problem=base.Saying.of(problem) if problem else None,
        seen=base.now(),
    )
    rebooted = present is not None and present.status.boot_id not in ("", status.boot_id)
    if present is not None and rebooted:
        status = status.model_copy(update={"boot_id": present.status.boot_id})
    if present is not None and present.status.leaving and present.status.leaving.boot_id == boot_id.strip():
        status = status.model_copy(update={"leaving": present.status.leaving})
    if present is not None:
        status = status.model_copy(update={"bmc": present.status.bmc})
    return Facts(status, boot_id.strip(), rebooted)


def _machine_uuid() -> str:
    """The SMBIOS UUID; of a machine without SMBIOS (an ARM board, a container) its machine-id, in the same form."""
    for path in _MACHINE_UUIDS:
        with contextlib.suppress(OSError, ValueError):
            return str(uuid.UUID(path.read_text().strip()))
    return ""


async def introduce(
    store: resources.Resources, identity: home.Identity, homes: home.Home, *, address: str = ""
) -> Facts:
    """Have this host in the store, with what it is now; `address` is the one at which other hosts reach it."""
    try:
        present = await store.get(ground.Host, None, identity.uid)
    except resources.Missing:
        present = None
    facts = await look(homes, present, address=address)
    if present is None:
        metadata = base.Metadata(uid=identity.uid, name=_label(socket.gethostname()))
        await store.create(ground.Host(metadata=metadata, spec=ground.HostSpec(), status=facts.status))
    else:
        await store.change_status(ground.Host, None, identity.uid, lambda _: facts.status)
    return facts


def _label(name: str) -> str:
    label = re.sub(r"[^a-z0-9-]+", "-", name.split(".")[0].lower()).strip("-")[:63]
    return label or "host"
