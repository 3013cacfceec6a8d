"""What is spoken on a VM's port on the network: raw bytes, telnet, RFC 2217. It does no I/O itself.

It is part of the program that `comport` is, with Python's own modules alone.
"""

from __future__ import annotations

PIECE = 4096  # bytes that are passed on at a time
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
_LONGEST = 256  # bytes of one subnegotiation; more is not listened to


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
    """One peer's connection: what waits in both directions."""

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
            self.out += self.from_guest[:PIECE]
            del self.from_guest[:PIECE]


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
