"""A port of a VM on the network: a program between QEMU and one peer at a time, which comes or is called.

It speaks raw, telnet or RFC 2217. It is run as a file, with Python's own modules alone, by `comports`; it ends with
its QEMU.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import socket
import struct
import sys
import threading
from collections.abc import Callable

IAC, DONT, DO, WONT, WILL, SB, SE = 255, 254, 253, 252, 251, 250, 240  # RFC 854
BINARY, ECHO, SUPPRESS_GO_AHEAD, COM_PORT = 0, 1, 3, 44
SIGNATURE, SET_BAUDRATE, SET_DATASIZE, SET_PARITY, SET_STOPSIZE, SET_CONTROL = range(6)  # RFC 2217, section 2
FLOW_SUSPEND, FLOW_RESUME, SET_LINESTATE_MASK, SET_MODEMSTATE_MASK, PURGE = range(8, 13)
NOTIFY_MODEMSTATE = 7
ANSWER = 100  # an answer's code is its request's and this
LINES_UP = 0xB0  # carrier detect, data set ready, clear to send: the guest is there
_SIGNATURE = b"Bocage"
_CONTROLS = {0: (1, 2, 3, 17, 19), 4: (5, 6), 7: (8, 9), 10: (11, 12), 13: (14, 15, 16, 18)}
"""The values of SET-CONTROL that set something, by the one that asks for it."""
_CHOICES = {SET_DATASIZE: range(5, 9), SET_PARITY: range(1, 6), SET_STOPSIZE: range(1, 4)}
_MOST = 65_536  # bytes of one peer that wait in one direction
_HELD = 1 << 20  # bytes that wait for the guest of peers that are gone, beside them; more is lost
_PIECE = 4096
_LONGEST = 256  # bytes of one subnegotiation; more is not listened to
_GUEST_BOUND = 60.0  # seconds until QEMU connects: a start that was broken off leaves nothing for longer
_CALL_BOUND = 10.0  # seconds until a call is answered
_CALL_AGAIN = 2.0  # seconds after it hung up, or was not reached
_SILENT = 120_000  # milliseconds in which a peer takes nothing of what is sent: then it is gone
_GONE = select.POLLRDHUP | select.POLLHUP | select.POLLERR


class Manner:
    """What is agreed on of telnet: the options that we take on, those that the peer may, and what is offered first."""

    def __init__(self, ours: set[int], theirs: set[int], *offers: tuple[int, int]) -> None:
        self.ours, self.theirs, self.offers = ours, theirs, offers


_BOTH = {BINARY, SUPPRESS_GO_AHEAD}
RFC2217 = Manner(
    _BOTH | {ECHO}, _BOTH | {COM_PORT}, (WILL, BINARY), (DO, BINARY), (WILL, SUPPRESS_GO_AHEAD), (DO, COM_PORT)
)
TELNET = Manner(_BOTH | {ECHO}, _BOTH, (WILL, ECHO), (WILL, SUPPRESS_GO_AHEAD), (WILL, BINARY), (DO, BINARY))
CALLING = Manner(_BOTH, _BOTH | {ECHO}, (WILL, BINARY), (DO, BINARY), (DO, SUPPRESS_GO_AHEAD))


class Line:
    """What clients have set: kept from one to the next. A port that is emulated runs at any speed."""

    def __init__(self) -> None:
        self.baud = 9600
        self.chosen = {SET_DATASIZE: 8, SET_PARITY: 1, SET_STOPSIZE: 1}
        self.controls = {0: 1, 4: 6, 7: 8, 10: 11, 13: 14}

    def set(self, command: int, value: bytes) -> bytes | None:
        """What it is by now, as the answer to a command; None for one that sets nothing."""
        if command == SET_BAUDRATE and len(value) == 4:
            self.baud = int.from_bytes(value, "big") or self.baud
            return self.baud.to_bytes(4, "big")
        if command in _CHOICES and len(value) == 1:
            if value[0] in _CHOICES[command]:
                self.chosen[command] = value[0]
            return bytes([self.chosen[command]])
        if command == SET_CONTROL and len(value) == 1:
            for asks, sets in _CONTROLS.items():
                if value[0] in sets:
                    self.controls[asks] = value[0]
                if value[0] == asks or value[0] in sets:
                    return bytes([self.controls[asks]])
        return None


class Raw:
    """One peer's connection: what waits in both directions. It does no I/O itself."""

    def __init__(self) -> None:
        self.left = bytearray()  # for the guest, by peers before this one
        self.to_guest = bytearray()
        self.from_guest = bytearray()  # as the guest sent it
        self.out = bytearray()  # as the peer gets it

    def received(self, data: bytes) -> None:
        """Take in what the peer sent, cut anywhere."""
        self.to_guest += data

    def waiting(self) -> bytearray:
        """What the guest is to get next."""
        return self.left or self.to_guest

    def forget(self) -> None:
        """The guest gets nothing of what waits."""
        self.left.clear()
        self.to_guest.clear()

    def fill(self) -> None:
        """Have some of what the guest sent be on its way to the peer, when nothing else is and it may."""
        if self.from_guest and not self.out:
            self.out += self.from_guest[:_PIECE]
            del self.from_guest[:_PIECE]


