"""A port of a VM on the network: a program between QEMU and one peer at a time, which comes or is called.

It speaks raw, telnet or RFC 2217 (`speech`). `comports` runs it, with Python's own modules and these two files alone;
it ends with its QEMU.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import socket
import struct
import threading
from collections.abc import Callable

from bocage.engine.qemu import speech

_MOST = 65_536  # bytes of one peer that wait in one direction
_HELD = 1 << 20  # bytes that wait for the guest of peers that are gone, beside them; more is lost
_GUEST_BOUND = 60.0  # seconds until QEMU connects: a start that was broken off leaves nothing for longer
_CALL_BOUND = 10.0  # seconds until a call is answered
_CALL_AGAIN = 2.0  # seconds after it hung up, or was not reached
_SILENT = 120_000  # milliseconds in which a peer takes nothing of what is sent: then it is gone
_GONE = select.POLLRDHUP | select.POLLHUP | select.POLLERR


class Listening:
    """Where peers come from; one waits until the one before it has gone."""

    def __init__(self, at: socket.socket) -> None:
        at.setblocking(False)
        self._at = at

    def fileno(self) -> int:
        return self._at.fileno()

    def take(self) -> socket.socket | None:
        """The next, when there is something to be read here."""
        try:
            return _ours(self._at.accept()[0])
        except OSError:
            return None

    def gone(self) -> None:
        """The last one has gone."""


class Calling:
    """One peer that is called, again and again. `confine` is what the thread does first that calls."""

    def __init__(self, address: str, confine: Callable[[], None] = lambda: None) -> None:
        self._address, self._confine = _split(address), confine
        "".encode("idna")  # a codec that looking for a name takes, which is not found behind the filter
        self._reached, self._tell = socket.socketpair()
        self._wanted = threading.Semaphore(0)
        self._found: list[socket.socket] = []
        threading.Thread(target=self._call, daemon=True).start()

    def fileno(self) -> int:
        return self._reached.fileno()

    def take(self) -> socket.socket | None:
        """The peer, when there is something to be read here."""
        self._reached.recv(1)
        return self._found.pop()

    def gone(self) -> None:
        """It is to be called again."""
        self._wanted.release()

    def _call(self) -> None:
        self._confine()
        pause = threading.Event()
        while True:
            with contextlib.suppress(OSError, UnicodeError):  # the latter for what can be no host's name
                self._found.append(_ours(socket.create_connection(self._address, timeout=_CALL_BOUND)))
                self._tell.send(b"!")
                self._wanted.acquire()
            pause.wait(_CALL_AGAIN)


def serve(guest: socket.socket, peers: Listening | Calling, begin: Callable[[], speech.Raw]) -> None:
    """Until the guest's side ends. What nobody hears is lost."""
    guest.setblocking(False)
    session, peer, there = begin(), None, True
    while there:
        if peer:
            session.fill()
        else:
            session.from_guest.clear()
        takes, room = len(session.from_guest) < _MOST, max(len(session.to_guest), len(session.out)) < _MOST
        at: list[tuple[int, bool, bool]] = [(guest.fileno(), takes, bool(session.waiting()))]
        at.append((peer.fileno(), room, bool(session.out)) if peer else (peers.fileno(), True, False))
        [ours, theirs] = _polled(at)
        if ours & select.POLLOUT:
            _passed_on(guest, session)
        if ours & ~select.POLLOUT:
            there = _heard(guest, session)
        if peer and not _served(peer, session, theirs):
            peer.close()
            peer = None
            peers.gone()
            left, session = (session.left + session.to_guest)[:_HELD], begin()
            session.left += left
        elif peer is None and theirs:
            peer = peers.take()
    if peer:
        _rest(peer, session)


def _passed_on(guest: socket.socket, session: speech.Raw) -> None:
    waits = session.waiting()
    try:
        del waits[: guest.send(waits[: speech.PIECE])]
    except BlockingIOError:
        pass
    except ConnectionError:  # it has ended; what it said before is yet to be heard
        session.forget()


def _heard(guest: socket.socket, session: speech.Raw) -> bool:
    """Whether the guest may say more."""
    try:
        said = guest.recv(speech.PIECE)
    except BlockingIOError:
        return True
    except ConnectionError:
        return False
    session.from_guest += said
    return bool(said)


