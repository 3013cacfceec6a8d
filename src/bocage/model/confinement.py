"""What a VM's process really may: read from the kernel, whatever was meant."""

from __future__ import annotations

from bocage import words
from bocage.model.base import Part, Saying
from bocage.words import N_


class Seen(Part):
    """One mount that the process sees."""

    path: str
    kind: str
    """The file system's."""
    source: str
    writable: bool


class Opened(Part):
    """One thing that the process has open."""

    descriptor: int
    what: str
    """A path, or what the kernel calls it: `socket:[4711]`, with the address where it has one."""
    writable: bool


class Confinement(Part):
    """One process as the kernel shows it (proc(5))."""

    pid: int
    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    capabilities: dict[str, tuple[str, ...]] = {}
    """By set: effective, permitted, inheritable, bounding, ambient (capabilities(7))."""
    new_privileges: bool
    """Whether a set-uid program could give it more."""
    seccomp: str
    """`filter`, `strict` or `off`; the first forbids system calls."""
    threads: int
    threads_unfiltered: int
    """How many of its threads no filter holds."""
    own_namespaces: tuple[str, ...] = ()
    """Those that are not the daemon's."""
    shared_namespaces: tuple[str, ...] = ()
    mounts: tuple[Seen, ...] = ()
    opened: tuple[Opened, ...] = ()
    interfaces: tuple[str, ...] = ()
    """Of the network that it could use."""
    groups_of_control: tuple[str, ...] = ()
    """Its control groups."""
    gaps: tuple[Saying, ...] = ()
    """What holds it less than it could be held."""


class Gap(words.Message):
    """Something that holds a process less than it could be held."""


class AsRoot(Gap):
    type = "isolation-gap-root"
    text = N_("it runs as root")
    hint = N_("stop and start it: a daemon that runs as root gives each VM a user id of its own")


class AsDaemon(Gap):
    type = "isolation-gap-uid"
    text = N_("it runs as the daemon's own user, as all VMs of this daemon do: they can end each other")
    hint = N_("run the daemon as root: then each VM has a user id of its own")


class Capable(Gap):
    type = "isolation-gap-capabilities"
    text = N_("it has capabilities: {names}")
    names: list[str]


class Gains(Gap):
    type = "isolation-gap-privileges"
    text = N_("a set-uid program could give it more rights")


class Unfiltered(Gap):
    type = "isolation-gap-seccomp"
    text = N_("{threads} of its threads may make every system call")
    threads: int


class SeesAll(Gap):
    type = "isolation-gap-mounts"
    text = N_("it sees all files of this machine, and only their owners keep it from them")
    hint = N_("'apt install bubblewrap', then stop and start it")


class SharesNetwork(Gap):
    type = "isolation-gap-network"
    text = N_("it shares this machine's network")
    hint = N_("'bocage vm show' says why, beside 'isolation'")


def gaps(found: Confinement, *, daemon: int) -> tuple[Saying, ...]:
    """What holds it less than it could be held, the worst first; `daemon` is the uid that the daemon runs as."""
    held: list[Gap] = []
    if found.uid == 0:
        held.append(AsRoot())
    elif found.uid == daemon:
        held.append(AsDaemon())
    if usable := sorted(
        {name for kind in ("effective", "permitted", "ambient") for name in found.capabilities.get(kind, ())}
    ):
        held.append(Capable(names=usable))
    if found.new_privileges:
        held.append(Gains())
    if found.threads_unfiltered:
        held.append(Unfiltered(threads=found.threads_unfiltered))
    if "mnt" in found.shared_namespaces:
        held.append(SeesAll())
    if "net" in found.shared_namespaces:
        held.append(SharesNetwork())
    return tuple(map(Saying.of, held))