class Session(Raw):
    """One that speaks telnet."""

    def __init__(self, line: Line, manner: Manner = RFC2217) -> None:
        super().__init__()
        self.suspended = False
        self._line, self._manner = line, manner
        self._masks = {SET_LINESTATE_MASK: 0, SET_MODEMSTATE_MASK: 255}
        self._on: set[tuple[int, int]] = set()  # WILL or DO of ours, and the option
        self._offered: set[tuple[int, int]] = set()
        self._held = bytearray()  # the beginning of a command that has not come whole
        self._after_return = False
        for word, option in manner.offers:
            self._offered.add((word, option))
            self.out += bytes([IAC, word, option])

    def received(self, data: bytes) -> None:
        self._held += data
        while self._held:
            at = self._held.find(IAC)
            plain = bytes(self._held if at < 0 else self._held[:at])
            self._typed(plain)
            del self._held[: len(plain)]
            length = self._command(bytes(self._held)) if self._held else 0
            if not length:
                break
            del self._held[:length]

    def fill(self) -> None:
        if not self.suspended and not self.out:
            super().fill()
            self.out = self.out.replace(b"\xff", b"\xff\xff")

    def _typed(self, data: bytes) -> None:
        if data and (DO, BINARY) not in self._on:  # RFC 854: a carriage return alone is followed by a NUL
            follows, self._after_return = self._after_return, data.endswith(b"\r")
            data = (data.removeprefix(b"\0") if follows else data).replace(b"\r\0", b"\r")
        self.to_guest += data

    def _command(self, held: bytes) -> int:
        """Carry out the command at the beginning; its length, 0 while it has not come whole."""
        if len(held) < 2:
            return 0
        match held[1]:
            case 255:
                self._typed(b"\xff")
                return 2
            case 251 | 252 | 253 | 254:
                if len(held) < 3:
                    return 0
                self._negotiate(held[1], held[2])
                return 3
            case 250:
                end = _end_of(held)
                if end:
                    self._asked(held[2 : end - 2].replace(b"\xff\xff", b"\xff"))
                elif len(held) > _LONGEST:
                    return len(held)
                return end
            case _:
                return 2

    def _negotiate(self, word: int, option: int) -> None:
        ours, known = (DO, self._manner.theirs) if word in (WILL, WONT) else (WILL, self._manner.ours)
        state, offered = (ours, option), (ours, option) in self._offered
        self._offered.discard(state)
        if word in (WILL, DO) and option in known:
            if state not in self._on and not offered:
                self.out += bytes([IAC, ours, option])
            if state not in self._on and option == COM_PORT:
                self._on.add(state)
                self._notify()
            self._on.add(state)
        elif word in (WILL, DO):
            self.out += bytes([IAC, DONT if ours == DO else WONT, option])
        elif state in self._on:
            self._on.discard(state)
            self.out += bytes([IAC, DONT if ours == DO else WONT, option])

    def _asked(self, said: bytes) -> None:
        """A subnegotiation: RFC 2217, section 3."""
        if len(said) < 2 or said[0] != COM_PORT or COM_PORT not in self._manner.theirs:
            return
        if (DO, COM_PORT) not in self._on:  # pyserial may take our offer for an answer, and then gives none
            self._on.add((DO, COM_PORT))
            self._notify()
        command, value = said[1], said[2:]
        answer = self._line.set(command, value)
        if command == SIGNATURE and not value:
            answer = _SIGNATURE
        elif command in (FLOW_SUSPEND, FLOW_RESUME):
            self.suspended = command == FLOW_SUSPEND
        elif command == PURGE and value in (b"\1", b"\2", b"\3"):
            if value[0] & 1:
                self.from_guest.clear()
            if value[0] & 2:
                self.forget()
            answer = value
        elif command in self._masks and len(value) == 1:
            self._masks[command], answer = value[0], value
        if answer is not None:
            self._tell(command + ANSWER, answer)
        if command == SET_MODEMSTATE_MASK:
            self._notify()

    def _notify(self) -> None:
        if state := LINES_UP & self._masks[SET_MODEMSTATE_MASK]:
            self._tell(NOTIFY_MODEMSTATE + ANSWER, bytes([state]))

    def _tell(self, command: int, value: bytes) -> None:
        said = value.replace(b"\xff", b"\xff\xff")
        self.out += bytes([IAC, SB, COM_PORT, command]) + said + bytes([IAC, SE])


