"""A guest's network card in the hands of a test: frames as QEMU sends them over a stream (length first)."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct

MAC = bytes.fromhex("525400aa0001")
_BROADCAST = b"\xff" * 6
_TRANSACTION = b"boca"


class Card:
    """The guest's end of the connection to passt. Blocking, each wait bounded to 5 s."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(5)
        self._connection = connection

    def send(self, frame: bytes) -> None:
        self._connection.sendall(struct.pack("!I", len(frame)) + frame)

    def receive(self) -> bytes:
        """The next frame."""
        (length,) = struct.unpack("!I", self._exactly(4))
        return self._exactly(length)

    def lease(self) -> dict[str, str]:
        """What a DHCP request is answered: address, router, dns."""
        self.send(_dhcp(1))
        return _offered(self._dhcp_answer())

    def _dhcp_answer(self) -> bytes:
        while True:
            frame = self.receive()
            if frame[12:14] == b"\x08\x00" and frame[23] == 17 and frame[36:38] == struct.pack("!H", 68):
                return frame[42:]

    def knocked(self) -> tuple[str, int]:
        """Address and port of the guest to which a TCP connection comes next."""
        while True:
            frame = self.receive()
            if frame[12:14] == b"\x08\x06" and frame[20:22] == b"\x00\x01":
                self.send(frame[6:12] + MAC + frame[12:20] + b"\x00\x02" + MAC + frame[38:42] + frame[22:32])
            if frame[12:14] == b"\x08\x00" and frame[23] == 6 and frame[47] & 0x02:
                return str(ipaddress.IPv4Address(frame[30:34])), struct.unpack("!H", frame[36:38])[0]

    def _exactly(self, count: int) -> bytes:
        got = b""
        while len(got) < count:
            piece = self._connection.recv(count - len(got))
            if not piece:
                raise ConnectionResetError
            got += piece
        return got

    def ended(self) -> bool:
        """Whether the other end goes away within the bound."""
        with contextlib.suppress(ConnectionResetError):
            while True:
                self.receive()
        return True


def _dhcp(kind: int) -> bytes:
    options = b"\x63\x82\x53\x63" + bytes((53, 1, kind, 55, 3, 1, 3, 6, 255))
    bootp = struct.pack("!BBBB4sHH16x16s192x", 1, 1, 6, 0, _TRANSACTION, 0, 0x8000, MAC) + options
    udp = struct.pack("!HHHH", 68, 67, 8 + len(bootp), 0) + bootp
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, bytes(4), b"\xff" * 4)
    total = sum(struct.unpack("!10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    header = header[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + header[12:]
    return _BROADCAST + MAC + b"\x08\x00" + header + udp


def _offered(bootp: bytes) -> dict[str, str]:
    found = {"address": str(ipaddress.IPv4Address(bootp[16:20]))}
    rest = bootp[240:]
    while rest and rest[0] != 255:
        code, length = rest[0], rest[1]
        value = rest[2 : 2 + length]
        if code == 3:
            found["router"] = str(ipaddress.IPv4Address(value[:4]))
        if code == 6:
            found["dns"] = ", ".join(str(ipaddress.IPv4Address(value[at : at + 4])) for at in range(0, length, 4))
        rest = rest[2 + length :]
    return found
