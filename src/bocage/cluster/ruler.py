"""Drives the machines that rule: reads the records, lets them decide, does what they say, tells them what came of it.

Nothing here holds up the loop: every request to the store and to the world outside is a task of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from typing import Any, Protocol

from bocage import errors, ledger
from bocage.physical import base as physical
from bocage.protocol import fencing, records, ruling, silence, timing
from bocage.words import N_

log = logging.getLogger(__name__)

_READS = 4  # under way at once: one that hangs is overtaken, and counts for nothing then
_READ_AGAIN = 0.2  # seconds from one question to a BMC to the next, while it says that the host is on
_FAILED_AGAIN = 0.5  # seconds after which one that did not answer is asked again
_PROBED = 0.5  # seconds that an answer is waited for

Probe = Callable[[str], Awaitable[bool]]
"""Whether a host answers directly; it may take as long as it likes."""


class Unforeseen(errors.Problem):
    """What was to be done about a host failed in a way that nobody thought of; it is tried again."""

    type = "fencing-unforeseen"
    text = N_("it failed: {reason}")
    hint = N_("'bocage daemon log' on the host that leads has more")
    reason: str


class Living(Protocol):
    """This host's own life, as the part of the daemon that has it tells."""

    @property
    def life(self) -> records.Life | None:
        """The one it is in; None while it is in none, or that one is being ended."""
        ...

    @property
    def confirmed(self) -> float | None:
        """When the newest confirmed beat of that life was sent (CLOCK_BOOTTIME)."""
        ...


class Book(Protocol):
    """The records in the store."""

    async def read(self) -> ledger.Seen: ...

    async def write(self, transaction: records.Transaction) -> records.Answer: ...


class Power(Protocol):
    """The power of hosts, by uid. Raises errors.Problem where nobody answers."""

    async def off(self, host: str, still: Callable[[], bool]) -> None:
        """Have its power cut, unless `still` says, in the last moment, that this is not wanted any more."""
        ...

    async def is_off(self, host: str) -> bool:
        """What its BMC says now. On the way there is not off."""
        ...


class Witness(Protocol):
    """Who is told what happens, for people to read later. It must not wait for anything."""

    def begins(self, host: str, transaction: records.Transaction) -> None:
        """Its epoch is about to be raised."""
        ...

    def did(
        self, host: str, number: int, act: fencing.Act, *, off: bool | None, problem: errors.Problem | None
    ) -> None:
        """What was done to a host, and what came of it."""
        ...

    def looked(self, ruler: Ruler, seen: ledger.Seen, now: float) -> None:
        """All was looked at, and decided upon."""
        ...

    def person(self, host: str, number: int) -> str | None:
        """Who has answered for it that this host has no power, in that raised epoch."""
        ...

    def urgency(self, machine: str) -> tuple[int, str]:
        """What comes first sorts first."""
        ...


