"""What to do next with one VM: from what is, and what should be, to one step.

Level-triggered and pure: the node calls `decide` again after every step and after everything that
happens, so each step is idempotent and a killed daemon carries on where the world stands.
"""

from __future__ import annotations

import dataclasses
import enum

from bocage import words
from bocage.model import vm as model
from bocage.words import N_

SECOND_PRESS = 20.0  # seconds after the first press of the power button; Windows 2003's first only lights the screen
FURTHER_PRESSES = 60.0
LONGEST_BACKOFF = 300.0
STEADY = 600.0  # seconds of running after which the count of restarts starts anew
FIRST_STALL = 2.0  # seconds before a guest that met a full storage goes on, doubled when it meets it again at once
LONGEST_STALL = 60.0
_SHORTEST_WAIT = 0.01  # so that rounding cannot make it look again at the same moment


class Process(enum.StrEnum):
    """What there is of the VM's process."""

    NONE = "none"
    RUNNING = "running"
    PAUSED = "paused"
    FULL = "storage-full"
    FAILED_STORAGE = "storage-failed"
    SHUT_DOWN = "shut-down"
    PANICKED = "panicked"
    SILENT = "silent"  # it lives, its monitor does not answer


@dataclasses.dataclass(frozen=True, slots=True)
class World:
    """All that a decision about one VM looks at. Times are seconds of one clock that never stands still."""

    power: model.Power
    now: float
    process: Process
    saved: bool = False  # a saved state lies in its directory
    ready: bool = True  # directory and disks are made
    deleted: bool = False
    trashed: bool = False  # its directory lies in the trash
    purge: bool = False  # what was deleted is to be gone for good, at once
    kill: bool = False  # somebody asked to pull the plug
    asked_to_start: bool = False  # a person's start stands open
    asked_to_resume: bool = False
    ended: bool = False  # the process ended and that was not looked at yet
    orderly: bool = False  # it ended because the guest switched off or because we told it to
    policy: model.Restart = model.Restart()
    stop: model.StopPolicy = model.StopPolicy()
    restarts: int = 0  # tries in a row
    started: float | None = None  # when it last began to run
    failed: float | None = None  # when it last ended or failed to start
    reboot: bool = False  # an orderly restart stands open, and the process that it is about has not been replaced
    guest_reboots: bool = False  # its agent has taken that on: it restarts within its process
    stopping: float | None = None  # when it was first asked to switch off, and that still holds
    pressed: float | None = None  # when it was last asked, whether or not somebody still wants it
    presses: int = 0
    room: bool = True  # the storage has room again
    resumed: float | None = None  # when it last went on after a full storage
    adapts: bool = False  # its definition has changed, and it can take some of that
    stalls: int = 0  # times in a row that it met a full storage again at once
    leaving: bool = False  # its host is about to go down
    unplugged: bool = True  # and its plug is pulled when its time to switch off is over
    rescue: bool = False  # what runs, or is to run, is its rescue system


class Waits(words.Message):
    """Nothing can be done before a time; a reason that is shown."""


class BackOff(Waits):
    type = "restart-backs-off"
    text = N_("it ended by itself; try {next} of {limit} comes in {span:seconds}")
    hint = N_("'bocage vm start {name}' tries at once; 'bocage vm log {name}' shows its last words")
    name: str
    next: int
    limit: int
    span: float


class GaveUp(Waits):
    type = "restart-gave-up"
    text = N_("it ended by itself {count} times in a row, which is the limit")
    hint = N_("look at 'bocage vm log {name}' and 'bocage vm log {name} --qemu', then 'bocage vm start {name}'")
    name: str
    count: int


class NoRestart(Waits):
    type = "restart-never"
    text = N_("it ended by itself, and its restart policy is 'never'")
    hint = N_("'bocage vm start {name}' starts it again")
    name: str


