"""From a plan to a process that answers: its files are made its own, what carries its NICs runs, its record is kept."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import os
import pathlib
import shutil

from bocage import files, words
from bocage.engine import base
from bocage.engine.qemu import (
    accelerator,
    carriers,
    cgroup,
    command,
    comports,
    isolation,
    machine,
    paths,
    processes,
    remains,
    tpm,
)
from bocage.engine.qemu import launch as launching
from bocage.engine.qemu import record as records
from bocage.model import base as model_base
from bocage.model import board as boards
from bocage.model import vm as model

_ANSWER_BOUND = 30.0  # seconds until QEMU answers
_HAS_KEYS = "SecureBootEnable".encode("utf-16-le")  # the variable that comes with a platform key
_PARTS = {
    "sandbox": "sandbox",
    "uid": "own-uid",
    "mounts": "mount-namespace",
    "network": "network-namespace",
    "cgroup": "cgroup",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Order:
    """What to start; `incoming` for a machine that is read from a file, or `arrives` from another host."""

    plan: base.Plan
    generation: int
    paused: bool
    incoming: bool
    listener: base.Listener
    arrives: bool = False


async def launch(
    order: Order, at: paths.Paths, place: cgroup.Place | None, undo: contextlib.AsyncExitStack
) -> machine.QemuMachine:
    """A QEMU that answers and whose vCPUs stand still. What undoes it is pushed on `undo`."""
    plan = order.plan
    owner = _owner(plan)
    group = machine.group_of(place, plan.cgroup)
    undo.callback(_forget, at)
    undo.push_async_callback(remains.clear, None, at, group)
    await asyncio.to_thread(_prepare, plan, at, owner)
    refused = await isolation.mounts_refused()
    open_ = refused or _needs_network(plan) or await isolation.network_refused()

    async def admit(process: launching.Process) -> None:
        if plan.admit is not None:
            identity = process.identity
            await plan.admit(identity.pid, identity.start_time, **(group.freezers() if group else {}))

    keeps: processes.Identity | None = None
    if plan.spec.hardware.tpm is not boards.Tpm.NONE:
        keeps = await tpm.start(at, owner=owner, mounts=refused is None, group=group, before=admit)
        undo.callback(carriers.end, keeps)
    served: dict[str, comports.Served] = {}
    for port in plan.spec.ports:
        if port.address:
            served[port.name] = await comports.start(port, at, mounts=refused is None, group=group)
            undo.callback(carriers.end, served[port.name].process)
    with contextlib.ExitStack() as handed:
        taps = _open_taps(plan, handed)
        to_start = launching.Order(
            argv=[*command.command(plan, taps=taps), "-S", *(["-incoming", "defer"] if order.incoming else [])],
            log=at.qemu_log,
            status=at.status,
            cwd=plan.directory,
            view=_view(plan, at),
            owner=owner,
            mounts=refused is None,
            network=open_ is not None,
            group=group,
            descriptors=tuple(taps.values()),
        )
        state = isolation.state(
            argv=to_start.argv, owner=owner, mounts=refused, network=open_, cgroup=group is not None
        )
        kept: list[records.Record] = []

        async def before(process: launching.Process) -> None:
            record = records.Record(
                uid=plan.uid,
                name=plan.name,
                identity=process.identity,
                generation=order.generation,
                directory=plan.directory,
                isolation=_told(state, owner),
                paused=order.paused,
                arrives=order.arrives,
                cgroup=plan.cgroup if group else "",
                serial_start=_serial_start(order, at),
                accelerator=plan.accelerator,
                tpm=keeps,
                ports=served,
            )
            await asyncio.to_thread(records.write, at.record, record)
            kept.append(record)
            await admit(process)  # last: nothing may come between its answer and the process's first instruction

        process = await launching.start(to_start, before=before, within=_ANSWER_BOUND)
    # While QEMU comes up; it is durable before the vCPUs run.
    keeping = asyncio.create_task(_keep(order, at, kept[0]))
    undo.push_async_callback(_ended, keeping)
    started = machine.QemuMachine(kept[0], process.pidfd, runtime=plan.runtime, place=place, listener=order.listener)
    undo.push_async_callback(started.kill)
    carrying = asyncio.create_task(started.nics.carry(plan.nics))
    undo.push_async_callback(_ended, carrying)
    await started.link.open(within=_ANSWER_BOUND)
    if plan.spec.dynamic_memory and not order.incoming:  # saved memory comes with its own balloon
        with contextlib.suppress(base.NoBalloon):
            await started.balloon.ask(plan.spec.dynamic_memory.startup)
    for nic in plan.spec.nics:
        if not nic.connected:
            await started.nics.set_link(nic.name, connected=False)
    await carrying
    await keeping
    return started


def make_firmware_variables(path: pathlib.Path, board: model.Hardware) -> None:
    """Give a VM the firmware's own variables, once; what is there stays. Raises OSError.

    With Secure Boot these have to hold keys: variables without are kept beside, and new ones made.
    """
    if path.exists():
        if not board.secure_boot or _HAS_KEYS in path.read_bytes():
            return
        path.rename(path.with_name(f"{path.name}.before"))
    template = paths.OVMF_MICROSOFT if board.secure_boot else paths.OVMF_VARS
    files.write_durably(path, template.read_bytes(), mode=0o600)


def _owner(plan: base.Plan) -> isolation.Owner | None:
    if plan.process_uid is None:
        return None
    groups = accelerator.device_groups() if plan.accelerator == "kvm" else ()
    groups = tuple(dict.fromkeys([*groups, *(path.stat().st_gid for path in map(pathlib.Path, _host_ports(plan)))]))
    gid = plan.process_uid if plan.process_gid is None else plan.process_gid
    return isolation.Owner(plan.process_uid, gid, groups)


def _prepare(plan: base.Plan, at: paths.Paths, owner: isolation.Owner | None) -> None:
    """Directories, logs and firmware variables; what the process writes becomes its own, its record stays ours."""
    at.runtime.mkdir(parents=True, exist_ok=True)
    os.chown(at.runtime, os.geteuid(), os.getegid())
    at.runtime.chmod(0o711)
    shutil.rmtree(at.io, ignore_errors=True)
    at.io.mkdir(mode=0o700)
    os.mkfifo(at.keys, 0o600)
    at.said.symlink_to(os.devnull)
    os.close(os.open(at.serial_log, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    if plan.spec.hardware.firmware is model.Firmware.UEFI:
        make_firmware_variables(at.firmware_vars, plan.spec.hardware)
    if plan.spec.hardware.tpm is not boards.Tpm.NONE:
        tpm.make_state(at.tpm_state)
    for path in _port_files(plan, at):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    if plan.password:
        at.chap.touch(mode=0o600)
        at.chap.write_text(plan.password)
    if owner:
        if plan.password:
            os.chown(at.chap, owner.uid, owner.gid)
        for path in (at.io, at.keys, *_written(plan, at), *([at.tpm_state] if at.tpm_state.exists() else [])):
            os.chown(path, owner.uid, owner.gid, follow_symlinks=False)


def _written(plan: base.Plan, at: paths.Paths) -> list[pathlib.Path]:
    """The files that the process writes."""
    flash = [at.firmware_vars] if plan.spec.hardware.firmware is model.Firmware.UEFI else []
    every = [file for chain in plan.chains.values() for file in chain if file is chain[0] or file.own]
    own = [file.path for file in every if file.piece is None]
    return [at.serial_log, *flash, *_port_files(plan, at), *own]


def _port_files(plan: base.Plan, at: paths.Paths) -> list[pathlib.Path]:
    return [at.port(port.name) for port in plan.spec.ports if port.to == "file"]


def _host_ports(plan: base.Plan) -> list[str]:
    """The host's own serial and parallel ports that the VM's lead to, as far as they are there."""
    return [port.device for port in plan.spec.ports if port.device and pathlib.Path(port.device).exists()]


def _view(plan: base.Plan, at: paths.Paths) -> isolation.View:
    backing = [file.path for chain in plan.chains.values() for file in chain[1:] if not file.own]
    images = [image for image in (*plan.cds.values(), plan.seed) if image]
    devices = [*(["/dev/kvm"] if plan.accelerator == "kvm" else []), *_host_ports(plan)]
    return isolation.View(
        read_only=list(dict.fromkeys([*backing, *images])), read_write=[at.io, *_written(plan, at)], devices=devices
    )


def _needs_network(plan: base.Plan) -> words.Message | None:
    """Why the process itself needs this machine's network; None when what leads there is handed to it."""
    for backend in plan.nics.values():
        if isinstance(backend, base.UserMode) or (isinstance(backend, base.Tap) and not backend.open):
            return isolation.CarriesNic()
    if any(file.piece for chain in plan.chains.values() for file in chain):
        return isolation.ReachesLun()
    return None


