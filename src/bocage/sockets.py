"""Ends what the kernel would still send for processes that are gone: a socket outlives them while it has unsent data.

By the kernel's sock_diag(7): a dump of TCP's sockets to one port, and the destruction of those that nobody owns.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import pathlib
import socket
import struct
from collections.abc import Iterator

_SOCK_DIAG = 4  # netlink family; the other numbers are linux/sock_diag.h's, linux/inet_diag.h's and linux/netlink.h's
_BY_FAMILY, _DESTROY = 20, 21
_ERROR, _DONE = 2, 3
_REQUEST, _ACKNOWLEDGE, _DUMP = 0x1, 0x4, 0x300
_HEADER = struct.Struct("=IHHII")
_ASKED = struct.Struct("=BBBxI48s")
_FOUND = struct.Struct("=BBBB48sIIIII")
_ID = struct.Struct("!HH16s16s")
_LISTENING, _WAITING = 10, 6  # TCP states: such a socket sends nothing of its own any more
_ALL = 0xFFF
_ROOM = 1 << 16
# libiscsi replays on a new connection what the old one had not got rid of, and the kernel goes on sending for the old
# one: it is to give up before the new one is there, or an older write lands behind a newer one. Milliseconds.
INITIATOR = {"LIBISCSI_TCP_USER_TIMEOUT": "5000"}
PORTAL = "bocage.portal"  # a file: address and port


def portal(root: str) -> tuple[str, int] | None:
    """The address of the LUN behind a storage's directory, where there is one. Raises OSError."""
    try:
        host, port = pathlib.Path(root, PORTAL).read_text().split()
        return str(ipaddress.ip_address(host)), int(port)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise OSError(errno.EINVAL, "not an address and a port", f"{root}/{PORTAL}") from error


def end_orphans(address: tuple[str, int]) -> int:
    """Destroy the sockets to a port that belong to no process any more; how many there were.

    The port alone counts: an array may have sent who came to its portal on to another of its addresses.
    Raises OSError, which also says that this may not be done here (EPERM).
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _SOCK_DIAG) as kernel:
        kernel.settimeout(5.0)
        doomed = [one for family in (socket.AF_INET, socket.AF_INET6) for one in _orphans(kernel, family, address[1])]
        for family, which in doomed:
            _destroy(kernel, family, which)
    return len(doomed)


def _orphans(kernel: socket.socket, family: int, port: int) -> Iterator[tuple[int, bytes]]:
    _ask(kernel, _BY_FAMILY, _REQUEST | _DUMP, family, bytes(48))
    for kind, body in _answers(kernel):
        if kind == _ERROR:
            _raise(body)
            raise OSError(errno.ENOENT, "the kernel tells nothing of TCP's sockets (tcp_diag)")
        found, state, _, _, which, _, _, _, _, inode = _FOUND.unpack_from(body)
        _, to, _, _ = _ID.unpack_from(which)
        if to != port or inode or state in (_LISTENING, _WAITING):
            continue
        yield found, which


def _destroy(kernel: socket.socket, family: int, which: bytes) -> None:
    _ask(kernel, _DESTROY, _REQUEST | _ACKNOWLEDGE, family, which)
    for _, body in _answers(kernel):
        _raise(body)
        return


def _ask(kernel: socket.socket, kind: int, flags: int, family: int, which: bytes) -> None:
    body = _ASKED.pack(family, socket.IPPROTO_TCP, 0, _ALL, which)
    kernel.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, 0, 0) + body)


def _answers(kernel: socket.socket) -> Iterator[tuple[int, bytes]]:
    while True:
        told = kernel.recv(_ROOM)
        while told:
            length, kind, *_ = _HEADER.unpack_from(told)
            if kind == _DONE:
                return
            yield kind, told[_HEADER.size : length]
            told = told[(length + 3) & ~3 :]


def _raise(body: bytes) -> None:
    (code,) = struct.unpack_from("=i", body)
    if code and -code != errno.ENOENT:  # it has ended by itself
        raise OSError(-code, os.strerror(-code))
