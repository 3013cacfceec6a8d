"""The guard's process: what it hears, what it does to the host, and what it reads back.

One thread of it waits for sockets and processes; another one, for as long as that takes, for a storage to have
everything that the ended have left. Nothing is executed here, and nothing waits for a disk.

What is on storages of kind `shared` is written by the kernel, through a mount: QEMU itself has nothing on the network
there, so DROP has nothing to drop and is read back at once. SEVER has the kernel write what it still holds instead, and
of a LUN, whose initiator is QEMU itself, destroys the sockets of those that have ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import pathlib
import selectors
import socket
import threading
import time
from typing import Any

import bocage
from bocage.node import spoken
from bocage.node.guard import held, watchdog
from bocage.protocol import guarding, records

log = logging.getLogger(__name__)

_TICK = 0.1  # seconds
_READ_BACK = 0.01  # seconds until a freeze is looked at again
_AGAIN = 1.0  # seconds
_ROOM = 1 << 20  # bytes that somebody who listens may be behind

Act = guarding.Act


def is_alone(runtime: pathlib.Path) -> bool:
    """Whether no other guard of this home lives; until this process ends there will be none."""
    descriptor = os.open(runtime / "guard.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _settle(one: held.Held) -> None:
    """Again and again until it is done: before that nothing is gone."""
    while True:
        try:
            return one.settle()
        except OSError:
            log.exception("%s: what it has left cannot be ended", one.place.vm)
            time.sleep(_AGAIN)


class Process:
    """One host's guard."""

    def __init__(self, runtime: pathlib.Path, kept: pathlib.Path, dog: watchdog.Watchdog | None) -> None:
        self._socket = runtime / "guard.sock"
        self._known = runtime / "guarded"
        self._dog = dog
        self._held: dict[str, held.Held] = {}  # by VM
        self._vms: dict[str, str] = {}  # by process; those that are over and have left something too
        self._gone: float | None = None
        self._severing = False
        self._settled: frozenset[str] = frozenset()  # what was over when that was begun
        self._severed_read, self._severed_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._clients: dict[socket.socket, spoken.Splitter] = {}
        self._selector = selectors.DefaultSelector()
        self._shown = b""
        self._guard = self._begin(kept)

    def _begin(self, kept: pathlib.Path) -> guarding.Guard:
        """The guard of a host that has just booted; or one without predecessor, which holds all that it finds."""
        writes = (
            self._dog is not None
        )  # the kernel's writes outlive a freeze: where time is to prove, only a reset ends
        life, bounds = guarded(kept)
        self._known.mkdir(mode=0o700, exist_ok=True)
        if life is None and not any(self._known.glob("*.json")):
            self._gone = spoken.now()
            return guarding.Guard.first(kernel_disks=writes)
        guard = guarding.Guard.alone(life, bounds, spoken.now(), kernel_disks=writes)
        complete = True
        for path in self._known.glob("*.json"):
            try:
                one = held.Held.found(path)
            except (OSError, ValueError, TypeError, KeyError):
                log.exception("%s", path)
                complete = False
                continue
            self._held[one.place.vm] = one
            for process in one.processes:
                self._vms[process] = one.place.vm
                if process in one.pidfds:
                    self._watch(process, one.pidfds[process])
        guard.found(self._vms, complete=complete)
        log.info("no guard was here; %d processes are held of %s", len(self._vms), life or "an unknown life")
        for process, vm in list(self._vms.items()):
            if process not in self._held[vm].pidfds:
                self._over(process, guard)
        return guard

    def run(self) -> None:
        """Until the host goes down."""
        listening = spoken.listen(self._socket)
        self._selector.register(listening, selectors.EVENT_READ, self._accept)
        self._selector.register(self._severed_read, selectors.EVENT_READ, self._severed)
        while True:
            self._do(self._guard.tick(spoken.now()))
            self._show()
            unread = self._guard.phase is guarding.Phase.HELD and not self._guard.standing.frozen
            due = spoken.now() + (_READ_BACK if unread else _TICK)
            while (left := due - spoken.now()) > 0:
                for key, _ in self._selector.select(left):
                    key.data(key.fileobj)
                self._show()

    # What it hears

    def _accept(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            client, _ = listening.accept()
            client.setblocking(False)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _ROOM)
            self._clients[client] = spoken.Splitter()
            self._selector.register(client, selectors.EVENT_READ, self._hear)
            hello = spoken.line("hello", version=bocage.__version__, pid=os.getpid(), held=len(self._held))
            self._send(client, hello)
            self._send(client, self._standing())

    def _hear(self, client: socket.socket) -> None:
        if client not in self._clients:
            return
        try:
            piece = client.recv(1 << 16)
            for told in self._clients[client].feed(piece) if piece else ():
                self._heed(client, told)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        except (ValueError, KeyError, TypeError):
            log.exception("what was said cannot be understood")
            piece = b""
        if not piece:
            self._drop(client)

    def _heed(self, client: socket.socket, told: spoken.Document) -> None:
        guard, now = self._guard, spoken.now()
        match told["say"]:
            case "confirmed":
                self._do(guard.confirmed(_life(told), float(told["sent"]), now))
            case "raised":
                self._do(guard.raised(_life(told)))
            case "taken":
                life = _life(told)
                self._do(guard.taken(life, spoken.bounds(told["bounds"])))
                if guard.life == life and guard.phase is not guarding.Phase.OVER:
                    self._gone = None
            case "narrow":
                guard.narrow(spoken.bounds(told["bounds"]))
            case "admit":
                self._send(client, self._admit(told, now))
            case "end":  # one VM alone
                if one := self._held.get(told["vm"]):
                    one.kill()
                    one.thaw()
            case "leave" if not self._held:  # another version comes
                if self._dog:
                    self._feed()
                raise SystemExit
            case _:
                log.warning("nothing is known of %r", told["say"])

    def _admit(self, told: spoken.Document, now: float) -> bytes:
        """Take charge of a process that stands before its first instruction."""
        place, pid, start = held.Place(**told["place"]), int(told["pid"]), int(told["start"])
        process, before = f"{place.vm}:{pid}:{start}", self._held.get(place.vm)
        try:
            if before and before.place != place:
                raise _Refused("something of the VM is still here")
            one = before or held.Held(place, self._known)
            try:
                if self._guard.bounds.self_fence and not one.freezes:
                    raise _Refused("the VM has no control group that can be frozen")
                one.take(process, pid, start)
                one.keep()
                if not self._guard.admit(process, now):
                    raise _Refused(f"this host is not confirmed: {self._guard.phase.value}")
            except (OSError, _Refused):
                one.over(process)
                if before:
                    one.keep()
                else:
                    one.forget()
                raise
        except (OSError, _Refused) as refused:
            return spoken.line("admitted", id=told["id"], admitted=False, reason=str(refused))
        self._held[place.vm], self._vms[process] = one, place.vm
        self._watch(process, one.pidfds[process])
        return spoken.line("admitted", id=told["id"], admitted=True, reason="")

    def _watch(self, process: str, pidfd: int) -> None:
        self._selector.register(pidfd, selectors.EVENT_READ, lambda _: self._ended(process))

    def _ended(self, process: str) -> None:
        one = self._held[self._vms[process]]
        self._selector.unregister(one.pidfds[process])
        one.ended(process)
        self._do(self._over(process, self._guard))

    def _over(self, process: str, guard: guarding.Guard) -> list[Act]:
        """It is no more. What the daemon's own have left in the kernel is the daemon's to see to."""
        one = self._held[self._vms[process]]
        if not one.place.mortal:
            return guard.ended(process)
        del self._held[self._vms.pop(process)]
        one.processes.clear()
        one.forget()
        return guard.left(process)

    # What it does

    def _do(self, acts: list[Act]) -> None:
        for act in acts:
            match act:
                case Act.FREEZE:
                    for one in self._held.values():
                        one.freeze()
                    self._do(self._guard.held(frozen=all(one.frozen() for one in self._held.values())))
                case Act.DROP:
                    self._do(self._guard.held(dropped=True))
                case Act.THAW:
                    for one in self._held.values():
                        one.thaw()
                case Act.LET_PASS:
                    pass
                case Act.KILL:
                    for one in self._held.values():
                        one.kill()
                case Act.SEVER:
                    self._sever()
                case Act.GONE:
                    self._gone = spoken.now()
                    log.info("nothing of the life that was ended runs")
                case Act.FEED:
                    self._feed()

    def _feed(self) -> None:
        if self._dog:
            try:
                self._dog.feed()
            except OSError as error:
                log.warning("the watchdog: %s", error)

    def _sever(self) -> None:
        """See to it that nothing of the ended can land any more; told by `severed`."""
        if self._severing:
            return
        self._severing = True
        remains = self._guard.standing.remains
        ended = [self._held[vm] for vm in {self._vms[process] for process in remains}]

        def settle() -> None:
            for one in ended:
                _settle(one)
            self._settled = remains
            os.write(self._severed_write, b"\0")

        threading.Thread(target=settle, daemon=True).start()

    def _severed(self, _: Any) -> None:
        os.read(self._severed_read, 1)
        self._severing = False
        if not self._guard.standing.remains <= self._settled:
            self._sever()  # another one has ended meanwhile
            return
        for process in self._settled:
            one = self._held[self._vms.pop(process)]
            one.over(process)
            if not one.processes:
                del self._held[one.place.vm]
                one.forget()
        self._do(self._guard.severed())

    # What it tells

    def _standing(self) -> bytes:
        standing = self._guard.standing
        return spoken.line(
            "standing",
            life=standing.life,
            bounds=standing.bounds,
            phase=standing.phase.name,
            confirmed=standing.confirmed,
            admits=self._admits(standing),
            gone=self._gone,
            held={
                vm: {"generation": one.place.generation, "runs": len(one.pidfds)}
                for vm, one in self._held.items()
                if not one.place.mortal
            },
            mortal=sum(one.place.mortal for one in self._held.values()),
        )

    @staticmethod
    def _admits(standing: guarding.Standing) -> bool:
        """Whether a process would be let run just now."""
        fresh = standing.confirmed is not None and spoken.now() < standing.confirmed + standing.bounds.guard
        return standing.phase is guarding.Phase.OPEN and fresh

    def _show(self) -> None:
        """Tell all who listen, when something that concerns them is other than it was."""
        line = self._standing()
        told = json.loads(line)
        del told["confirmed"]
        said = json.dumps(told).encode()
        if said != self._shown:
            self._shown = said
            for client in list(self._clients):
                self._send(client, line)

    def _send(self, client: socket.socket, line: bytes) -> None:
        """Who does not listen is let go: the guard waits for nobody."""
        try:
            if client.send(line) == len(line):
                return
        except OSError:
            pass
        self._drop(client)

    def _drop(self, client: socket.socket) -> None:
        if self._clients.pop(client, None) is not None:
            self._selector.unregister(client)
            client.close()


class _Refused(Exception):
    """A process must not run."""


def _life(told: spoken.Document) -> records.Life:
    if (life := spoken.life(told["life"])) is None:
        raise ValueError("no life")
    return life


def guarded(kept: pathlib.Path) -> tuple[records.Life | None, records.Bounds]:
    """The life that a guard of this boot was given last, and its bounds, as the daemon has noted them."""
    try:
        told = json.loads(kept.read_text())
    except FileNotFoundError:
        return None, records.Bounds()
    life = spoken.life(told["guarded"]) if told["boot"] == spoken.boot() else None
    return life, spoken.bounds(told["bounds"])
