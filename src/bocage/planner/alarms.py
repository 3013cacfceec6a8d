"""Which conditions need a person: pure, so that what is raised and what is cleared can be replayed."""

from __future__ import annotations

import dataclasses
import datetime
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from bocage import words
from bocage.model import base, ground, snapshot, vm, work
from bocage.planner import machinetypes
from bocage.words import N_

STORAGE_ALMOST_FULL = 0.80  # of its size
STORAGE_CRITICAL = 0.95
CLOCK_STEP = 60.0  # seconds that the wall clock moved against the boot clock
CRASHES = 3  # in a row
SETTLED = 20.0  # seconds after which a state is no passing one
FAILURE_TOLD = 86_400.0  # seconds
_WILL_START = (
    "vm-waits-for-turn",
    "vm-waits-for-others",
    "vm-waits-for-cluster",
    "vm-being-copied",
    "vm-host-stops-vms",
)
FLATTEN_WAITS = "flatten-waits-for-room"
"""What stands in the log of a task that is one of those."""
_SPACE = uuid.UUID("8b0f3f0e-2a5f-4c0e-9d1c-6f7a1b6a5a10")


class Condition(words.Message):
    """Something that needs a person until it is over."""

    drifts: ClassVar[frozenset[str]] = frozenset()
    """Parameters that change all the time and say nothing new."""

    def same(self, params: Mapping[str, Any]) -> bool:
        """Whether it says what these parameters say."""
        return all(params.get(name) == value for name, value in self.params.items() if name not in self.drifts)


class StorageAlmostFull(Condition):
    type = "alarm-storage-full"
    text = N_("storage {name} is {percent} % full ({free:size} free)")
    hint = N_("make room: 'bocage volume list', 'bocage image list', 'bocage vm list --trash'")
    drifts = frozenset({"free"})
    name: str
    percent: int
    free: int


class StorageUnavailable(Condition):
    type = "alarm-storage-unavailable"
    text = N_("storage {name} is not there: {reason}")
    hint = N_("is its file system mounted? Nothing is written there meanwhile")
    name: str
    reason: str


class MirrorLacksDisk(Condition):
    type = "alarm-mirror-lacks-disk"
    text = N_("storage {name} lives on {working} of its {disks} disks: if that fails too, all on it is lost")
    hint = N_("put another disk in, then 'bocage storage repair {name} --disk DEVICE'; 'bocage host disks' lists them")
    name: str
    working: int
    disks: int


class MirrorRebuilds(Condition):
    type = "alarm-mirror-rebuilds"
    text = N_("storage {name} is being copied to the disk that was put in: until then one disk alone holds all of it")
    hint = N_("'bocage storage show {name}' tells how far it is")
    name: str


class UnknownDirectories(Condition):
    type = "alarm-unknown-directories"
    text = N_("storage {name} holds {count} VM directories that this installation does not know")
    hint = N_("'bocage adopt --storage {name}' takes them in; nothing is made over them")
    name: str
    count: int


class SnapshotWaitsForRoom(Condition):
    type = "alarm-snapshot-waits-for-room"
    text = N_("the snapshot {snapshot} of {name} cannot go: there is no room to merge it into what was before")
    hint = N_("make room on the storage of {name}; it goes on by itself")
    name: str
    snapshot: str


class FlattenWaitsForRoom(Condition):
    type = "alarm-flatten-waits-for-room"
    text = N_("{name} cannot be made independent of its image: there is no room for what its disks have of it")
    hint = N_("make room on the storage of {name}; it goes on by itself")
    name: str


class UsbMissing(Condition):
    type = "alarm-usb-missing"
    text = N_("{name} runs without its USB devices {devices}")
    hint = N_("is it plugged in? 'bocage host usb' lists what is; it gets it by itself then")
    name: str
    devices: list[str]


class CrashLoop(Condition):
    type = "alarm-crash-loop"
    text = N_("{name} ended by itself {count} times in a row")
    hint = N_("'bocage why {name}', then 'bocage vm log {name} --qemu'")
    name: str
    count: int


