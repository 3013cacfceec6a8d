"""What keeps this host in its cluster: it drives the machines that bring it to a life and let its VMs start and end.

The order of things is the protocol's: tests/protocol/daemons.py drives the same machines, through all faults.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import functools
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

import bocage
from bocage import errors, ledger, words
from bocage.model import base
from bocage.node import rights, spoken
from bocage.node.lives import array, claims, keeping, partner, setting, working
from bocage.node.started import waits_here
from bocage.protocol import owning, records, returning
from bocage.store import contract

log = logging.getLogger(__name__)

_ENDS = (returning.Phase.ENDING, returning.Phase.STRANGE, returning.Phase.STOPPING)
_TOLD = 2.0  # seconds that the guard has to say that it was given a life


class Lives:
    """One host's life, and one Owning for each VM that it may start and others too."""

    def __init__(self, where: setting.Setting, kept: ledger.Ledger, shared: array.Array) -> None:
        self._setting, self._ledger, self._array = where, kept, shared
        self._file = keeping.read(where.kept)
        if self._file.life is None:
            self._returning = returning.Returning(where.host, where.bounds, where.profile)
        else:
            life, bounds = self._file.life, self._file.bounds
            self._returning = returning.Returning.resumed(life, bounds, where.bounds, where.profile)
        self.confirmed: float | None = None
        """When the newest confirmed beat of this life was sent."""
        self.changed: list[Callable[[], None]] = []
        """Called when this host has come by a life, or has lost it."""
        self.guarded = claims.Guarded(self._say_to_guard)
        self._working = working.Working(self.guarded, shared, lambda: rights.Waits(since=self._since))
        self._owning: dict[str, owning.Owning] = {}
        self._wanted: dict[str, tuple[asyncio.Future[claims.Granted], float]] = {}  # and when it was asked for
        self._found: dict[str, claims.Found] = {}  # VMs that run, and that the guard does not hold yet
        self._earlier: set[str] = set()  # VMs of ours of which something may have been here before this daemon
        self._looked: float | None = None  # when that was seen
        self._heard = -1.0  # when the newest view was asked for
        self._gone: float | None = None
        self._lost = base.now()
        self._lived = False
        self._wake = asyncio.Event()
        self._turn = asyncio.Lock()
        self._under_way: set[asyncio.Task[None]] = set()
        self._beat = self._partner("beat", [], self._greet_beat, self._heed_beat)
        dog = [str(where.watchdog), str(where.bounds.watchdog)] if where.watchdog else []
        self._guard = self._partner("guard", [str(where.kept), *dog], lambda: None, self._heed_guard)

    @property
    def life(self) -> records.Life | None:
        """This host's, while it is live."""
        return self._returning.life if self._returning.phase is returning.Phase.LIVE else None

    @property
    def waits(self) -> bool:
        """Whether it lives in a store that is not open for work yet."""
        return self._returning.waits

    async def run(self) -> None:
        """Live until cancelled; beat, guard and VMs go on."""
        try:
            async with asyncio.TaskGroup() as together:
                together.create_task(self._beat.run())
                together.create_task(self._guard.run())
                together.create_task(self._look_on())
        finally:
            for task in self._under_way:
                task.cancel()

    # The door for those who start VMs

    async def shares(self, storage: str) -> bool:
        """See rights.Rights."""
        return await self._array.root(storage) is not None

    async def holds(self, storage: str, *, replicated: bool = False) -> words.Message | None:
        """See rights.Rights."""
        return self._no_life() if replicated or await self.shares(storage) else None

    async def ends(self, storage: str, *, replicated: bool = False) -> bool:
        """See rights.Rights."""
        return self.guarded.ends and (replicated or await self.shares(storage))

    @contextlib.asynccontextmanager
    async def work(self, *storages: str) -> AsyncIterator[None]:
        """See rights.Rights."""
        roots = await self._array.roots(*storages) if storages else []
        if not roots:
            yield
            return
        if not self._may_start():
            raise rights.Waits(since=self._since)
        async with self._working.within(roots[0]):
            yield

    def _no_life(self) -> rights.NoLife | None:
        return None if self._may_start() else rights.NoLife(since=self._since)

    @property
    def _since(self) -> str:
        return f"{self._lost:%Y-%m-%d %H:%M:%S} UTC"

    def _may_start(self) -> bool:
        guarded = self._guard.there and self.guarded.admits and self.guarded.life == self._file.guarded == self.life
        return self.life is not None and not self.waits and guarded

    async def claim(self, vm: str, storage: str, *, replicated: bool = False) -> rights.Claim:
        """See rights.Rights."""
        root = await self._array.root(storage, replicated=replicated)
        if root is None:
            return rights.Own()
        if (reason := self._no_life()) is not None:
            raise reason
        own, waiting = self._own(vm), asyncio.get_running_loop().create_future()
        self._wanted[vm] = waiting, spoken.now()
        self._wake.set()
        claim = None
        try:
            async with asyncio.timeout(claims.PATIENCE):
                granted = await waiting
            claim = claims.Claim(own, granted, self.guarded, str(root), self._perform, lambda: self.life)
        except TimeoutError as error:
            raise rights.NotGranted(bound=claims.PATIENCE) from error
        finally:
            if self._wanted.get(vm, (None,))[0] is waiting:
                del self._wanted[vm]
            if claim is None and waiting.done() and not waiting.cancelled() and not waiting.exception():
                # It was granted in the moment in which nobody waited any more.
                self._perform(own, own.started(waiting.result().attempt, running=False))
        return claim

    async def comes(self, vm: str, storage: str, generation: int) -> claims.Coming:
        """See clustered.Lives."""
        if (reason := self._no_life()) is not None:
            raise reason
        own = self._own(vm)
        if not (own.rests(spoken.now()) and own.comes()):
            raise rights.StillHere(phase=own.phase.value)
        return await self.comes_again(vm, storage, generation)

    def is_empty(self, vm: str) -> bool:
        """See clustered.Lives."""
        return self._own(vm).rests(spoken.now())

    async def comes_again(self, vm: str, storage: str, generation: int) -> claims.Coming:
        """See clustered.Lives."""
        root = await self._array.root(storage)
        return claims.Coming(self._own(vm), generation, self.guarded, str(root), self._perform, lambda: self.life)

    async def found(self, vm: str, storage: str, *, replicated: bool = False) -> rights.Claim | None:
        """See rights.Rights."""
        root = await self._array.root(storage, replicated=replicated)
        if root is None or vm in self.guarded.held():
            return None
        found = self._found[vm] = claims.Found(vm, str(root))
        return found

    def _own(self, vm: str) -> owning.Owning:
        if vm not in self._owning:
            own = self._owning[vm] = owning.Owning(vm, self._setting.host, self._setting.profile)
            if vm in self._earlier:  # what it has sent may still land
                self._earlier.discard(vm)
                own.found(0)
                own.died()
                own.left(self._looked or spoken.now())
        return self._owning[vm]

    # The round

    async def _look_on(self) -> None:
        while True:
            self._wake.clear()
            sent = spoken.now()
            try:
                async with asyncio.timeout(self._setting.profile.silence):
                    seen = await self._ledger.read()
            except contract.Closed:
                raise
            except (errors.Problem, TimeoutError) as problem:
                log.debug("the records: %s", problem)
            else:
                try:
                    async with self._turn:
                        await self._viewed(seen.view, seen.sent)
                except OSError as error:  # the home is full, say: the next round tries again
                    log.warning("this host's life: %s", error)
            self._leave_all()
            self._note_life()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.01, sent + self._setting.profile.beat / 2 - spoken.now())):
                    await self._wake.wait()

    async def _viewed(self, view: records.View, sent: float) -> None:
        if sent < self._heard or not self.guarded.known:
            return
        self._heard = sent
        now, back = spoken.now(), self._returning
        if self._looked is None:
            self._settle_in(view, now)
        runs = {
            vm: max(generation, self._own(vm).generation)
            for vm, generation in self.guarded.running().items()
            if self._own(vm).phase is not owning.Phase.COMING
        }
        started = {} if records.settled(view) else await self._array.started()
        self._found = {vm: one for vm, one in self._found.items() if one.lives and vm not in self.guarded.held()}
        before = back.life
        await self._come_back(back.seen(view, runs, started, gone=self._over(), sent=sent, now=now))
        await self._lives(before)
        if back.phase is returning.Phase.ENDING:
            for one in self._found.values():
                one.kill()
        life = self.life
        if life is None:
            return
        if back.waits:
            if records.settled(view, life.incarnation):
                self._end_what_is_not_ours(view)
            return
        if self.guarded.life != life and not await self._give_guard(life):
            return
        if self._file.guarded != life:
            await self._keep(guarded=life, life=life, bounds=self._returning.bounds)
        for one in list(self._found.values()):
            await self._take_up(one, view)
        for vm, own in list(self._owning.items()):
            self._see(vm, own, view, life, sent)

    def _over(self) -> float | None:
        """Since when nothing of the life before is here, nor on its way to a storage; None while something may be."""
        if self._gone is None or self.guarded.held() or self.guarded.mortal:
            return None
        if self._returning.phase is returning.Phase.BOOTED:
            return self._gone  # what ran before this host's first life is of none that was ended: it goes on in it
        if self._returning.phase not in _ENDS or self._found or (landed := self._working.landed()) is None:
            return None
        return max(self._gone, landed)

    async def _take_up(self, one: claims.Found, view: records.View) -> None:
        """A VM that ran before its host was part of a cluster, or was started by hand: the guard is to hold it."""
        owner = view.get(records.Owner, records.owner_of(one.vm))
        if owner is None or owner.host != self._setting.host:
            one.kill()
            return
        try:
            await one.hand_over(self.guarded, owner.generation)
        except rights.NotAdmitted as refused:
            log.warning("VM %s: %s", one.vm, refused)
            return
        self._own(one.vm).found(owner.generation)

    def _settle_in(self, view: records.View, now: float) -> None:
        """A daemon's first look: what runs is taken up, and what may have run leaves first."""
        self._looked = now
        for vm, generation in self.guarded.running().items():
            if not (waits_here(self._setting.runtime / "vms" / vm) and self._own(vm).comes()):
                self._own(vm).found(generation)
        for key, entry in view.entries.items():
            owner, vm = entry.record, key.removeprefix("owner/")
            if isinstance(owner, records.Owner) and owner.host == self._setting.host and vm not in self._owning:
                self._earlier.add(vm)

    def _see(self, vm: str, own: owning.Owning, view: records.View, life: records.Life, sent: float) -> None:
        wanted, asked = self._wanted.get(vm, (None, 0.0))
        owner = view.get(records.Owner, records.owner_of(vm))
        if wanted and not wanted.done() and sent > asked and owner and owner.host != self._setting.host:
            wanted.set_exception(rights.Elsewhere())
        if (wanted and not wanted.done()) or own.phase in (owning.Phase.STARTING, owning.Phase.RUNNING):
            self._perform(own, own.seen(view, life, sent, spoken.now()))
        elif own.phase is owning.Phase.IDLE:
            del self._owning[vm]

    def _end_what_is_not_ours(self, view: records.View) -> None:
        ends = self._returning.to_end(view, self.guarded.held())
        for vm in ends:
            self._perform(self._own(vm), self._own(vm).died())
        if not ends and self._working.landed() is not None:
            self._returning.ended(view)

    async def _come_back(self, acts: list[returning.Act]) -> None:
        for act in acts:
            match act:
                case records.Ask():
                    self._ask(act.transaction, functools.partial(self._answered, act))
                case returning.EndLife(life):
                    self._say_to_guard("raised", life=life)
                case returning.Narrow(bounds):
                    if await self.guarded.narrow(bounds, within=_TOLD):
                        await self._keep(bounds=self.guarded.bounds)
                        self._returning.narrowed(bounds)

    async def _answered(self, act: records.Ask, answer: records.Answer) -> None:
        async with self._turn:
            before = self._returning.life
            self._returning.answered(act.attempt, answer)
            await self._lives(before)
        self._wake.set()

    async def _lives(self, before: records.Life | None) -> None:
        """A life was taken: it is written down, and its beats begin."""
        life = self._returning.life
        if life is None or life == before:
            return
        log.info("this host lives in epoch %d", life.epoch)
        self._gone = self.confirmed = None
        self._working.begin()
        self._greet_beat()
        await self._keep(life=life)

    async def _give_guard(self, life: records.Life) -> bool:
        """The guard is given a life; a file has it for its successor before anything is started in it."""
        if not await self.guarded.take(life, self._returning.bounds, within=_TOLD):
            return False
        self._gone = None  # what was told meanwhile was of a life before
        return True

    async def _keep(self, **fields: Any) -> None:
        kept = dataclasses.replace(self._file, **fields)
        await asyncio.to_thread(kept.write, self._setting.kept)
        self._file = kept

    def _note_life(self) -> None:
        """Who waits for a life is told when there is one; since when there is none is noted."""
        lives = self._may_start()
        if self._returning.phase in _ENDS or (self.guarded.bounds.self_fence and not lives):
            self._working.end()
        if lives == self._lived:
            return
        self._lived = lives
        if not lives:
            self._lost = base.now() - datetime.timedelta(seconds=spoken.now() - (self.confirmed or spoken.now()))
        for tell in self.changed:
            tell()

    # VMs

    def _perform(self, own: owning.Owning, acts: list[owning.Act]) -> None:
        for act in acts:
            match act:
                case records.Ask():
                    self._ask(act.transaction, functools.partial(self._claimed, own, act.attempt))
                case owning.Start(vm, generation, attempt):
                    waiting, _ = self._wanted.get(vm, (None, 0.0))
                    if waiting is not None and not waiting.done():
                        waiting.set_result(claims.Granted(vm, generation, attempt))
                    else:  # nobody wants it any more
                        self._perform(own, own.started(attempt, running=False))
                case owning.End():
                    self._leave(own)

    async def _claimed(self, own: owning.Owning, attempt: int, answer: records.Answer) -> None:
        self._perform(own, own.answered(attempt, answer, self.life))
        self._wake.set()

    def _leave_all(self) -> None:
        for own in self._owning.values():
            if own.phase is owning.Phase.LEAVING:
                self._leave(own)

    def _leave(self, own: owning.Owning) -> None:
        if not self.guarded.known:
            return
        if own.machine not in self.guarded.held():
            own.left(spoken.now())
        elif own.machine in self.guarded.running():
            self._say_to_guard("end", vm=own.machine)

    # Beat, guard and store

    def _partner(
        self, name: str, arguments: list[str], greet: Callable[[], None], heed: Callable[[spoken.Document], None]
    ) -> partner.Partner:
        place = self._setting
        return partner.Partner(
            f"bocage.node.{name}",
            [str(place.runtime), *arguments],
            socket=place.runtime / f"{name}.sock",
            log_file=place.logs / f"{name}.log",
            greet=greet,
            heed=heed,
        )

    def _greet_beat(self) -> None:
        if self._returning.life is None:
            return
        how = self._setting.access
        papers = how.certificates
        told = {
            "members": list(how.members),
            "certificates": {name: str(path) for name, path in dataclasses.asdict(papers).items()} if papers else None,
            "user": dataclasses.asdict(how.user) if how.user else None,
        }
        place = self._setting
        self._beat.say("life", life=self._returning.life, access=told, root=place.root, profile=place.profile)

    def learn(self, members: Sequence[str]) -> None:
        """These are etcd's members from now on."""
        how = dataclasses.replace(self._setting.access, members=tuple(members))
        self._setting = dataclasses.replace(self._setting, access=how)
        self._greet_beat()

    def _heed_beat(self, told: spoken.Document) -> None:
        if told["say"] == "hello":
            if told["version"] != bocage.__version__:
                self._beat.replace()
            return
        life = spoken.life(told["life"])
        if life != self._returning.life:
            return
        if told["say"] == "confirmed":
            self.confirmed = max(float(told["sent"]), self.confirmed or 0.0)
        elif told["say"] == "raised":
            log.warning("this host's life in the cluster was ended: its VMs on shared storage are ended")
            self._returning.raised()
            self._note_life()
            self._wake.set()

    def _say_to_guard(self, say: str, **fields: object) -> bool:
        return self._guard.say(say, **fields)

    def _heed_guard(self, told: spoken.Document) -> None:
        if told["say"] == "admitted":
            self.guarded.answered(told)
        elif told["say"] == "standing":
            gone, ended = self.guarded.gone, self.guarded.heed(told)
            if self.guarded.gone != gone:
                self._gone = self.guarded.gone
            for vm in ended:
                if vm in self._owning:
                    self._perform(self._owning[vm], self._owning[vm].died())
            self._note_life()
            self._wake.set()
        elif told["say"] == "hello" and told["version"] != bocage.__version__ and not told["held"]:
            self._say_to_guard("leave")  # it has nothing to hand over

    def _ask(
        self, transaction: records.Transaction, reply: Callable[[records.Answer], Coroutine[Any, Any, None]]
    ) -> None:
        """Ask the store. Where it says nothing, the machine that asked settles that by what it sees later."""

        async def ask() -> None:
            try:
                answer = await self._ledger.write(transaction)
            except (errors.Problem, ValueError) as problem:
                log.info("the store has not answered: %s", problem)
                return
            await reply(answer)

        task = asyncio.create_task(ask())
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
