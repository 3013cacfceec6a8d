"""The engine's contract: what runs one VM on this host, whatever the monitor.

`node` plans a start (where files lie, who carries the NICs) and drives a Machine; it never sees QMP.
"""

from __future__ import annotations

import dataclasses
import enum
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from bocage import errors, words
from bocage.engine import block, copies, uses
from bocage.engine import inside as insides
from bocage.engine import passing as passages
from bocage.engine import plugs as plugged
from bocage.model import confinement
from bocage.model import vm as model
from bocage.planner.adaptation import First
from bocage.words import N_


class Error(errors.Problem):
    """Anything that goes wrong with running a VM."""


class NotRunning(Error, errors.Conflict):
    """The operation needs a running VM."""

    type = "vm-not-running"
    text = N_("the VM {name} is not running")
    hint = N_("'bocage vm start {name}'")
    name: str


class StartFailed(Error, errors.Unavailable):
    """The process ended, or did not answer, before its vCPUs ran."""

    type = "vm-start-failed"
    text = N_("the VM could not be started: {reason}")
    hint = N_("'bocage vm log {name} --qemu' has QEMU's own words")
    name: str
    reason: str


class CannotHold(Error, errors.Unavailable):
    """A share cannot be held here, however often it is tried."""


class NoRoom(Error, errors.Conflict):
    """It was started without the device that memory is added by."""

    type = "vm-without-room"
    text = N_("{name} was started without room for more memory")
    name: str


class NoBalloon(Error, errors.Conflict):
    """It was started without a balloon."""

    type = "vm-without-balloon"
    text = N_("the VM has no balloon")
    hint = N_("a system that drives no virtio devices cannot give memory back")


class NoSpace(Error, errors.Unavailable):
    """A job of the monitor's found no room. All is as it was; what was written so far is written again."""

    type = "no-space-for-layers"
    status = 507
    text = N_("there is no room left on the storage of {disk}")
    disk: str


@dataclasses.dataclass(frozen=True, slots=True)
class Tap:
    """A NIC on a bridge: a tap device that is there already.

    `open` gives a descriptor of it for QEMU, which then needs no right to /dev/net/tun; without it QEMU
    opens the tap by name. It raises OSError, and the caller closes what it gave. `alias` is what the
    network knows its taps by.
    """

    name: str
    bridge: str = ""
    alias: str = ""
    open: Callable[[], int] | None = dataclasses.field(default=None, compare=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Passt:
    """A NIC carried by a passt process in the VM's cgroup; `command` lacks only whom it serves.

    It runs as the VM's uid, or with `as_root` becomes that by itself, when it has taken its ports.
    """

    command: tuple[str, ...]
    as_root: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class UserMode:
    """A NIC carried inside QEMU (slirp); `apart` from everything but QEMU's own DHCP."""

    publish: tuple[model.Publish, ...] = ()
    apart: bool = False


Backend = Tap | Passt | UserMode


class Admit(Protocol):
    """Asked for each process that writes a VM's disks, before its first instruction; what it raises keeps it from that.

    `unified` and `legacy` are the directories of its control group: of version 2, or of version 1's freezer.
    """

    async def __call__(
        self, pid: int, start_time: int, *, unified: str | None = None, legacy: str | None = None
    ) -> None: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """All that starting one VM needs to know beside its spec. Everything named here is there already."""

    uid: str  # the VM's
    name: str
    project: str
    spec: model.VMSpec
    directory: pathlib.Path  # STORAGE/vms/UID
    runtime: pathlib.Path  # the engine's: process records, and sockets in `io`; short, gone after a reboot
    chains: dict[str, tuple[block.File, ...]]  # by disk name: the disk's own file first, then what it rests on
    cds: dict[str, pathlib.Path | None]  # by CD name
    nics: dict[str, Backend]  # by NIC name
    accelerator: str  # `kvm` or `tcg`
    seed: pathlib.Path | None = None  # the NoCloud ISO
    merge: bool = False  # whether the kernel may merge pages of its memory with equal ones of others (KSM)
    memory_node: int | None = None  # the NUMA node of the host that its memory is taken from; None: any
    first: First | None = None  # what it began with, when vCPUs and memory came since; None: with all of the spec
    process_uid: int | None = None  # the uid to run as; None: the daemon's own
    process_gid: int | None = None
    cgroup: str = ""  # such as `bocage/HOME/UID`; empty: none of its own
    admit: Admit | None = dataclasses.field(default=None, compare=False)

    @property
    def password(self) -> str:
        """For what its disks are pieces of, which is one thing for all of them."""
        return self._pieces[0].password if self._pieces else ""

    @property
    def on_lun(self) -> bool:
        """Whether a disk of it is a piece of a LUN."""
        return bool(self._pieces)

    @property
    def _pieces(self) -> list[block.Piece]:
        return [file.piece for chain in self.chains.values() for file in chain if file.piece]


COPY = ".copy"
"""How the name of a disk's copy ends: in what is told of a failed write, which may also be of the disk itself."""


class Run(enum.StrEnum):
    """What a machine's vCPUs do."""

    RUNNING = "running"
    PAUSED = "paused"
    STORAGE_FULL = "storage-full"  # stopped by a write that found no room
    STORAGE_FAILED = "storage-failed"  # stopped by a write that failed otherwise
    SHUT_DOWN = "shut-down"  # the guest has switched itself off
    PANICKED = "panicked"
    UNKNOWN = "unknown"  # the monitor does not answer


@dataclasses.dataclass(frozen=True, slots=True)
class Ended:
    """How the process ended. `orderly`: the guest switched off, or we told it to quit."""

    orderly: bool
    reason: words.Message
    last_lines: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Happened:
    """Something that the machine tells by itself; the node looks at it again."""

    what: str  # `run-changed`, `reset`, `balloon`, `device-removed`, `nic-cut`, `tpm-lost`, `port-lost`, `watchdog`, …
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)