class StaysDown(Condition):
    type = "alarm-stays-down"
    text = N_("{name} should run and does not")
    hint = N_("'bocage why {name}' says why")
    name: str


class WaitsForStorage(Condition):
    type = "alarm-waits-for-storage"
    text = N_("{name} is paused: its storage has no room")
    hint = N_("make room on the storage; it goes on by itself")
    name: str


class WritesFail(Condition):
    type = "alarm-writes-fail"
    text = N_("{name} is paused: a write to its storage failed")
    hint = N_("look at the storage, then 'bocage vm resume {name}'")
    name: str


class MonitorSilent(Condition):
    type = "alarm-monitor-silent"
    text = N_("QEMU of {name} does not answer")
    hint = N_("'bocage vm kill {name}' ends it")
    name: str


class TpmLost(Condition):
    type = "alarm-tpm-lost"
    text = N_("{name} runs on without its TPM, which has died")
    hint = N_("'bocage vm reboot {name}' at a good moment; what it kept is still there")
    name: str


class OutOfReach(Condition):
    type = "alarm-out-of-reach"
    text = N_("{name} runs on, but the sockets to talk to it are gone")
    hint = N_("shut its guest down from inside, or 'bocage vm kill {name}'; then 'bocage vm start {name}'")
    name: str


class MachineTypeEnds(Condition):
    type = "alarm-machine-type-ends"
    text = N_("{name} is built as {machine}, which QEMU is about to drop ({when})")
    hint = N_("'bocage vm upgrade-hardware {name}' moves it to a newer one; before QEMU is upgraded")
    name: str
    machine: str
    when: str


class MachineTypeGone(Condition):
    type = "alarm-machine-type-gone"
    text = N_("{name} cannot start: it is built as {machine}, which the installed QEMU does not have any more")
    hint = N_("'bocage vm upgrade-hardware {name}' moves it to a newer one")
    name: str
    machine: str


class SnapshotTypeEnds(Condition):
    """Memory fits the board that it was taken on, and no newer one."""

    type = "alarm-snapshot-machine-type-ends"
    text = N_("the memory in snapshots of {name} ({snapshots}) fits {machine} alone, which QEMU is about to drop")
    hint = N_("'bocage vm snapshot list {name}'; delete them, or go back to one and take another on a newer board")
    name: str
    snapshots: list[str]
    machine: str


class SnapshotTypeGone(Condition):
    type = "alarm-snapshot-machine-type-gone"
    text = N_("the memory in snapshots of {name} ({snapshots}) fits {machine} alone, which the installed QEMU lacks")
    hint = N_("'bocage vm snapshot clone {name} …' makes a VM of their disks, and 'vm upgrade-hardware' moves that")
    name: str
    snapshots: list[str]
    machine: str


class TaskFailed(Condition):
    type = "alarm-task-failed"
    text = N_("{action} of {name} failed: {reason}")
    hint = N_("'bocage task show {task}'; 'bocage alarm ack' when it is dealt with")
    action: str
    name: str
    reason: str
    task: str


class ClockMoved(Condition):
    type = "alarm-clock-moved"
    text = N_("the clock of this host was moved by {span:seconds}")
    hint = N_("keep it right with a time service: 'apt install systemd-timesyncd'")
    span: float


class QemuMissing(Condition):
    type = "alarm-qemu-missing"
    text = N_("no VM can be started: {reason}")
    hint = N_("'bocage doctor' says what to install")
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class World:
    """What is looked at. `clock_moved`: seconds that the wall clock was set by since the daemon began."""

    now: datetime.datetime
    host: ground.Host
    storages: tuple[ground.Storage, ...] = ()
    vms: tuple[vm.VM, ...] = ()
    tasks: tuple[work.Task, ...] = ()
    snapshots: tuple[snapshot.Snapshot, ...] = ()
    clock_moved: float = 0.0
    unknown: dict[str, int] = dataclasses.field(default_factory=dict)  # directories of VMs nobody knows, by storage


@dataclasses.dataclass(frozen=True, slots=True)
class Raised:
    """A condition that holds now. `uid` is the same for the same condition of the same subject."""

    uid: str
    condition: Condition
    severity: base.Severity
    subject: base.Ref | None