def _rest(peer: socket.socket, session: speech.Raw) -> None:
    """What the guest said last, as far as its connection takes it."""
    with contextlib.suppress(OSError):
        session.fill()
        while session.out:
            del session.out[: peer.send(session.out)]
            session.fill()
    with contextlib.suppress(OSError):
        while peer.recv(speech.PIECE):  # a connection that ends with something unread takes back what was sent
            pass


def _polled(at: list[tuple[int, bool, bool]]) -> list[int]:
    """Wait until one of them can be read or written, as far as that is wanted, or has ended: what each can."""
    poll = select.poll()
    for descriptor, reads, writes in at:
        poll.register(descriptor, select.POLLRDHUP | (reads and select.POLLIN) | (writes and select.POLLOUT))
    found = dict(poll.poll())
    return [found.get(descriptor, 0) for descriptor, _, _ in at]


def _ours(connection: socket.socket) -> socket.socket:
    """A peer's connection that ends by itself when the peer is cut off: so that it keeps nobody out."""
    connection.setblocking(False)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _MOST)  # all that may yet come of one that is gone
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    kept = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_USER_TIMEOUT, _SILENT))
    for option, value in (*kept, (socket.TCP_NODELAY, 1)):
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
    return connection


def _served(peer: socket.socket, session: speech.Raw, can: int) -> bool:
    """Whether the peer is still there. One that has gone is heard to its end, however little the guest reads."""
    try:
        if can & select.POLLOUT:
            del session.out[: peer.send(session.out[: speech.PIECE])]
        if can & (select.POLLIN | _GONE):
            said = peer.recv(speech.PIECE)
            session.received(said)
            return bool(said)
    except BlockingIOError:
        pass
    except OSError:
        return False
    return True


_ALLOWED = (  # x86-64: what reading, writing, waiting, memory and the end of a program take
    *(0, 1, 3, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 23, 25, 28, 35, 39, 43, 44, 45, 48, 51, 52, 54, 55, 60, 72),
    *(131, 186, 202, 219, 228, 230, 231, 270, 288, 318),
)
_FOR_CALLS = (17, 20, 21, 41, 42, 46, 47, 49, 63, 96, 257, 262, 307, 332)  # looking for a name, and connecting


def confine(*further: int) -> None:
    """From here on all calls of this thread but those that it needs fail: seccomp(2), on x86-64."""
    if os.uname().machine != "x86_64":
        return
    allowed = (*_ALLOWED, *further)
    load, equal, answer = 0x20, 0x15, 0x06  # BPF: load a word, jump if equal, return
    checks = [(equal, len(allowed) - number, 0, call) for number, call in enumerate(allowed)]
    of_this_machine = [(load, 0, 0, 4), (equal, 1, 0, 0xC000003E), (answer, 0, 0, 0x80000000)]
    rules = [*of_this_machine, (load, 0, 0, 0), *checks, (answer, 0, 0, 0x50001), (answer, 0, 0, 0x7FFF0000)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in rules))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(rules), ctypes.addressof(code)))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(38, 1, 0, 0, 0) or prctl(22, 2, program, 0, 0):  # no new privileges; the filter
        raise OSError(ctypes.get_errno(), "seccomp")


def _listening(where: str) -> socket.socket:
    """`fd=N` for one that was handed over; `path=PATH` or `HOST:PORT` when a person starts it."""
    kind, _, rest = where.partition("=")
    if kind == "fd":
        return socket.socket(fileno=int(rest))
    if kind == "path":
        with contextlib.suppress(FileNotFoundError):
            os.unlink(rest)
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        made.bind(rest)
        made.listen(1)
        return made
    host, port = _split(where)
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    return socket.create_server((host, port), family=family)


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def main(guest_at: str, peers_at: str, spoken: str) -> None:
    """`peers_at` is `to=HOST:PORT` for one that is called; `spoken` is `raw`, `telnet` or `rfc2217`."""
    waiting, line, calls = _listening(guest_at), speech.Line(), peers_at.startswith("to=")
    if calls:  # before the filter, which lets no thread begin
        peers: Listening | Calling = Calling(peers_at.removeprefix("to="), lambda: confine(*_FOR_CALLS))
    else:
        peers = Listening(_listening(peers_at))
    confine()
    waiting.settimeout(_GUEST_BOUND)
    guest, _ = waiting.accept()
    waiting.close()
    manner = speech.RFC2217 if spoken == "rfc2217" else speech.CALLING if calls else speech.TELNET
    serve(guest, peers, speech.Raw if spoken == "raw" else lambda: speech.Session(line, manner))
