"""The beat's process: its beats, whom it tells of them, and from whom it has its life."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pathlib
from typing import Any

import bocage
from bocage import errors
from bocage.node import spoken
from bocage.node.beat import store
from bocage.protocol import beating, records, timing
from bocage.store.etcd import access, gateway

log = logging.getLogger(__name__)

_LOOK_AROUND = 2.0  # seconds between two looks whether another beat process has come
_AGAIN = 0.5  # seconds before beats that something ended begin again
_QUIET = 10.0  # seconds between two lines of the log about a store that does not answer


class Process:
    """One host's beat. Without a life it waits for one; the newest that it was given counts."""

    def __init__(self, runtime: pathlib.Path) -> None:
        self._own, self._guard = runtime / "beat.sock", runtime / "guard.sock"
        self._listening: set[asyncio.StreamWriter] = set()
        self._ends = asyncio.Event()
        self._current: asyncio.Task[None] | None = None
        self._given: spoken.Document = {}
        self._members: gateway.Gateway | None = None
        self._said: dict[str, bytes] = {}  # the newest of each kind, for whoever comes later
        self._to_guard: asyncio.StreamWriter | None = None
        self._silent = 0.0

    async def run(self) -> None:
        """Until it is told to end, or another has taken its place."""
        listening = spoken.listen(self._own)
        mine = os.stat(self._own).st_ino
        async with await asyncio.start_unix_server(self._serve, sock=listening, limit=spoken.LONGEST):
            speaking = asyncio.create_task(self._find_guard())
            while not self._ends.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_AROUND):
                        await self._ends.wait()
                if not self._listening and not _is(self._own, mine):
                    break
            speaking.cancel()
            if self._current:
                self._current.cancel()
        log.info("ends")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._listening.add(writer)
        try:
            life = self._given.get("life")
            writer.write(spoken.line("hello", version=bocage.__version__, pid=os.getpid(), life=life))
            for said in self._said.values():
                writer.write(said)
            while line := await reader.readline():
                for told in spoken.Splitter().feed(line):
                    self._heed(told)
        except (ValueError, KeyError, TypeError):
            log.exception("what was said cannot be understood")
        except OSError:
            pass
        finally:
            self._listening.discard(writer)
            writer.close()

    def _heed(self, told: spoken.Document) -> None:
        if told["say"] == "end":
            self._ends.set()
        elif told["say"] == "members" and self._members:
            self._members.order[:] = told["members"]
        elif told["say"] == "life" and told != self._given:
            life = spoken.life(told["life"])
            assert life
            if self._current:
                self._current.cancel()
            self._given, self._said = told, {}
            self._current = asyncio.create_task(self._beat_on(life, told))

    async def _beat_on(self, life: records.Life, told: spoken.Document) -> None:
        """Whatever it is that goes wrong, a life that goes on is beaten for."""
        while True:
            try:
                return await self._beat(life, told)
            except Exception:
                log.exception("the beats for epoch %d; they begin again", life.epoch)
            await asyncio.sleep(_AGAIN)

    async def _beat(self, life: records.Life, told: spoken.Document) -> None:
        log.info("beats for epoch %d", life.epoch)
        profile = timing.Timing(**told["profile"])
        self._members = members = gateway.Gateway(_access(told["access"]))
        kept, beats = store.Store(members, told["root"], life), beating.Beating(life, profile)
        try:
            async with asyncio.TaskGroup() as under_way:
                while not beats.ended:
                    now = spoken.now()
                    for ask in beats.tick(now):
                        under_way.create_task(self._send(kept, beats, ask, profile))
                    await asyncio.sleep(max(0.0, now + profile.beat - spoken.now()))
                raised = False
                while not raised:
                    await asyncio.sleep(profile.beat / 2)
                    raised = self._tell(await self._look(kept, beats, profile))
        finally:
            await members.close()

    async def _send(self, kept: store.Store, beats: beating.Beating, ask: records.Ask, profile: timing.Timing) -> None:
        try:
            # What is answered later confirms nothing any more, by whatever bound.
            answer = await kept.beat(ask, within=profile.guard)
        except errors.Problem as problem:
            self._is_silent(problem)
            return
        self._tell(beats.answered(ask.attempt, answer))

    async def _look(self, kept: store.Store, beats: beating.Beating, profile: timing.Timing) -> list[beating.Word]:
        try:
            return beats.looked(await kept.look(within=profile.guard))
        except errors.Problem as problem:
            self._is_silent(problem)
            return []

    def _is_silent(self, problem: errors.Problem) -> None:
        if spoken.now() > self._silent + _QUIET:
            self._silent = spoken.now()
            log.warning("%s", problem)

    def _tell(self, words: list[beating.Word]) -> bool:
        """Tell guard and daemon; whether there was anything that they must know of a life that is over."""
        told = False
        for word in words:
            match word:
                case beating.Confirmed(life, sent):
                    self._say("confirmed", guard=True, life=life, sent=sent)
                case beating.Raised(life):
                    log.warning("epoch %d was raised", life.epoch)
                    self._say("raised", guard=True, life=life)
                    told = True
                case beating.Strange(life):
                    self._say("strange", guard=False, life=life)
                case beating.Look():
                    pass  # it ends the beats, and looking begins
        return told

    def _say(self, say: str, *, guard: bool, **fields: Any) -> None:
        line = spoken.line(say, **fields)
        self._said[say] = line
        for writer in [*self._listening, *([self._to_guard] if guard and self._to_guard else [])]:
            writer.write(line)

    async def _find_guard(self) -> None:
        """Keep a way to the guard: whoever takes its place is told what was confirmed last, and what is over."""
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_unix_connection(self._guard, limit=spoken.LONGEST)
                for say, line in self._said.items():
                    if say != "strange":
                        writer.write(line)
                self._to_guard = writer
                try:
                    while await reader.read(spoken.LONGEST):
                        pass  # what it tells is for the daemon
                finally:
                    self._to_guard = None
                    writer.close()
            await asyncio.sleep(0.05)


def _access(told: spoken.Document) -> access.Access:
    papers, user = told["certificates"], told["user"]
    return access.Access(
        tuple(told["members"]),
        access.Certificates(**{name: pathlib.Path(path) for name, path in papers.items()}) if papers else None,
        access.User(**user) if user else None,
    )


def _is(path: pathlib.Path, inode: int) -> bool:
    try:
        return os.stat(path).st_ino == inode
    except OSError:
        return False