def conditions(world: World) -> list[Raised]:
    """All that holds now."""
    found = [
        *_of_host(world),
        *_of_storage(world),
        *_of_vms(world),
        *_of_boards(world),
        *_of_snapshots(world),
        *_of_deletions(world),
        *_of_usb(world),
        *_of_flattening(world),
        *_of_tasks(world),
    ]
    return [
        Raised(str(uuid.uuid5(_SPACE, f"{condition.type}/{key}")), condition, severity, subject)
        for condition, severity, subject, key in found
    ]


_Found = tuple[Condition, base.Severity, base.Ref | None, str]


def _of_host(world: World) -> Iterator[_Found]:
    host = world.host
    if host.status.problem:
        yield QemuMissing(reason=host.status.problem.text), base.Severity.ERROR, host.ref, host.uid
    if abs(world.clock_moved) >= CLOCK_STEP:
        yield ClockMoved(span=round(world.clock_moved)), base.Severity.WARNING, host.ref, host.uid


def _of_storage(world: World) -> Iterator[_Found]:
    for storage in world.storages:
        status = storage.status
        if count := world.unknown.get(storage.uid, 0):
            told = UnknownDirectories(name=storage.name, count=count)
            yield told, base.Severity.WARNING, storage.ref, storage.uid
        if status.state == "unavailable":
            reason = status.reason.text if status.reason else ""
            yield StorageUnavailable(name=storage.name, reason=reason), base.Severity.ERROR, storage.ref, storage.uid
            continue
        if (mirror := status.mirror) and mirror.working < mirror.disks:
            if mirror.rebuilt_percent is None:
                lacks = MirrorLacksDisk(name=storage.name, working=mirror.working, disks=mirror.disks)
                yield lacks, base.Severity.ERROR, storage.ref, storage.uid
            else:
                yield MirrorRebuilds(name=storage.name), base.Severity.WARNING, storage.ref, storage.uid
        if status.total_bytes:
            used = 1 - status.free_bytes / status.total_bytes
            if used > STORAGE_ALMOST_FULL:
                severity = base.Severity.ERROR if used > STORAGE_CRITICAL else base.Severity.WARNING
                full = StorageAlmostFull(name=storage.name, percent=int(used * 100), free=status.free_bytes)
                yield full, severity, storage.ref, storage.uid


def _of_vms(world: World) -> Iterator[_Found]:
    for machine in world.vms:
        if not machine.metadata.deleted and (told := _of_vm(machine, world.now)) is not None:
            yield told, base.Severity.ERROR, machine.ref, machine.uid


def _of_boards(world: World) -> Iterator[_Found]:
    for machine in world.vms:
        board, host = machine.spec.hardware.machine, world.host.status
        if machine.metadata.deleted or machine.status.host != world.host.uid:
            continue
        if machinetypes.is_gone(board, host):
            told = MachineTypeGone(name=machine.name, machine=board)
            yield told, base.Severity.ERROR, machine.ref, machine.uid
        elif machinetypes.ends_soon(board, host, world.now.date()):
            end = machinetypes.dropped(board)
            ending = MachineTypeEnds(name=machine.name, machine=board, when=f"{end:%Y-%m}" if end else "soon")
            yield ending, base.Severity.WARNING, machine.ref, machine.uid


def _of_snapshots(world: World) -> Iterator[_Found]:
    """Of memory that lies in snapshots: one alarm for a VM and a machine type."""
    vms = {machine.uid: machine for machine in world.vms if not machine.metadata.deleted}
    held: dict[tuple[str, str], list[str]] = {}
    for one in world.snapshots:
        if one.spec.memory and one.spec.vm in vms:
            held.setdefault((one.spec.vm, one.spec.machine.hardware.machine), []).append(one.name)
    for (uid, board), names in held.items():
        told: dict[str, Any] = {"name": vms[uid].name, "snapshots": sorted(names), "machine": board}
        if machinetypes.is_gone(board, world.host.status):
            yield SnapshotTypeGone(**told), base.Severity.ERROR, vms[uid].ref, f"{uid}/{board}"
        elif machinetypes.ends_soon(board, world.host.status, world.now.date()):
            yield SnapshotTypeEnds(**told), base.Severity.WARNING, vms[uid].ref, f"{uid}/{board}"


