"""The right to start a VM: on one host it is given at once, in a cluster the store is asked for it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Protocol

from bocage import errors, words
from bocage.words import N_


class Error(errors.Problem):
    """A VM may not be started here."""


class NoLife(Error, errors.Unavailable):
    """The cluster has not confirmed this host lately, or has not yet let it in again."""

    type = "host-without-life"
    text = N_("this host is not in the cluster's majority since {since}: none of its VMs may start")
    hint = N_("'bocage cluster show' says which members answer")
    since: str


class Waits(Error, errors.Unavailable):
    """What is done outside of VMs on storage that others may write to: not without a life. It is done again in one."""

    type = "work-without-life"
    text = N_("this host is not in the cluster's majority since {since}: it writes nothing to storage of several hosts")
    hint = N_("it goes on by itself; 'bocage cluster show' says which members answer")
    since: str


class NotGranted(Error, errors.Unavailable):
    type = "start-not-granted"
    text = N_("the cluster has not answered within {bound:seconds} whether the VM may start here")
    bound: float


class NotAdmitted(Error, errors.Unavailable):
    """The guard would not take charge of the process; it never ran."""

    type = "start-not-admitted"
    text = N_("this host's guard did not let the process run: {reason}")
    hint = N_("it is tried again")
    reason: str


class StillHere(Error, errors.Unavailable):
    """Something of an earlier run is here; it will be over in seconds."""

    type = "vm-still-here"
    text = N_("something of an earlier run of it is on this host still: {phase}")
    hint = N_("try again in some seconds")
    phase: str


class Elsewhere(Error, errors.Conflict):
    """The VM was given to another host meanwhile."""

    type = "vm-elsewhere"
    text = N_("the VM belongs to another host")


class Claim(Protocol):
    """One granted start."""

    @property
    def generation(self) -> int | None:
        """What the owner record has; None where nobody else may start the VM."""

    async def admit(self, pid: int, start_time: int, *, unified: str | None = None, legacy: str | None = None) -> None:
        """To be asked for each process that writes its disks, while it stands before its first instruction.

        The two are its control group's directories, of version 2 or of version 1's freezer. Raises Error.
        """

    def settle(self) -> None:
        """To be told when the start is over, however it went: what nobody uses is given back."""


class Rights(Protocol):
    """What this host may start. `replicated`: the VM has a replica, from which another host may start it."""

    async def shares(self, storage: str) -> bool:
        """Whether other hosts may start the VMs of a storage too. Raises errors.Problem."""

    async def holds(self, storage: str, *, replicated: bool = False) -> words.Message | None:
        """Why no VM of a storage may be started here now. Raises errors.Problem."""

    async def ends(self, storage: str, *, replicated: bool = False) -> bool:
        """Whether what ran on a storage is being ended, since this host was given up. Raises errors.Problem."""

    def work(self, *storages: str) -> contextlib.AbstractAsyncContextManager[None]:
        """To do something on these storages that no VM does. It is cancelled when others may take them for theirs.

        Raises Waits, on entering it and when it was cancelled so, and errors.Problem.
        """

    async def claim(self, vm: str, storage: str, *, replicated: bool = False) -> Claim:
        """The right to start a VM that lies on a storage. Raises Error, and errors.Problem."""

    async def found(self, vm: str, storage: str, *, replicated: bool = False) -> Claim | None:
        """For a VM that runs already, or is about to on another storage; None where nobody else may start it.

        Raises errors.Problem.
        """


class Own:
    """A VM that nobody else may start: the right is there, and no guard is asked."""

    generation: int | None = None

    async def admit(self, pid: int, start_time: int, *, unified: str | None = None, legacy: str | None = None) -> None:
        return

    def settle(self) -> None:
        return


class Alone:
    """A host without a cluster."""

    async def shares(self, storage: str) -> bool:
        return False

    async def holds(self, storage: str, *, replicated: bool = False) -> words.Message | None:
        return None

    async def ends(self, storage: str, *, replicated: bool = False) -> bool:
        return False

    @contextlib.asynccontextmanager
    async def work(self, *storages: str) -> AsyncIterator[None]:
        yield

    async def claim(self, vm: str, storage: str, *, replicated: bool = False) -> Claim:
        return Own()

    async def found(self, vm: str, storage: str, *, replicated: bool = False) -> Claim | None:
        return None