class Do(enum.StrEnum):
    """The steps."""

    NOTHING = "nothing"
    PREPARE = "prepare"
    ADAPT = "adapt"  # what a running machine can take of a changed definition
    START = "start"
    START_PAUSED = "start-paused"
    FORGET_RESTARTS = "forget-restarts"  # it has run steadily
    ASK_TO_STOP = "ask-to-stop"  # agent, else the power button
    QUIT = "quit"  # the guest is down; end its process
    KILL = "kill"
    GIVE_UP_STOPPING = "give-up-stopping"
    FORGET_STOPPING = "forget-stopping"  # nobody wants it off any more, and it is still there
    ASK_TO_REBOOT = "ask-to-reboot"
    GIVE_UP_REBOOTING = "give-up-rebooting"
    PAUSE = "pause"
    RESUME = "resume"
    SAVE = "save"
    DROP_SAVED = "drop-saved"
    KEEP_SAVED = "keep-saved"  # only a pulled plug throws memory away: power follows what is there
    NOTE_SWITCHED_OFF = "note-switched-off"  # the guest did it: power follows
    NOTE_OFF = "note-off"  # it went off as it was asked, and is to run again
    NOTE_CRASH = "note-crash"
    LEAVE_RESCUE = "leave-rescue"  # it is off: the next start is of its own disks
    NOTHING_TO_SAVE = "nothing-to-save"
    TRASH = "trash"
    UNTRASH = "untrash"
    PURGE = "purge"


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    do: Do
    again: float | None = None  # look again after so many seconds
    waits: type[Waits] | None = None


def decide(world: World) -> Step:
    """The next step; NOTHING when the VM is as it should be or only time can help."""
    if world.deleted:
        return _leave(world)
    if world.trashed:
        return Step(Do.UNTRASH)
    if not world.ready:
        return Step(Do.PREPARE)
    if world.ended:
        return _judge_end(world)
    if world.kill and world.process is not Process.NONE:
        return Step(Do.KILL)
    if world.kill and world.saved:
        return Step(Do.DROP_SAVED)
    if world.leaving and world.power is not model.Power.SAVED:
        return _before_its_host(world)
    match world.power:
        case model.Power.RUNNING | model.Power.PAUSED:
            return _towards_running(world)
        case model.Power.STOPPED:
            return _towards_stopped(world)
        case model.Power.SAVED:
            return _towards_saved(world)


def _wait(span: float) -> Step:
    return Step(Do.NOTHING, again=max(span, _SHORTEST_WAIT))


def backoff(policy: model.Restart, restarts: int) -> float:
    """Seconds before try number `restarts` + 1: the delay, doubled each time, bounded."""
    return float(min(policy.delay * 2.0 ** min(restarts, 30), LONGEST_BACKOFF))


def _leave(world: World) -> Step:
    if world.process is not Process.NONE:
        return Step(Do.KILL)
    if not world.trashed:
        return Step(Do.TRASH)
    return Step(Do.PURGE) if world.purge else Step(Do.NOTHING)


def _judge_end(world: World) -> Step:
    if not world.orderly:
        return Step(Do.NOTE_CRASH)
    if world.power not in (model.Power.RUNNING, model.Power.PAUSED):
        return Step(Do.NOTE_SWITCHED_OFF)
    asked_off = world.pressed is not None and world.now - world.pressed <= world.stop.within
    if world.reboot or world.asked_to_start or asked_off or world.leaving:
        return Step(Do.NOTE_OFF)
    if world.policy.policy == "always" and not world.rescue:
        return Step(Do.NOTE_CRASH)  # counted and backed off like a crash, so that it cannot spin
    return Step(Do.NOTE_SWITCHED_OFF)


def _towards_running(world: World) -> Step:
    paused = world.power is model.Power.PAUSED
    match world.process:
        case Process.NONE:
            return _may_start(world, paused)
        case Process.RUNNING:
            return Step(Do.PAUSE) if paused else _while_running(world)
        case Process.PAUSED:
            return Step(Do.NOTHING) if paused else Step(Do.RESUME)
        case Process.FULL:
            return Step(Do.NOTHING, again=FIRST_STALL) if paused else _go_on(world)
        case Process.FAILED_STORAGE:  # more than room is needed: a person looks at it first
            return Step(Do.RESUME) if world.asked_to_resume else Step(Do.NOTHING)
        case Process.SHUT_DOWN | Process.PANICKED:
            return Step(Do.QUIT)
        case Process.SILENT:
            return Step(Do.NOTHING, again=5.0)


