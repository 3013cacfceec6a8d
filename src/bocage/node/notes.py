"""What a node tells of its VMs: the events, steps and reasons of their lives."""

from __future__ import annotations

from bocage import words
from bocage.words import N_


class Note(words.Message):
    """Something that happened to a VM."""


class Created(Note):
    type = "vm-created"
    text = N_("{name} was created")
    name: str


class Started(Note):
    type = "vm-started"
    text = N_("{name} runs (process {pid}, {accelerator})")
    name: str
    pid: int
    accelerator: str


class TpmLost(Note):
    type = "vm-tpm-lost"
    text = N_("the TPM of {name} has died: its guest has none until it is started again")
    hint = N_("'bocage vm reboot {name}' at a good moment; what it kept is still there")
    name: str


class GoesToVirtio(Note):
    type = "vm-goes-to-virtio"
    text = N_("the guest of {name} drives its virtio disk {disk}: all of it is on virtio from the next cold start on")
    hint = N_("should it not start then, 'bocage vm set {name} --drivers inbox' is the way back")
    name: str
    disk: str


class VirtioUnseen(Note):
    type = "vm-virtio-unseen"
    text = N_("this QEMU does not tell whether the guest of {name} has virtio's drivers: it takes a person's word")
    hint = N_("'bocage vm set {name} --drivers virtio' when they are installed")
    name: str


class VirtioRefused(Note):
    type = "vm-virtio-refused"
    text = N_("{name} cannot go over to virtio's drivers: {reason}")
    name: str
    reason: str


class PortMended(Note):
    type = "vm-port-mended"
    text = N_("what serves the port {port} of {name} ended ({reason}) and was started again")
    name: str
    port: str
    reason: str


class PortLost(Note):
    type = "vm-port-lost"
    text = N_("nothing serves the port {port} of {name}: {reason}")
    hint = N_("it is tried again and again")
    name: str
    port: str
    reason: str


class Rehearsing(Note):
    type = "vm-rehearsing-hardware"
    text = N_("a copy of {name} runs as {machine}")
    name: str
    machine: str


class WatchdogBit(Note):
    type = "vm-watchdog"
    text = N_("the guest of {name} did not wind up its watchdog: {action}")
    name: str
    action: str


class ClockSet(Note):
    type = "vm-clock-set"
    text = N_("the clock of {name} was late, since it had stood still, and is set")
    name: str


class ClockLate(Note):
    type = "vm-clock-late"
    text = N_("the clock of {name} is late by as long as it stood still: {reason}")
    hint = N_("its time service may step it (chrony: makestep); with the guest agent it is set by itself")
    name: str
    reason: str


class Restored(Note):
    type = "vm-restored"
    text = N_("{name} runs on from its saved memory")
    name: str


class Found(Note):
    type = "vms-found"
    text = N_("found running, and watched again: {names}")
    count: int
    names: list[str]


class FoundGone(Note):
    type = "vm-found-gone"
    text = N_("{name} was found not running when the daemon came back")
    name: str


class HostRestarted(Note):
    type = "vm-host-restarted"
    text = N_("the host was restarted while {name} was running")
    name: str


class EndedWithItsHost(Note):
    type = "vm-ended-with-its-host"
    text = N_("{name} was ended, since the cluster had given its host up; it starts again where it may")
    name: str


class TakenOver(Note):
    type = "vm-taken-over"
    text = N_("{name} ran on {host} last, which does not have it any more")
    name: str
    host: str


class Stopped(Note):
    type = "vm-stopped"
    text = N_("{name} is off")
    name: str


class SwitchedOff(Note):
    type = "vm-switched-off"
    text = N_("the guest of {name} switched itself off")
    name: str


class PluggedOut(Note):
    type = "vm-killed"
    text = N_("the plug of {name} was pulled")
    name: str


class Crashed(Note):
    type = "vm-crashed"
    text = N_("{name} ended by itself: {reason}")
    hint = N_("'bocage vm log {name} --qemu' has the last words")
    name: str
    reason: str
    last_lines: list[str]


class Panicked(Note):
    type = "vm-panicked"
    text = N_("the kernel of its guest gave up")
    hint = N_("'bocage vm log {name}' has what it said")
    name: str