Listener = Callable[[Happened], None]


class Nics(Protocol):
    """One VM's NICs: each a card in the guest, and what carries it on the host."""

    def require(self, backend: Backend) -> None:
        """Raise what keeps a running machine from having a NIC that is carried so."""
        ...

    async def there(self, name: str) -> bool:
        """Whether the guest has a NIC of this name."""
        ...

    async def plug(self, nic: model.Nic, backend: Backend) -> None:
        """Give the guest a NIC; not an error when it is there."""
        ...

    async def unplug(self, name: str) -> None:
        """Take a NIC away, with what carries it; not an error when it is gone."""
        ...

    async def recarry(self, nic: model.Nic, backend: Backend) -> None:
        """Have something else carry a NIC; the guest sees its cable pulled and put in again."""
        ...

    async def set_link(self, name: str, *, connected: bool) -> None:
        """Put a NIC's cable in, or pull it out."""
        ...

    def cut(self) -> tuple[str, ...]:
        """The names of the NICs whose carrier has died."""
        ...

    async def mend(self, backends: Mapping[str, Backend]) -> dict[str, words.Message]:
        """Start anew what carried a NIC and has died, as `backends` says; by NIC name, how it had ended.

        Raises errors.Problem and OSError when one cannot be started; then it stays as it was.
        """
        ...