def _while_running(world: World) -> Step:
    if world.reboot:
        return _reboot(world)
    if world.stopping is not None:  # what was asked to go off is wanted again: it may still go, and is started then
        left = world.stopping + world.stop.within - world.now
        return _wait(left) if world.asked_to_start and left > 0 else Step(Do.FORGET_STOPPING)
    if world.adapts:
        return Step(Do.ADAPT)
    if world.restarts and world.started is not None:
        left = world.started + STEADY - world.now
        return _wait(left) if left > 0 else Step(Do.FORGET_RESTARTS)
    return Step(Do.NOTHING)


def _go_on(world: World) -> Step:
    """A guest that met a full storage goes on when there is room, less and less soon when it meets it again."""
    due = 0.0
    if world.resumed is not None and world.stalls:
        due = world.resumed + min(FIRST_STALL * 2.0 ** min(world.stalls, 30), LONGEST_STALL)
    if not world.room or world.now < due:
        return Step(Do.NOTHING, again=FIRST_STALL)
    return Step(Do.RESUME, again=FIRST_STALL)


def _may_start(world: World, paused: bool) -> Step:
    start = Step(Do.START_PAUSED if paused else Do.START)
    if world.asked_to_start or world.failed is None:
        return start
    if world.policy.policy == "never":
        return Step(Do.NOTHING, waits=NoRestart)
    if world.restarts >= world.policy.limit:
        return Step(Do.NOTHING, waits=GaveUp)
    due = world.failed + backoff(world.policy, world.restarts)
    if world.now < due:
        return Step(Do.NOTHING, again=due - world.now, waits=BackOff)
    return start


def _before_its_host(world: World) -> Step:
    """Off, whatever its policy says of a guest that does not listen: with the host its plug would be pulled as well.

    Where the whole cluster is shut down, it is asked again and again in place of that.
    """
    if world.process is Process.NONE and world.power is not model.Power.STOPPED:
        return _towards_running(world)  # which its host holds back
    then = "kill" if world.unplugged else "leave"
    return _towards_stopped(dataclasses.replace(world, stop=world.stop.model_copy(update={"then": then})))


def _towards_stopped(world: World) -> Step:
    match world.process:
        case Process.NONE if world.saved:
            return Step(Do.KEEP_SAVED)
        case Process.NONE:
            return Step(Do.LEAVE_RESCUE) if world.rescue else Step(Do.NOTHING)
        case Process.SHUT_DOWN | Process.PANICKED:
            return Step(Do.QUIT)
        case Process.PAUSED if world.stopping is None:
            return Step(Do.RESUME)  # a guest whose vCPUs stand cannot switch itself off
        case Process.FULL if world.stopping is None and world.room:
            return Step(Do.RESUME)
        case _:
            return _press(world, Do.ASK_TO_STOP, Do.KILL if world.stop.then == "kill" else Do.GIVE_UP_STOPPING)


def _reboot(world: World) -> Step:
    if world.guest_reboots and world.stopping is not None:
        left = world.stopping + world.stop.within - world.now
        return _wait(left) if left > 0 else Step(Do.GIVE_UP_REBOOTING)
    return _press(world, Do.ASK_TO_REBOOT, Do.GIVE_UP_REBOOTING)


def _press(world: World, ask: Do, at_the_bound: Do) -> Step:
    if world.stopping is None:
        return Step(ask)
    gone = world.now - world.stopping
    if gone >= world.stop.within:
        return Step(at_the_bound)
    due = SECOND_PRESS if world.presses <= 1 else SECOND_PRESS + FURTHER_PRESSES * (world.presses - 1)
    if gone >= due:
        return Step(ask)
    return _wait(min(due, world.stop.within) - gone)


def _towards_saved(world: World) -> Step:
    match world.process:
        case Process.NONE:
            return Step(Do.NOTHING) if world.saved else Step(Do.NOTHING_TO_SAVE)
        case Process.SHUT_DOWN | Process.PANICKED:
            return Step(Do.QUIT)
        case Process.SILENT:
            return Step(Do.NOTHING, again=5.0)
        case _:
            return Step(Do.SAVE)