class Paused(Note):
    type = "vm-paused"
    text = N_("{name} is paused")
    name: str


class Resumed(Note):
    type = "vm-resumed"
    text = N_("{name} runs again")
    name: str


class Saved(Note):
    type = "vm-saved"
    text = N_("the memory of {name} is saved; its next start goes on from there")
    name: str


class SavedDropped(Note):
    type = "vm-saved-dropped"
    text = N_("the saved memory of {name} was thrown away")
    name: str


class RescueEnded(Note):
    type = "vm-rescue-ended"
    text = N_("the rescue of {name} has ended; it starts from its own disks again")
    name: str


class StorageFull(Note):
    type = "vm-storage-full"
    text = N_("{name} found no room on its storage and waits; it goes on by itself when there is room")
    hint = N_("make room on the storage ('bocage storage list'); nothing is lost")
    name: str


class StorageFailed(Note):
    type = "vm-storage-failed"
    text = N_("a write of {name} failed and it waits")
    hint = N_("look at the storage, then 'bocage vm resume {name}'")
    name: str


class StartFailed(Note):
    type = "vm-start-did-not-work"
    text = N_("{name} could not be started: {reason}")
    name: str
    reason: str


class WouldNotStop(Note):
    type = "vm-would-not-stop"
    text = N_("the guest of {name} did not switch off within {span:seconds}; it was left running")
    hint = N_("'bocage vm console {name}' shows what it waits for; 'bocage vm kill {name}' pulls the plug")
    name: str
    span: float


class NothingToSave(Note):
    type = "vm-nothing-to-save"
    text = N_("{name} was not running, so there was no memory to save")
    name: str


class Reset(Note):
    type = "vm-reset"
    text = N_("{name} was reset")
    name: str


class Rebooted(Note):
    type = "vm-rebooted"
    text = N_("the guest of {name} restarted")
    name: str


class Trashed(Note):
    type = "vm-trashed"
    text = N_("{name} went to the trash, where it is kept for {span:seconds}")
    hint = N_("'bocage vm undelete {name}' brings it back")
    name: str
    span: float


class Untrashed(Note):
    type = "vm-untrashed"
    text = N_("{name} is back from the trash")
    name: str


class Purged(Note):
    type = "vm-purged"
    text = N_("{name} and its disks are gone for good")
    name: str


class Silent(Note):
    type = "vm-monitor-silent"
    text = N_("QEMU of {name} does not answer")
    hint = N_("it may be stopped or hung: 'bocage vm kill {name}' ends it")
    name: str


class OutOfReach(Note):
    type = "vm-out-of-reach"
    text = N_("{name} runs on as process {pid}, but the sockets to talk to it are gone")
    hint = N_("shut its guest down from inside, or 'bocage vm kill {name}'; then 'bocage vm start {name}'")
    name: str
    pid: int


class AskingGuest(Note):
    type = "step-asking-guest"
    text = N_("asking the guest to switch off ({way})")
    way: str


class MakingDisk(Note):
    type = "step-making-disk"
    text = N_("making disk {disk}")
    disk: str


class Starting(Note):
    type = "step-starting"
    text = N_("starting {name}")
    name: str


class Saving(Note):
    type = "step-saving"
    text = N_("saving the memory of {name}")
    name: str


class NicMended(Note):
    type = "vm-nic-mended"
    text = N_("what carried the card {nic} of {name} ended ({reason}) and was started again")
    name: str
    nic: str
    reason: str


class NicCut(Note):
    type = "vm-nic-cut"
    text = N_("the card {nic} of {name} is cut off: what carries it could not be started again ({reason})")
    hint = N_("it is tried again and again; a cold start of the VM makes all of it anew")
    name: str
    nic: str
    reason: str


class UsbCame(Note):
    type = "vm-usb-came"
    text = N_("{name} has the USB device {device} ({node})")
    name: str
    device: str
    node: str


class UsbWent(Note):
    type = "vm-usb-went"
    text = N_("{name} has lost the USB device {device}")
    hint = N_("it has it again as soon as it is plugged in; 'bocage host usb' lists what is")
    name: str
    device: str


