"""A serial port of a VM on the network, as RFC 2217 has it: a program between QEMU and one client at a time.

It is run as a file, with Python's own modules alone, by `comports`; it ends with its QEMU.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import socket
import struct
import sys

IAC, DONT, DO, WONT, WILL, SB, SE = 255, 254, 253, 252, 251, 250, 240  # RFC 854
BINARY, ECHO, SUPPRESS_GO_AHEAD, COM_PORT = 0, 1, 3, 44
SIGNATURE, SET_BAUDRATE, SET_DATASIZE, SET_PARITY, SET_STOPSIZE, SET_CONTROL = range(6)  # RFC 2217, section 2
FLOW_SUSPEND, FLOW_RESUME, SET_LINESTATE_MASK, SET_MODEMSTATE_MASK, PURGE = range(8, 13)
NOTIFY_MODEMSTATE = 7
ANSWER = 100  # an answer's code is its request's and this
LINES_UP = 0xB0  # carrier detect, data set ready, clear to send: the guest is there
_OURS = frozenset({BINARY, ECHO, SUPPRESS_GO_AHEAD})
_THEIRS = frozenset({BINARY, SUPPRESS_GO_AHEAD, COM_PORT})
_SIGNATURE = b"Bocage"
_CONTROLS = {0: (1, 2, 3, 17, 19), 4: (5, 6), 7: (8, 9), 10: (11, 12), 13: (14, 15, 16, 18)}
"""The values of SET-CONTROL that set something, by the one that asks for it."""
_CHOICES = {SET_DATASIZE: range(5, 9), SET_PARITY: range(1, 6), SET_STOPSIZE: range(1, 4)}
_MOST = 65_536  # bytes that wait in one direction
_PIECE = 4096
_LONGEST = 256  # bytes of one subnegotiation; more is not listened to
_GUEST_BOUND = 60.0  # seconds until QEMU connects: a start that was broken off leaves nothing for longer


Sockets = list[socket.socket]


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


class Session:
    """One client's connection: telnet's options, and what waits in both directions. It does no I/O itself."""

    def __init__(self, line: Line) -> None:
        self.to_guest = bytearray()
        self.from_guest = bytearray()  # as the guest sent it
        self.out = bytearray()  # as the client gets it
        self.suspended = False
        self._line = line
        self._masks = {SET_LINESTATE_MASK: 0, SET_MODEMSTATE_MASK: 255}
        self._on: set[tuple[int, int]] = set()  # WILL or DO of ours, and the option
        self._offered: set[tuple[int, int]] = set()
        self._held = bytearray()  # the beginning of a command that has not come whole
        self._after_return = False
        for word, option in ((WILL, BINARY), (DO, BINARY), (WILL, SUPPRESS_GO_AHEAD), (DO, COM_PORT)):
            self._offered.add((word, option))
            self.out += bytes([IAC, word, option])

    def received(self, data: bytes) -> None:
        """Take in what the client sent, cut anywhere."""
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
        """Have some of what the guest sent be on its way to the client, when nothing else is and it may."""
        if self.from_guest and not self.out and not self.suspended:
            self.out += self.from_guest[:_PIECE].replace(b"\xff", b"\xff\xff")
            del self.from_guest[:_PIECE]

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
        ours, known = (DO, _THEIRS) if word in (WILL, WONT) else (WILL, _OURS)
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
        if len(said) < 2 or said[0] != COM_PORT:
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
                self.to_guest.clear()
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


def serve(guest: socket.socket, listening: socket.socket) -> None:
    """Until the guest's side ends. A client waits until the one before it has gone; what nobody hears is lost."""
    line = Line()
    session, client = Session(line), None
    for one in (guest, listening):
        one.setblocking(False)
    while True:
        if client:
            session.fill()
        else:
            session.from_guest.clear()
        reads = [guest] if len(session.from_guest) < _MOST else []
        if client is None:
            reads.append(listening)
        elif max(len(session.to_guest), len(session.out)) < _MOST:
            reads.append(client)
        writes = [guest] if session.to_guest else []
        if client and session.out:
            writes.append(client)
        readable, writable, _ = select.select(reads, writes, [])
        with contextlib.suppress(BlockingIOError):
            if guest in writable:
                del session.to_guest[: guest.send(session.to_guest[:_PIECE])]
            if guest in readable:
                said = guest.recv(_PIECE)
                if not said:
                    return
                session.from_guest += said
        if client and not _served(client, session, readable, writable):
            client.close()
            client = None
            rest, session = session.to_guest, Session(line)
            session.to_guest += rest
        elif client is None and listening in readable:
            client = _accepted(listening)


def _accepted(listening: socket.socket) -> socket.socket | None:
    try:
        connection, _ = listening.accept()
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # one that was cut off keeps nobody out
        for option, value in ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3)):
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError:
        return None
    return connection


def _served(client: socket.socket, session: Session, readable: Sockets, writable: Sockets) -> bool:
    """Whether the client is still there."""
    try:
        if client in writable:
            del session.out[: client.send(session.out[:_PIECE])]
        if client in readable:
            said = client.recv(_PIECE)
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


def confine() -> None:
    """From here on all calls but those that it needs fail: seccomp(2), on x86-64."""
    if os.uname().machine != "x86_64":
        return
    load, equal, answer = 0x20, 0x15, 0x06  # BPF: load a word, jump if equal, return
    checks = [(equal, len(_ALLOWED) - number, 0, call) for number, call in enumerate(_ALLOWED)]
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
    host, _, port = where.rpartition(":")
    family = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0][0]
    return socket.create_server((host.strip("[]"), int(port)), family=family)


def main(guest_at: str, clients_at: str) -> None:
    waiting, listening = _listening(guest_at), _listening(clients_at)
    confine()
    waiting.settimeout(_GUEST_BOUND)
    guest, _ = waiting.accept()
    waiting.close()
    with contextlib.suppress(ConnectionError):
        serve(guest, listening)


if __name__ == "__main__":
    main(*sys.argv[1:])