def _end_of(held: bytes) -> int:
    """Where a subnegotiation ends, behind its IAC SE; 0 when it has not come whole."""
    at = 2
    while 0 <= (at := held.find(IAC, at)) < len(held) - 1:
        if held[at + 1] == SE:
            return at + 2
        at += 2
    return 0


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


def serve(guest: socket.socket, peers: Listening | Calling, begin: Callable[[], Raw]) -> None:
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


def _passed_on(guest: socket.socket, session: Raw) -> None:
    waits = session.waiting()
    try:
        del waits[: guest.send(waits[:_PIECE])]
    except BlockingIOError:
        pass
    except ConnectionError:  # it has ended; what it said before is yet to be heard
        session.forget()


def _heard(guest: socket.socket, session: Raw) -> bool:
    """Whether the guest may say more."""
    try:
        said = guest.recv(_PIECE)
    except BlockingIOError:
        return True
    except ConnectionError:
        return False
    session.from_guest += said
    return bool(said)


def _rest(peer: socket.socket, session: Raw) -> None:
    """What the guest said last, as far as its connection takes it."""
    with contextlib.suppress(OSError):
        session.fill()
        while session.out:
            del session.out[: peer.send(session.out)]
            session.fill()
    with contextlib.suppress(OSError):
        while peer.recv(_PIECE):  # a connection that ends with something unread takes back what was sent
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


def _served(peer: socket.socket, session: Raw, can: int) -> bool:
    """Whether the peer is still there. One that has gone is heard to its end, however little the guest reads."""
    try:
        if can & select.POLLOUT:
            del session.out[: peer.send(session.out[:_PIECE])]
        if can & (select.POLLIN | _GONE):
            said = peer.recv(_PIECE)
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


def main(guest_at: str, peers_at: str, speech: str) -> None:
    """`peers_at` is `to=HOST:PORT` for one that is called; `speech` is `raw`, `telnet` or `rfc2217`."""
    waiting, line, calls = _listening(guest_at), Line(), peers_at.startswith("to=")
    if calls:  # before the filter, which lets no thread begin
        peers: Listening | Calling = Calling(peers_at.removeprefix("to="), lambda: confine(*_FOR_CALLS))
    else:
        peers = Listening(_listening(peers_at))
    confine()
    waiting.settimeout(_GUEST_BOUND)
    guest, _ = waiting.accept()
    waiting.close()
    manner = RFC2217 if speech == "rfc2217" else CALLING if calls else TELNET
    serve(guest, peers, Raw if speech == "raw" else lambda: Session(line, manner))


if __name__ == "__main__":
    main(*sys.argv[1:])