class NetworkMended(Note):
    type = "network-mended"
    text = N_("something of the network {name} was gone, and it was made again")
    hint = N_("another program that resets the firewall or removes interfaces takes it away")
    name: str


class BeingCopied(Note):
    type = "vm-being-copied"
    text = N_("{name} starts when its disks have been copied")
    hint = N_("'bocage task list' shows how far that is")
    name: str


class ClusterStands(Note):
    type = "vm-waits-for-cluster"
    text = N_("the cluster was shut down")
    hint = N_("'bocage cluster start' starts all that ran")
    name: str


class WaitsForOthers(Note):
    type = "vm-waits-for-others"
    text = N_("{name} starts when {others} run and answer, and in {span:seconds} at the latest")
    hint = N_("'bocage vm start {name}' starts it at once")
    name: str
    others: list[str]
    span: float


class StartsWithout(Note):
    type = "vm-starts-without"
    text = N_("{name} has waited {span:seconds} for {others}, and starts without them")
    hint = N_("'bocage why' says of each why it does not run; 'bocage vm show {name}' what it waits for")
    name: str
    others: list[str]
    span: float


class WaitsForTurn(Note):
    type = "vm-waits-for-turn"
    text = N_("{name} starts with its host, when those that come first have started")
    hint = N_("'bocage vm start {name}' starts it at once")
    name: str


class HostStopsVms(Note):
    type = "vm-host-stops-vms"
    text = N_("the host of {name} has its VMs go off, because it is about to go down")
    hint = N_("{name} starts with the next start of the machine, or with 'bocage host start-vms'")
    name: str


class StoppingVms(Note):
    type = "step-stopping-vms"
    text = N_("asking {count} VMs of autostart order {order} to go off: {names}")
    count: int
    order: int
    names: list[str]


class StartedByHand(Note):
    type = "vm-started-by-hand"
    text = N_("{name} was started by hand (process {pid}) while no daemon was there, and is watched from now on")
    name: str
    pid: int


class NotCancelled(Note):
    type = "task-not-cancelled"
    text = N_("{action} is done at once and cannot be cancelled")
    action: str


class WaitsForRoom(Note):
    type = "waits-for-room"
    text = N_("there is no room to merge what {name} held since its snapshot {snapshot} into what it held before")
    hint = N_("make room on its storage; it goes on by itself")
    name: str
    snapshot: str


class FlattenWaitsForRoom(Note):
    type = "flatten-waits-for-room"
    text = N_("there is no room to copy into the disks of {name} what they have of their images")
    hint = N_("make room on its storage; it goes on by itself")
    name: str


class Mirroring(Note):
    type = "mirroring-disks"
    text = N_("the disks of {name} follow what its guest writes")
    name: str


class Copying(Note):
    type = "step-copying"
    text = N_("copying {what}")
    what: str


class MergingLayer(Note):
    type = "step-merging-layer"
    text = N_("merging what {disk} held since the snapshot into what it held before")
    disk: str


class FreezingGuest(Note):
    type = "step-freezing-guest"
    text = N_("asking the guest to write out what it holds")


class SnapshotMade(Note):
    type = "snapshot-made"
    text = N_("the snapshot {snapshot} of {name} was made")
    name: str
    snapshot: str


class SnapshotLost(Note):
    type = "snapshot-not-made"
    text = N_("the snapshot {snapshot} of {name} could not be made: {reason}")
    name: str
    snapshot: str
    reason: str


class SnapshotDeleted(Note):
    type = "snapshot-deleted"
    text = N_("the snapshot {snapshot} of {name} was deleted")
    name: str
    snapshot: str


class WentBack(Note):
    type = "vm-went-back"
    text = N_("{name} went back to its snapshot {snapshot}")
    name: str
    snapshot: str


class MemoryLeftOut(Note):
    type = "snapshot-memory-left-out"
    text = N_("its memory was saved, and is not part of the snapshot")
    hint = N_("'--memory' takes it along")


class CutOff(Note):
    type = "snapshot-cut-off"
    text = N_("the daemon or the VM ended while it was made")


class Flattening(Note):
    type = "step-flattening"
    text = N_("copying what {disk} has of its image")
    disk: str


class Flattened(Note):
    type = "vm-flattened"
    text = N_("{name} is linked to no image any more")
    name: str