def _of_deletions(world: World) -> Iterator[_Found]:
    """Of snapshots that cannot go, since there is no room to merge them."""
    vms = {machine.uid: machine for machine in world.vms if not machine.metadata.deleted}
    for one in world.snapshots:
        waits = one.status.reason is not None and one.status.reason.type == "waits-for-room"
        if one.spec.vm in vms and one.status.state == "deleting" and waits:
            told = SnapshotWaitsForRoom(name=vms[one.spec.vm].name, snapshot=one.name)
            yield told, base.Severity.WARNING, vms[one.spec.vm].ref, one.uid


def _of_usb(world: World) -> Iterator[_Found]:
    """Of VMs that run without the dongle that their software asks for."""
    for machine in world.vms:
        if missing := [one.name for one in machine.status.usb if not one.node]:
            told = UsbMissing(name=machine.name, devices=missing)
            yield told, base.Severity.WARNING, machine.ref, machine.uid


def _of_flattening(world: World) -> Iterator[_Found]:
    """Of VMs that cannot be made independent of their images, since there is no room for what they have of these."""
    for task in world.tasks:
        waits = any(line.said.type == FLATTEN_WAITS for line in task.status.log)
        if task.status.state is work.TaskState.RUNNING and waits and task.spec.subject:
            told = FlattenWaitsForRoom(name=task.spec.subject.name)
            yield told, base.Severity.WARNING, task.spec.subject, task.uid


def _of_vm(machine: vm.VM, now: datetime.datetime) -> Condition | None:
    status, name = machine.status, machine.name
    reason = status.reason.type if status.reason else ""
    wanted = machine.spec.power in (vm.Power.RUNNING, vm.Power.PAUSED)
    settled = status.since is None or abs((now - status.since).total_seconds()) >= SETTLED
    if status.state is vm.State.UNKNOWN:
        return OutOfReach(name=name) if reason == "vm-out-of-reach" else MonitorSilent(name=name)
    if status.state is vm.State.PAUSED and reason == "vm-storage-full":
        return WaitsForStorage(name=name)
    if status.state is vm.State.PAUSED and reason == "vm-storage-failed":
        return WritesFail(name=name)
    if status.tpm_lost:
        return TpmLost(name=name)
    if status.restarts >= CRASHES:
        return CrashLoop(name=name, count=status.restarts)
    down = status.state in (vm.State.CRASHED, vm.State.STOPPED) and status.next_try is None
    if wanted and down and settled and reason not in _WILL_START:
        return StaysDown(name=name)
    return None


def _of_tasks(world: World) -> Iterator[_Found]:
    """The newest failure of each thing that was asked, where the machine is at fault and not the question.

    It is over when the same was done since, when what it was about is gone, or after a day.
    """
    newest: dict[tuple[str, str], work.Task] = {}
    for task in world.tasks:
        if task.status.state in (work.TaskState.FAILED, work.TaskState.DONE):
            subject = task.spec.subject
            newest[task.spec.action, subject.uid if subject else ""] = task
    deleted = {task.spec.subject.uid for task in newest.values() if _is_deletion(task) and task.spec.subject}
    for (action, uid), task in newest.items():
        status, subject = task.status, task.spec.subject
        if status.state is work.TaskState.DONE or not status.ended or not status.problem or uid in deleted:
            continue
        fault_of_the_machine = status.http_status is None or status.http_status >= 500
        if fault_of_the_machine and (world.now - status.ended).total_seconds() < FAILURE_TOLD:
            told = TaskFailed(
                action=action, name=subject.name if subject else "", reason=status.problem.text, task=task.uid
            )
            yield told, base.Severity.WARNING, subject, f"{action}/{uid}"


def _is_deletion(task: work.Task) -> bool:
    return task.spec.action.endswith(".delete") and task.status.state is work.TaskState.DONE
