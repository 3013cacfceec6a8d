"""Why a VM is as it is: one chain of causes, from what is seen to what lies behind it, each with what helps."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator

from bocage import words
from bocage.model import ground, work
from bocage.model import vm as model
from bocage.planner import causes

SILENT_AFTER = 60.0  # seconds without a sign of a host
_NEARLY_FULL = 0.8  # of a storage
_MOVED_BY = {
    model.Power.STOPPED: ("vm.stop", "vm.kill", "vm.delete"),
    model.Power.PAUSED: ("vm.pause", "vm.start"),
    model.Power.SAVED: ("vm.save",),
    model.Power.RUNNING: ("vm.start", "vm.resume", "vm.create", "vm.clone", "vm.reboot"),
}
_MAKING = ("vm.create", "vm.clone")
_MOVES = {action for actions in _MOVED_BY.values() for action in actions} - set(_MAKING)
_HOST_RESTARTED = "vm-host-restarted"
_TAKEN_OVER = "vm-taken-over"
_SAYS_THE_STATE = ("vm-stopped", "vm-paused", "vm-resumed")  # reasons that tell nothing more


def why(
    vm: model.VM,
    *,
    host: ground.Host | None = None,
    storage: ground.Storage | None = None,
    volumes: Iterable[ground.Volume] = (),
    networks: Iterable[ground.Network] = (),
    tasks: Iterable[work.Task] = (),
    now: datetime.datetime | None = None,
) -> list[words.Message]:
    """The chain. `tasks` are those about this VM, the oldest first; `host` is None while it has none."""
    world = _World(vm, host, storage, list(volumes), list(networks), list(tasks), now)
    return _distinct(_chain(world))


class _World:
    """All that the chain is made of."""

    def __init__(
        self,
        vm: model.VM,
        host: ground.Host | None,
        storage: ground.Storage | None,
        volumes: list[ground.Volume],
        networks: list[ground.Network],
        tasks: list[work.Task],
        now: datetime.datetime | None,
    ) -> None:
        self.vm, self.host, self.storage = vm, host, storage
        self.volumes, self.networks, self.tasks = volumes, networks, tasks
        self.now = now or datetime.datetime.now(datetime.UTC)

    @property
    def state(self) -> model.State:
        return self.vm.status.state

    def as_it_should_be(self) -> bool:
        """Whether what is, is what was asked for."""
        return str(self.state) == str(self.vm.spec.power)


def _chain(world: _World) -> Iterator[words.Message]:
    vm, status = world.vm, world.vm.status
    yield _seen(vm)
    if vm.metadata.deleted:
        yield causes.InTrash(name=vm.name, when=_time(vm.metadata.deleted))
        return
    yield from _of_host(world)
    if not (world.as_it_should_be() or world.state in (model.State.STARTING, model.State.STOPPING)):
        yield causes.ShouldBe(power=vm.spec.power)
    yield from _reason(status)
    if world.as_it_should_be():
        yield from _asked(world)
    yield from _came_back(world)
    yield from _under_way(world)
    yield from _failed(world)
    yield from _restarts(world)
    if status.problem:
        yield status.problem.message
    yield from _of_disks(world)
    yield from _of_networks(world)
    if status.state in (model.State.RUNNING, model.State.STARTING):
        yield from _while_running(world)


def _seen(vm: model.VM) -> words.Message:
    if vm.status.since:
        return causes.IsSince(name=vm.name, state=vm.status.state, since=_time(vm.status.since))
    return causes.Is(name=vm.name, state=vm.status.state)


def _of_host(world: _World) -> Iterator[words.Message]:
    host = world.host
    if host is None:
        yield causes.NoHost(name=world.vm.name)
        return
    if host.status.problem:
        yield host.status.problem.message
    if host.status.seen and (ago := (world.now - host.status.seen).total_seconds()) > SILENT_AFTER and _waits(world):
        yield causes.HostSilent(host=host.name, ago=ago)


def _waits(world: _World) -> bool:
    """Whether something depends on a sign of the host: nobody knows the VM's state, or a task is not begun."""
    bound = world.now - datetime.timedelta(seconds=SILENT_AFTER)
    return world.state is model.State.UNKNOWN or any(
        task.status.state is work.TaskState.PENDING and task.metadata.created < bound for task in world.tasks
    )


def _reason(status: model.VMStatus) -> Iterator[words.Message]:
    """The reason that the node gave, unless it repeats the state, or the problem that is told below."""
    reason = status.reason
    if reason is None or reason.type in _SAYS_THE_STATE:
        return
    if not (status.problem and reason.params.get("reason") == status.problem.text):
        yield reason.message


def _asked(world: _World) -> Iterator[words.Message]:
    """Who asked for the present state: the newest of those that moved it, when the world has not moved it since."""
    vm, power = world.vm, world.vm.spec.power
    reason = vm.status.reason.type if vm.status.reason else ""
    if reason == "vm-switched-off":
        if power is model.Power.STOPPED:
            yield causes.StaysOff(name=vm.name, policy=vm.spec.restart.policy)
        return
    done = [task for task in world.tasks if task.status.state is work.TaskState.DONE]
    moves = [task for task in done if task.spec.action in _MOVES or task.spec.action in _MOVED_BY[power]]
    if moves and (task := moves[-1]).spec.action in _MOVED_BY[power]:
        yield causes.Asked(
            name=vm.name,
            action=task.spec.action,
            by=task.spec.asked_by or "bocage",
            when=_time(task.metadata.created),
            opposite={model.Power.RUNNING: "stop", model.Power.PAUSED: "resume"}.get(power, "start"),
        )
    elif power is model.Power.STOPPED and not reason and _never_moved(world.tasks):
        yield causes.NeverStarted(name=vm.name)


