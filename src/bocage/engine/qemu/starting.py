"""From a plan to a process that answers: its files are made its own, what carries its NICs runs, its record is kept."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import pathlib
import shutil
import signal

from bocage import errors, files
from bocage.engine import base
from bocage.engine.qemu import (
    accelerator,
    boundedlog,
    cgroup,
    command,
    isolation,
    machine,
    paths,
    processes,
)
from bocage.engine.qemu import launch as launching
from bocage.engine.qemu import record as records
from bocage.model import base as model_base
from bocage.model import vm as model

_ANSWER_BOUND = 30.0  # seconds until QEMU answers
_HELPER_BOUND = 5.0
_PAUSE = 0.002
_PARTS = {"sandbox": "sandbox", "uid": "own-uid", "mounts": "mount-namespace", "cgroup": "cgroup"}


@dataclasses.dataclass(frozen=True, slots=True)
class Order:
    """What to start; `incoming` for a machine that is read from a file."""

    plan: base.Plan
    generation: int
    paused: bool
    incoming: bool
    listener: base.Listener


async def launch(
    order: Order, at: paths.Paths, place: cgroup.Place | None, undo: contextlib.AsyncExitStack
) -> machine.QemuMachine:
    """A QEMU that answers and whose vCPUs stand still. What undoes it is pushed on `undo`."""
    plan = order.plan
    owner = _owner(plan)
    group = machine.group_of(place, plan.cgroup)
    undo.callback(_forget, at)
    undo.push_async_callback(machine.clear, None, at, group)
    await asyncio.to_thread(_prepare, plan, at, owner, group)
    refused = await isolation.mounts_refused()
    to_start = launching.Order(
        argv=[*command.command(plan), "-S", *(["-incoming", "defer"] if order.incoming else [])],
        log=at.qemu_log,
        status=at.status,
        cwd=plan.directory,
        view=_view(plan, at),
        owner=owner,
        mounts=refused is None,
        join=group.join_paths if group else (),
    )
    state = isolation.state(argv=to_start.argv, owner=owner, mounts=refused, cgroup=group is not None)
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
            cgroup=plan.cgroup if group else "",
            helpers=await _carriers(plan, to_start, undo),
            serial_start=at.serial_log.stat().st_size,
        )
        await asyncio.to_thread(records.write, at.record, record)
        kept.append(record)

    process = await launching.start(to_start, before=before, within=_ANSWER_BOUND)
    started = machine.QemuMachine(kept[0], process.pidfd, runtime=plan.runtime, place=place, listener=order.listener)
    undo.push_async_callback(started.kill)
    await started.link.open(within=_ANSWER_BOUND)
    return started


def make_firmware_variables(path: pathlib.Path) -> None:
    """Give a VM the firmware's own variables, once; what is there stays. Raises OSError."""
    if not path.exists():
        files.write_durably(path, paths.OVMF_VARS.read_bytes(), mode=0o600)


def _owner(plan: base.Plan) -> isolation.Owner | None:
    if plan.process_uid is None:
        return None
    groups = accelerator.device_groups() if plan.accelerator == "kvm" else ()
    gid = plan.process_uid if plan.process_gid is None else plan.process_gid
    return isolation.Owner(plan.process_uid, gid, groups)


def _prepare(plan: base.Plan, at: paths.Paths, owner: isolation.Owner | None, group: cgroup.Directories | None) -> None:
    """Directories, logs and firmware variables; what the process writes becomes its own, its record stays ours."""
    at.runtime.mkdir(parents=True, exist_ok=True)
    os.chown(at.runtime, os.geteuid(), os.getegid())
    at.runtime.chmod(0o711)
    shutil.rmtree(at.io, ignore_errors=True)
    at.io.mkdir(mode=0o700)
    os.close(os.open(at.serial_log, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    if plan.spec.hardware.firmware is model.Firmware.UEFI:
        make_firmware_variables(at.firmware_vars)
    if owner:
        for path in (at.io, *_written(plan, at)):
            os.chown(path, owner.uid, owner.gid, follow_symlinks=False)
    if group:
        group.make()


def _written(plan: base.Plan, at: paths.Paths) -> list[pathlib.Path]:
    """The files that the process writes."""
    flash = [at.firmware_vars] if plan.spec.hardware.firmware is model.Firmware.UEFI else []
    return [at.serial_log, *flash, *(chain[0].path for chain in plan.chains.values())]


def _view(plan: base.Plan, at: paths.Paths) -> isolation.View:
    backing = [file.path for chain in plan.chains.values() for file in chain[1:]]
    images = [image for image in (*plan.cds.values(), plan.seed) if image]
    devices = ["/dev/kvm"] if plan.accelerator == "kvm" else []
    if any(isinstance(backend, base.Tap) for backend in plan.nics.values()):
        devices.append("/dev/net/tun")
    return isolation.View(
        read_only=list(dict.fromkeys([*backing, *images])), read_write=[at.io, *_written(plan, at)], devices=devices
    )


async def _carriers(
    plan: base.Plan, order: launching.Order, undo: contextlib.AsyncExitStack
) -> tuple[processes.Identity, ...]:
    """Start what carries the NICs, in the VM's group and as its uid."""
    carried = [(name, backend) for name, backend in plan.nics.items() if isinstance(backend, base.Passt)]
    return tuple([await _carry(name, backend, plan.runtime, order, undo) for name, backend in carried])


async def _carry(
    name: str, backend: base.Passt, runtime: pathlib.Path, order: launching.Order, undo: contextlib.AsyncExitStack
) -> processes.Identity:
    log = runtime / f"{name}.log"
    own = dataclasses.replace(
        order, argv=backend.command, log=log, status=runtime / f"{name}.status", mounts=False, view=isolation.View()
    )
    helper = await launching.start(own)
    undo.callback(_end, helper.identity)
    try:
        async with asyncio.timeout(_HELPER_BOUND):
            while not backend.socket.is_socket():
                if not processes.alive(helper.identity) and not backend.socket.is_socket():
                    raise launching.Failed(program=backend.command[0], said=_last_words(log))
                await asyncio.sleep(_PAUSE)
    except TimeoutError as error:
        raise errors.TimedOut(what=backend.command[0], bound=_HELPER_BOUND) from error
    finally:
        os.close(helper.pidfd)
    return helper.identity


def _last_words(log: pathlib.Path) -> str:
    lines = boundedlog.tail_lines(log, 6)
    return " / ".join([line for line in lines if "to syslog" not in line][-3:])  # where there is no syslog


def _end(identity: processes.Identity) -> None:
    with contextlib.suppress(processes.Gone):
        processes.send(identity, signal.SIGKILL)


def _forget(at: paths.Paths) -> None:
    at.record.unlink(missing_ok=True)
    at.status.unlink(missing_ok=True)


def _told(state: isolation.Isolation, owner: isolation.Owner | None) -> model.Isolation:
    applied = ["no-new-privileges", *(_PARTS[part.name] for part in state.parts if part.applies)]
    missing = tuple(model_base.Saying.of(part.reason) for part in state.parts if part.reason)
    return model.Isolation.model_validate({"parts": applied, "uid": owner.uid if owner else None, "missing": missing})