class Ruler:
    """The leader's work on one host; that host may lead or not. `run` it, or `look` by hand."""

    def __init__(
        self,
        me: str,
        *,
        book: Book,
        living: Living,
        means: Mapping[str, fencing.Means],
        place: ruling.Place,
        power: Power,
        witness: Witness,
        ends_writes: Callable[[str, fencing.Proof], bool],
        stays: Callable[[str], bool],
        profile: timing.Timing,
        probe: Probe | None = None,
        stands: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.me = me
        self.ruling = ruling.Ruling(me, means, profile, place, stays)
        self.silence = silence.Silence(me, profile, clock())
        self._book, self._living, self._power, self._witness = book, living, power, witness
        self._ends_writes, self._probe, self._profile = ends_writes, probe, profile
        self._stands = stands  # whether the cluster was shut down on purpose: nobody is fenced, nothing moved
        self._clock, self._pause = clock, pause
        self._read_sent = float("-inf")  # of the newest read that was looked at
        self._reads = 0
        self.newest: tuple[ledger.Seen, float] | None = None
        """What was seen last, and when."""
        self._probing: set[str] = set()
        self._doing: set[ruling.Do] = set()  # a BMC that takes long is not told again meanwhile
        self._tasks: set[asyncio.Task[None]] = set()
        self._pausing = 0
        self._again = asyncio.Event()

    @property
    def leads(self) -> bool:
        """Whether this host leads and has seen so lately."""
        return self.ruling.leading.leads(self._clock())

    def fit(self, host: str) -> bool:
        """Whether a host can be given VMs: it lives, and has been heard."""
        if self.newest is None:
            return False
        view = self.newest[0].view
        epoch = view.get(records.Epoch, records.epoch_of(host))
        shut_out = view.get(records.Fence, records.fence_of(host)) is not None
        return epoch is not None and epoch.lives and not shut_out and host not in self.silence.silent(self._clock())

    async def run(self) -> None:
        """Rule until cancelled."""
        try:
            while True:
                if self._reads < _READS:
                    self._begin(self.look())
                self._perform(self.ruling.tick(self._clock()))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._profile.beat / (2 if self.leads else 1)):
                        await self._again.wait()
                self._again.clear()
        finally:
            for task in self._tasks:
                task.cancel()

    async def look(self) -> None:
        """Read the records, and begin what is to be done about them."""
        self._reads += 1
        try:
            seen = await self._book.read()
        except errors.Problem as problem:
            log.debug("the records: %s", problem)
            return
        finally:
            self._reads -= 1
        if seen.sent > self._read_sent:
            self._read_sent = seen.sent
            self._take(seen, self._clock())

    @property
    def busy(self) -> bool:
        """Whether anything is under way that is not just waiting to be done again."""
        return len(self._tasks) > self._pausing

    def _take(self, seen: ledger.Seen, now: float) -> None:
        life, confirmed = self._living.life, self._living.confirmed
        if confirmed is not None:
            self.silence.confirmed(min(confirmed, seen.sent), now)
        self.silence.seen(seen.view, now)
        self.newest = (seen, now)
        if life is None:
            return
        self._perform(self.ruling.seen(seen.view, self.silence, life, seen.sent, now))
        if self.leads:
            self._hear_persons()
            self._perform(self.ruling.tick(now))
            self._ask_the_quiet(records.hosts(seen.view), now)
        self._witness.looked(self, seen, now)

    def _hear_persons(self) -> None:
        for host, fence in self.ruling.fences.items():
            if fence.proof is None and (person := self._witness.person(host, fence.number)):
                fence.said_by(person)

    def _ask_the_quiet(self, hosts: Collection[str], now: float) -> None:
        """A host whose beats do not come through may answer all the same: then its fence waits for T_guard."""
        for host in hosts:
            quiet = self.silence.of(host, now) > self._profile.silence / 2
            if self._probe and quiet and host not in self._probing and host not in self.ruling.fences:
                self._probing.add(host)
                self._begin(self._ask(self._probe, host))

    async def _ask(self, probe: Probe, host: str) -> None:
        asked = self._clock()
        try:
            async with asyncio.timeout(_PROBED):
                if await probe(host):
                    self.silence.heard(host, asked)
        except (OSError, errors.Problem):
            pass
        finally:
            self._probing.discard(host)

    def _perform(self, acts: Collection[ruling.Act]) -> None:
        writes = [act for act in acts if isinstance(act, ruling.Write) and not (self._stands() and _touches_vms(act))]
        for write in sorted(writes, key=self._urgency):
            for key in write.transaction.puts:
                if key.startswith("epoch/"):
                    self._witness.begins(key.removeprefix("epoch/"), write.transaction)
            self._begin(self._write(write))
        for act in acts:
            if self._stands() and isinstance(act, ruling.Do):
                continue
            if isinstance(act, ruling.Lift):  # no storage of a kind that shuts hosts out is there
                self.ruling.lifted(act.host, act.number)
            elif isinstance(act, ruling.Do) and act not in self._doing:
                self._doing.add(act)
                self._begin(self._do(act))

    def _urgency(self, act: ruling.Write) -> tuple[int, str]:
        machines = [key.removeprefix("owner/") for key in act.transaction.puts if key.startswith("owner/")]
        return min(map(self._witness.urgency, machines), default=(-1, ""))

    async def _write(self, act: ruling.Write) -> None:
        try:
            await self._book.write(act.transaction)
        except (errors.Problem, ValueError) as error:  # the next look shows what became of it
            log.debug("not written: %s", error)
        self._again.set()

    async def _do(self, act: ruling.Do) -> None:
        off: bool | None = None
        problem: errors.Problem | None = None
        try:
            match act.act:
                case fencing.Act.POWER_OFF:
                    await self._power.off(act.host, lambda: self._is_wanted(act))
                    if (fence := self._fence(act)) is not None:
                        fence.ordered(self._clock())
                case fencing.Act.READ_POWER:
                    asked = self._clock()
                    off = await self._power.is_off(act.host)
                    self.ruling.read_power(act.host, off=off, asked=asked)
                case fencing.Act.END_WRITES:
                    fence = self._fence(act)
                    if fence is not None and fence.proof and self._ends_writes(act.host, fence.proof):
                        fence.writes_ended(act.number)
                case fencing.Act.SHUT_OUT:
                    raise AssertionError("no storage can shut a host out")
        except physical.Unwanted:
            log.info("%s is not switched off any more", act.host)
        except errors.Problem as error:
            problem = error
        except Exception as error:  # whatever it is, it must not end what is done about a dead host
            log.exception("%s of %s", act.act.name, act.host)
            problem = Unforeseen(reason=f"{type(error).__name__}: {error}"[:300])
        self._witness.did(act.host, act.number, act.act, off=off, problem=problem)
        if problem or off is False:
            self._pausing += 1
            try:
                await self._pause(_FAILED_AGAIN if problem else _READ_AGAIN)
            finally:
                self._pausing -= 1
        self._doing.discard(act)
        self.ruling.answered(act)
        self._perform(self.ruling.tick(self._clock()))
        self._again.set()

    def _is_wanted(self, act: ruling.Do) -> bool:
        """Whether that life is still to be proven over, and by this host."""
        fence = self._fence(act)
        return fence is not None and not fence.proven and self.leads and not self._stands()

    def _fence(self, act: ruling.Do) -> fencing.Fencing | None:
        """The fence that this was done for, if it is still about that life."""
        fence = self.ruling.fences.get(act.host)
        return fence if fence is not None and fence.number == act.number else None

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("ruling", exc_info=error)


def _touches_vms(act: ruling.Write) -> bool:
    """Whether it ends a host's life or gives VMs away; opening a restored store is another matter."""
    puts = act.transaction.puts
    return records.CLUSTER not in puts and any(key.startswith(("epoch/", "owner/")) for key in puts)