class Machine(Protocol):
    """One VM's process. Every call is bounded in time; a monitor that hangs gives errors.TimedOut and no more."""

    @property
    def pid(self) -> int:
        """Of the monitor itself, not of what wraps it."""
        ...

    async def show(self, admit: Admit) -> None:
        """Have `admit` asked for its processes that write its disks, though they run already."""
        ...

    @property
    def run(self) -> Run:
        """As last heard."""
        ...

    @property
    def reachable(self) -> bool:
        """False when it runs and the way to talk to it is gone for good: all that can be done is to kill it."""
        ...

    @property
    def tpm_lost(self) -> bool:
        """Whether its TPM has died under it."""
        ...

    @property
    def version(self) -> str:
        """The running monitor's version."""
        ...

    @property
    def accelerator(self) -> str:
        """`kvm` or `tcg`: what it was started with, whatever the host could do now; empty when unknown."""
        ...

    @property
    def isolation(self) -> model.Isolation: ...

    @property
    def meter(self) -> uses.Meter: ...
    @property
    def balloon(self) -> uses.Balloon: ...
    @property
    def growing(self) -> uses.Growing: ...
    @property
    def disks(self) -> block.Disks: ...
    @property
    def layers(self) -> block.Layers: ...
    @property
    def carrying(self) -> block.Carrying: ...
    @property
    def nics(self) -> Nics: ...
    @property
    def plugs(self) -> plugged.Plugs: ...
    @property
    def inside(self) -> insides.Inside: ...
    @property
    def holding(self) -> uses.Holding: ...
    @property
    def passing(self) -> passages.Passing: ...
    @property
    def copies(self) -> copies.Copies: ...

    def confinement(self) -> confinement.Confinement:
        """What its process really may, as the kernel shows it; reads some hundred files. Raises NotRunning."""
        ...

    @property
    def started_generation(self) -> int:
        """The spec's generation that it was started with."""
        ...

    async def ended(self) -> Ended:
        """Wait for the end of the process, and tell how it was."""
        ...

    async def look(self) -> Run:
        """Ask again what it does."""
        ...

    async def press_power_button(self) -> None: ...
    async def ask_agent_to_shut_down(self, *, reboot: bool = False) -> bool:
        """False when no guest agent answers."""
        ...

    async def quit(self) -> None:
        """Pull the plug in an orderly way for the files: buffers are flushed, the process ends."""
        ...

    async def kill(self) -> None:
        """End the process and all that belongs to it, whatever state it is in."""
        ...

    async def reset(self) -> None: ...
    async def pause(self) -> None: ...
    async def resume(self) -> None: ...
    async def save(self, to: pathlib.Path, *, report: Callable[[int, int], None]) -> None:
        """Stop the vCPUs and write the whole machine's state durably; the process still stands, paused."""
        ...

    async def remember(
        self,
        disks: Sequence[model.Disk],
        overlays: Mapping[str, pathlib.Path],
        to: pathlib.Path,
        *,
        report: Callable[[int, int], None],
    ) -> bool:
        """As `layers.go_on_in`, and write the memory of that same instant to a file, durably; the guest goes on.

        Whether it was written behind the guest, which stood for the instant alone.
        """
        ...

    async def log_in(self, directory: pathlib.Path) -> None:
        """Go on with its logs, of which copies are there, in another directory. Its vCPUs stand at the first time."""
        ...

    async def lie_in(self, directory: pathlib.Path) -> None:
        """Remember that its directory is another one now."""
        ...

    async def freeze(self) -> words.Message | None:
        """Have the guest write out what it holds and keep its file systems still. Why not, when it does not."""
        ...

    async def thaw(self) -> None:
        """The guest may write again."""
        ...

    async def set_clock(self) -> words.Message | None:
        """Have the guest's clock say what this host's says. Why not, when it does not."""
        ...

    async def drives_virtio(self, disk: str) -> bool | None:
        """Whether the guest's system, not its firmware, drives a virtio disk; None when that cannot be seen."""
        ...

    async def order_boot(self, spec: model.VMSpec) -> None:
        """Boot as a machine's spec has it, from the guest's next restart on."""
        ...

    async def screenshot(self, to: pathlib.Path) -> None:
        """The screen as PNG."""
        ...

    async def send_keys(self, keys: Sequence[str]) -> None:
        """Press keys together, by QEMU's key names (QKeyCode)."""
        ...

    async def guest_addresses(self) -> dict[str, tuple[str, ...]]:
        """By MAC, as the guest agent tells; empty without an agent."""
        ...

    async def arrived(self) -> None:
        """It came from another host and is here now: from now on what is kept beside its files is of this process."""
        ...

    async def detach(self) -> None:
        """Let go of the process without touching it."""
        ...


class Engine(Protocol):
    """What runs VMs on this host."""

    async def start(
        self,
        plan: Plan,
        *,
        generation: int,
        listener: Listener,
        paused: bool = False,
        saved: pathlib.Path | None = None,
    ) -> Machine:
        """Start the process and its vCPUs, `saved`: from that state. Raises StartFailed; then nothing is left."""
        ...

    async def expect(self, plan: Plan, *, generation: int, listener: Listener) -> Machine:
        """Start a process that waits for the memory of one which runs elsewhere on the same files.

        It touches none of them before `passing.go_on`, and `arrived` is to be told. Raises StartFailed.
        """
        ...

    async def find(
        self,
        uid: str,
        name: str,
        directory: pathlib.Path,
        runtime: pathlib.Path,
        *,
        listener: Listener,
        cgroup: str = "",
    ) -> Machine | None:
        """The VM's process if it runs on this host, started by whichever daemon; None when nothing of it is alive.

        It is also found when its runtime directory is gone; then it is not `reachable`.
        Remains of a start that never finished are ended and cleared away; `cgroup` is the plan's.
        """
        ...

    async def post_mortem(self, runtime: pathlib.Path) -> Ended | None:
        """How a process ended that nobody watched, from what its keeper wrote; None when nothing is known."""
        ...

    async def forget(self, runtime: pathlib.Path) -> None:
        """Remove the runtime directory of a process that has ended, with all that `post_mortem` knows."""
        ...

    def command(self, plan: Plan) -> list[str]:
        """The line that starts it by hand: a pure function of the plan."""
        ...

    def by_hand(self, plan: Plan) -> str:
        """A shell script that starts it without us: the line, and all that must stand around it."""
        ...