def _never_moved(tasks: list[work.Task]) -> bool:
    """Whether its tasks reach back to its making, and none was to change its state since."""
    return not tasks or (tasks[0].spec.action in _MAKING and not any(task.spec.action in _MOVES for task in tasks))


def _came_back(world: _World) -> Iterator[words.Message]:
    """Its last end, when nobody asked for that one and it was started again by itself."""
    if world.state not in (model.State.STARTING, model.State.RUNNING, model.State.PAUSED):
        return
    end = world.vm.status.last_end
    if not end or any(task.spec.action in _MOVES and task.metadata.created > end.when for task in world.tasks):
        return
    when = _time(end.when)
    if end.reason.type == _HOST_RESTARTED:
        yield causes.CameBackWithHost(when=when)
    elif end.reason.type == _TAKEN_OVER:
        yield causes.TakenOver(when=when)
        yield end.reason.message
    else:
        yield causes.CameBack(policy=world.vm.spec.restart.policy, when=when)
        yield end.reason.message


def _under_way(world: _World) -> Iterator[words.Message]:
    vm = world.vm
    if world.state is model.State.STOPPING:
        asked = [task.spec.params.get("within") for task in world.tasks if not task.status.state.ended]
        yield causes.Guest(name=vm.name, within=next(filter(None, asked), vm.spec.stop.within))
    for task in world.tasks:
        if not task.status.state.ended:
            yield causes.BeingDone(action=task.spec.action, task=task.uid)
            if task.status.step:
                yield task.status.step.message


def _failed(world: _World) -> Iterator[words.Message]:
    """The newest task, when it failed: an older failure that something else followed explains nothing."""
    ended = [task for task in world.tasks if task.status.state.ended]
    if ended and ended[-1].status.state is work.TaskState.FAILED:
        task = ended[-1]
        yield causes.TaskFailed(
            action=task.spec.action, task=task.uid, when=_time(task.status.ended or task.metadata.created)
        )
        if task.status.problem:
            yield task.status.problem.message


def _restarts(world: _World) -> Iterator[words.Message]:
    vm, status, policy = world.vm, world.vm.status, world.vm.spec.restart
    wanted = vm.spec.power in (model.Power.RUNNING, model.Power.PAUSED)
    if not wanted or status.state not in (model.State.CRASHED, model.State.STOPPED):
        return
    if status.next_try and status.next_try > world.now:
        yield causes.WaitsUntil(
            name=vm.name, next=status.restarts + 1, limit=policy.limit, until=_time(status.next_try)
        )
    elif status.state is model.State.CRASHED and policy.policy == "never":
        yield causes.NeverRestarts(name=vm.name)
    elif status.restarts >= policy.limit:
        yield causes.NoMoreTries(name=vm.name, limit=policy.limit)


def _of_disks(world: _World) -> Iterator[words.Message]:
    vm, storage = world.vm, world.storage
    if storage and storage.status.state == "unavailable":
        yield causes.StorageAway(storage=storage.name)
        if storage.status.reason:
            yield storage.status.reason.message
    elif storage and _is_nearly_full(storage) and not world.as_it_should_be():
        total, free = storage.status.total_bytes, storage.status.free_bytes
        yield causes.StorageFull(storage=storage.name, free=free, total=total)
    there = {volume.uid for volume in world.volumes}
    for disk in vm.spec.disks:
        if disk.volume not in there:
            yield causes.DiskGone(name=vm.name, disk=disk.name)
    for volume in world.volumes:
        if volume.status.state == "failed":
            yield causes.DiskFailed(volume=volume.name)
            if volume.status.problem:
                yield volume.status.problem.message
        elif volume.status.state == "pending" and not vm.status.ready:
            yield causes.DiskBeingMade(volume=volume.name)


def _of_networks(world: _World) -> Iterator[words.Message]:
    for network in world.networks:
        if network.status.state == "failed":
            yield causes.NetworkDown(network=network.name, state=network.status.state)
            if network.status.reason:
                yield network.status.reason.message


def _while_running(world: _World) -> Iterator[words.Message]:
    vm, status = world.vm, world.vm.status
    if status.applied_generation and status.applied_generation != vm.metadata.generation:
        yield causes.PendingChanges(name=vm.name)
    if status.qemu.running and status.qemu.installed and status.qemu.running != status.qemu.installed:
        yield causes.OldQemu(name=vm.name, running=status.qemu.running, installed=status.qemu.installed)
    if status.accelerator == "tcg":
        yield causes.Emulated()
        if world.host and world.host.status.accelerator_reason:
            yield world.host.status.accelerator_reason.message


def _is_nearly_full(storage: ground.Storage) -> bool:
    total, free = storage.status.total_bytes, storage.status.free_bytes
    return bool(total) and total - free > _NEARLY_FULL * total


def _distinct(chain: Iterable[words.Message]) -> list[words.Message]:
    """Without what was said already."""
    told: list[words.Message] = []
    for link in chain:
        if not any(link.type == other.type and link.params == other.params for other in told):
            told.append(link)
    return told


def _time(moment: datetime.datetime) -> str:
    return moment.astimezone(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
