"""The links of a chain of causes: what `why` says, each with the command that helps."""

from __future__ import annotations

from bocage import words
from bocage.words import N_


class Because(words.Message):
    """One link of the chain."""


class Is(Because):
    type = "why-is"
    text = N_("{name} is {state}")
    name: str
    state: str


class IsSince(Because):
    type = "why-is-since"
    text = N_("{name} is {state} since {since}")
    name: str
    state: str
    since: str


class InTrash(Because):
    type = "why-in-trash"
    text = N_("it went to the trash at {when}")
    hint = N_("'bocage vm undelete {name}' brings it back")
    name: str
    when: str


class Asked(Because):
    type = "why-asked"
    text = N_("{by:asker} asked for it ({action}) at {when}")
    hint = N_("'bocage vm {opposite} {name}' undoes that")
    name: str
    action: str
    by: str
    when: str
    opposite: str


class NeverStarted(Because):
    type = "why-never-started"
    text = N_("nobody has asked for it to run")
    hint = N_("'bocage vm start {name}' starts it")
    name: str


class StaysOff(Because):
    type = "why-stays-off"
    text = N_("a guest that switches itself off stays off, as its restart policy is '{policy}'")
    hint = N_("'bocage vm start {name}' starts it; 'bocage vm set {name} --restart always' brings it back each time")
    name: str
    policy: str


class CameBack(Because):
    type = "why-came-back"
    text = N_("it ended by itself at {when}, and its restart policy '{policy}' started it again")
    policy: str
    when: str


class CameBackWithHost(Because):
    type = "why-came-back-with-host"
    text = N_("its host was restarted while it was running, and it was started again after that ({when})")
    when: str


class TakenOver(Because):
    type = "why-taken-over"
    text = N_("the host that had it was gone, and it was started on this one ({when})")
    hint = N_("'bocage failover list' tells how that was known")
    when: str


class ShouldBe(Because):
    type = "why-should-be"
    text = N_("it should be {power}")
    power: str


class BeingDone(Because):
    type = "why-being-done"
    text = N_("{action} is under way")
    hint = N_("'bocage task show {task}' says how far it is")
    action: str
    task: str


class TaskFailed(Because):
    type = "why-task-failed"
    text = N_("{action} failed at {when}")
    hint = N_("'bocage task show {task}' has its log")
    action: str
    task: str
    when: str


class WaitsUntil(Because):
    type = "why-waits-until"
    text = N_("its restart policy starts it again at {until} (try {next} of {limit})")
    hint = N_("'bocage vm start {name}' tries at once")
    name: str
    next: int
    limit: int
    until: str


class NoMoreTries(Because):
    type = "why-no-more-tries"
    text = N_("its restart policy has tried {limit} times in a row, and tries no more")
    hint = N_("look at 'bocage vm log {name} --qemu' and 'bocage vm log {name}', then 'bocage vm start {name}'")
    name: str
    limit: int


class NeverRestarts(Because):
    type = "why-never-restarts"
    text = N_("its restart policy is 'never'")
    hint = N_("'bocage vm set {name} --restart on-crash' changes that; 'bocage vm start {name}' starts it now")
    name: str


class DiskBeingMade(Because):
    type = "why-disk-being-made"
    text = N_("its disk {volume} is being made")
    hint = N_("'bocage task list' shows how far that is")
    volume: str


class DiskFailed(Because):
    type = "why-disk-failed"
    text = N_("its disk {volume} could not be made")
    hint = N_("'bocage volume show {volume}' has more")
    volume: str


class DiskGone(Because):
    type = "why-disk-gone"
    text = N_("the volume of its disk {disk} is not there")
    hint = N_("'bocage volume list' shows those that are; 'bocage vm disk detach {name} {disk}' does without it")
    name: str
    disk: str


class StorageAway(Because):
    type = "why-storage-away"
    text = N_("its storage {storage} is not available")
    hint = N_("'bocage storage show {storage}' says more")
    storage: str


class StorageFull(Because):
    type = "why-storage-full"
    text = N_("its storage {storage} has {free:size} of {total:size} free")
    hint = N_("make room: 'bocage volume list', 'bocage image list', 'bocage vm list --trash'")
    storage: str
    free: int
    total: int


class NetworkDown(Because):
    type = "why-network-down"
    text = N_("its network {network} is {state}")
    hint = N_("'bocage network show {network}' says more")
    network: str
    state: str


class HostSilent(Because):
    type = "why-host-silent"
    text = N_("its host {host} was last heard of {ago:seconds} ago")
    hint = N_("'bocage daemon status' on that host; 'bocage host show {host}'")
    host: str
    ago: float


class NoHost(Because):
    type = "why-no-host"
    text = N_("no host has it yet")
    hint = N_("'bocage plan place {name}' says what speaks against each host")
    name: str


class PendingChanges(Because):
    type = "why-changes-wait"
    text = N_("it runs as it was defined earlier; changes wait for a cold start")
    hint = N_("'bocage vm diff {name}' shows them; 'bocage vm reboot {name}' takes them up")
    name: str


class OldQemu(Because):
    type = "why-old-qemu"
    text = N_("it runs on QEMU {running}; {installed} is installed")
    hint = N_("'bocage vm stop {name}', then 'bocage vm start {name}', moves it to the installed one")
    name: str
    running: str
    installed: str


class Emulated(Because):
    type = "why-emulated"
    text = N_("it is slow, as its CPU is emulated (accelerator: tcg)")


class Guest(Because):
    type = "why-guest-is-asked"
    text = N_("its guest was asked to switch off and has up to {within:seconds}")
    hint = N_("'bocage vm console {name}' shows what it does; 'bocage vm kill {name}' pulls the plug")
    name: str
    within: float