def _open_taps(plan: base.Plan, undo: contextlib.ExitStack) -> dict[str, int]:
    """A descriptor of each tap, by NIC name."""
    taps: dict[str, int] = {}
    for name, backend in plan.nics.items():
        if isinstance(backend, base.Tap) and backend.open:
            opened = backend.open()
            try:
                taps[name] = fcntl.fcntl(opened, fcntl.F_DUPFD_CLOEXEC, carriers.LOWEST)
            finally:
                os.close(opened)
            undo.callback(os.close, taps[name])
    return taps


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _forget(at: paths.Paths) -> None:
    at.record.unlink(missing_ok=True)
    at.status.unlink(missing_ok=True)


def _serial_start(order: Order, at: paths.Paths) -> int:
    """Where the serial log begins to be of this run, which may have begun elsewhere."""
    before = records.read(at.kept_record) if order.arrives else None
    return before.serial_start if before else at.serial_log.stat().st_size


async def _keep(order: Order, at: paths.Paths, record: records.Record) -> None:
    if not order.arrives:  # else what is kept there is of the process that runs still
        await asyncio.to_thread(records.write, at.kept_record, record)


def _told(state: isolation.Isolation, owner: isolation.Owner | None) -> model.Isolation:
    applied = ["no-new-privileges", *(_PARTS[part.name] for part in state.parts if part.applies)]
    missing = tuple(model_base.Saying.of(part.reason) for part in state.parts if part.reason)
    return model.Isolation.model_validate({"parts": applied, "uid": owner.uid if owner else None, "missing": missing})
