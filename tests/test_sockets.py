"""What a process that is gone has sent and the kernel still holds."""

from __future__ import annotations

import os
import socket

import pytest

from bocage import sockets


@pytest.mark.skipif(os.geteuid() != 0, reason="only root ends sockets")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_what_a_dead_process_has_not_got_rid_of_never_arrives(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listening:
        listening.bind((host, 0))
        listening.listen()
        address = listening.getsockname()[:2]
        with socket.create_connection(address) as stays, socket.socket(family) as sender:
            there, _ = listening.accept()
            sender.connect(address)
            received, _ = listening.accept()
            sender.setblocking(False)
            sent = 0
            try:
                while True:
                    sent += sender.send(bytes(65536))
            except BlockingIOError:
                pass
            sender.close()  # as the kernel does it for a process that was killed
            assert sockets.end_orphans((host, address[1] + 1)) == 0
            assert sockets.end_orphans(address) == 1
            assert sockets.end_orphans(address) == 0
            assert drained(received) < sent
            stays.sendall(b"still here")  # that of a process that lives
            assert there.recv(64) == b"still here"
            there.close()
            received.close()


def drained(connection: socket.socket) -> int:
    """The bytes that come until it ends."""
    total = 0
    connection.settimeout(120)
    try:
        while piece := connection.recv(1 << 20):
            total += len(piece)
    except ConnectionResetError:
        pass
    return total
