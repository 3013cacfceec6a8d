"""A VM's port on the network: who is served when, and a real guest's port through pyserial."""

import asyncio
import contextlib
import dataclasses
import os
import pathlib
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import serial

from bocage.engine import base
from bocage.engine.qemu import carriers, comport, comports, paths, processes, record, speech
from bocage.model import board as boards
from bocage.model.units import Size
from tests.engine.qemu import bootsector
from tests.engine.qemu.test_old_hardware import BOUND, booting, says
from tests.engine.qemu.test_speech import answers, asks
from tests.engine.qemu.vms import Vms, until


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@contextlib.contextmanager
def served(peers: comport.Listening | comport.Calling, begin: Callable[[], speech.Raw]) -> Iterator[socket.socket]:
    """QEMU's end of a port; it is closed at the end, which ends what serves it."""
    qemu, ours = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    serving = threading.Thread(target=comport.serve, args=(ours, peers, begin))
    serving.start()
    with ours, qemu:
        qemu.settimeout(BOUND)
        yield qemu
        qemu.shutdown(socket.SHUT_RDWR)
        serving.join(BOUND)
    assert not serving.is_alive()


def test_a_second_client_waits_for_its_turn_and_the_end_of_qemu_is_the_end():
    listening = socket.create_server(("127.0.0.1", 0))
    with listening, served(comport.Listening(listening), lambda: speech.Session(speech.Line())) as qemu:
        first = socket.create_connection(listening.getsockname(), timeout=BOUND)
        assert first.recv(3)
        with socket.create_connection(listening.getsockname(), timeout=BOUND) as second:
            second.sendall(b"later")
            first.sendall(b"first")
            assert qemu.recv(64) == b"first"
            first.close()
            assert qemu.recv(64) == b"later"


def test_who_left_a_guest_that_reads_nothing_gives_way_and_what_they_sent_is_there_when_it_reads():
    listening = socket.create_server(("127.0.0.1", 0))
    with listening, served(comport.Listening(listening), speech.Raw) as qemu:
        sent, got = os.urandom(comport._MOST + 40_000), b""  # more than is taken in, and no more than the kernel holds
        with socket.create_connection(listening.getsockname(), timeout=BOUND) as first:
            first.sendall(sent)
        with socket.create_connection(listening.getsockname(), timeout=BOUND) as second:
            second.settimeout(0.2)
            due, heard = time.monotonic() + BOUND, b""
            while not heard:  # what was said before it came is lost
                assert time.monotonic() < due, "nobody else is heard"
                qemu.sendall(b"!")
                with contextlib.suppress(TimeoutError):
                    heard = second.recv(64)
            second.sendall(b"and after it")
            while len(got) < len(sent) + len(b"and after it"):
                got += qemu.recv(65536)
        assert got == sent + b"and after it"


def reaches(client: socket.socket, ending: bytes) -> bytes:
    heard = b""
    while not heard.endswith(ending):
        piece = client.recv(65536)
        assert piece, f"ended behind {heard[-64:]!r}"
        heard += piece
    return heard


def test_who_left_a_guest_that_reads_nothing_does_not_keep_the_next_from_being_heard_or_from_throwing_it_away():
    listening = socket.create_server(("127.0.0.1", 0))
    signature = asks(speech.SIGNATURE, b""), answers(speech.SIGNATURE, b"Bocage")
    with listening, served(comport.Listening(listening), lambda: speech.Session(speech.Line())) as qemu:
        sent = b"x" * (comport._MOST + 40_000)
        with socket.create_connection(listening.getsockname(), timeout=BOUND) as first:
            first.sendall(sent)
        with socket.create_connection(listening.getsockname(), timeout=BOUND) as second:
            second.sendall(b"more" + signature[0])
            reaches(second, signature[1])
            second.sendall(asks(speech.PURGE, b"\2") + b"now")
            got = reaches(qemu, b"now")
    assert got.strip(b"x") == b"now"
    assert len(got) < comport._MOST


def test_what_the_guest_said_last_is_heard_by_who_sent_more_than_it_took():
    qemu, ours = socket.socketpair()
    with qemu:
        qemu.sendall(b"y" * 20_000 + b"bye")
    listening = socket.create_server(("127.0.0.1", 0))
    with listening, ours, socket.create_connection(listening.getsockname(), timeout=BOUND) as client:
        client.sendall(b"x" * 30_000)
        comport.serve(ours, comport.Listening(listening), speech.Raw)  # which finds all that in place
        assert reaches(client, b"bye").startswith(b"yyy")
        assert client.recv(1) == b""


def test_a_peer_is_called_again_a_pause_after_it_hung_up_however_long_it_was_there(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(comport, "_CALL_AGAIN", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as printer:
        printer.settimeout(BOUND)
        with served(comport.Calling(f"127.0.0.1:{printer.getsockname()[1]}"), speech.Raw):
            first, _ = printer.accept()
            time.sleep(0.5)
            hung_up = time.monotonic()
            first.close()
            printer.accept()[0].close()
            assert time.monotonic() - hung_up >= 1.0


def test_what_can_be_no_hosts_name_is_as_one_that_is_not_reached(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(comport, "_CALL_AGAIN", 0.1)
    port = boards.GuestPort.model_construct(name="com2", number=2, to="listen", address="a..b:1")
    with pytest.raises(comports.NotThere, match="label"):
        comports._listening(port)
    with socket.create_server(("127.0.0.1", 0)) as printer:
        printer.settimeout(BOUND)
        names = iter(["a..b", "127.0.0.1"])
        connect = socket.create_connection

        def connected(address: tuple[str, int], timeout: float) -> socket.socket:
            return connect((next(names), address[1]), timeout=timeout)

        monkeypatch.setattr(socket, "create_connection", connected)
        with served(comport.Calling(f"a..b:{printer.getsockname()[1]}"), speech.Raw):
            printer.accept()[0].close()
            monkeypatch.undo()


def test_a_peer_is_called_again_when_it_hangs_up_and_hears_what_the_guest_said_last():
    with socket.create_server(("127.0.0.1", 0)) as printer:
        printer.settimeout(BOUND)
        with served(comport.Calling(f"127.0.0.1:{printer.getsockname()[1]}"), speech.Raw) as qemu:
            printer.accept()[0].close()
            paper, _ = printer.accept()
            paper.settimeout(BOUND)
            paper.sendall(b"ready")
            assert qemu.recv(64) == b"ready"
            qemu.sendall(b"x" * 100_000)
        with paper:
            printed = 0
            while piece := paper.recv(65536):
                printed += len(piece)
        assert printed == 100_000


async def mended(vms: Vms, port: str) -> None:
    """What served a port was killed, and is there again."""
    told = {"port": port, "reason": "comport was killed by signal SIGKILL"}
    await until(lambda: base.Happened("port-mended", told) in vms.happened, within=BOUND)
    vms.happened.clear()


async def called_again(vms: Vms, plan: base.Plan, printer: socket.socket) -> None:
    """A peer is called by what serves the port, and by what serves it then when that was killed."""
    paper, _ = await asyncio.to_thread(printer.accept)
    kept = record.read(plan.runtime / "process.json")
    assert kept
    os.kill(kept.ports["lpt1"].process.pid, signal.SIGKILL)
    with paper:
        assert await asyncio.to_thread(paper.recv, 64) == b""
    await mended(vms, "lpt1")
    again, _ = await asyncio.to_thread(printer.accept)
    again.close()


@pytest.mark.guest
async def test_a_guests_port_is_reached_by_pyserial_through_restarts_of_all_but_its_qemu(vms: Vms) -> None:
    number = free_port()
    lead = {"name": "com2", "number": 2, "to": "listen", "address": f"127.0.0.1:{number}", "rfc2217": True}
    sector = bootsector.Sector().until(0x2FD, 0x61).out(bootsector.COM2, *b"\xff weighs 4711").say("heard").finish()
    with socket.create_server(("127.0.0.1", 0)) as printer:
        printer.settimeout(BOUND)
        called = {"name": "lpt1", "kind": "parallel", "number": 1, "to": "connect"}
        called["address"] = f"localhost:{printer.getsockname()[1]}"
        ports = tuple(map(boards.GuestPort.model_validate, (lead, called)))
        plan = booting(vms, "ide", sector, ports=ports, memory=Size.parse("64M"))
        vm = await vms.start(plan)
        await called_again(vms, plan, printer)
    kept = record.read(plan.runtime / "process.json")
    assert kept is not None
    assert "network-namespace" in vm.isolation.parts or "mount-namespace" not in vm.isolation.parts
    first = kept.ports["com2"].process
    shows = pathlib.Path(f"/proc/{first.pid}/status")
    await until(lambda: not shows.exists() or "Seccomp:\t2" in shows.read_text(), within=BOUND)
    if not shows.exists():  # what it ended by is told
        await until(lambda: any(one.what.startswith("port-") for one in vms.happened), within=BOUND)
    assert [one for one in vms.happened if one.what.startswith("port-")] == []
    status = shows.read_text()
    assert "NoNewPrivs:\t1" in status
    if plan.process_uid:
        assert f"Uid:\t{plan.process_uid}\t" in status

    os.kill(first.pid, signal.SIGKILL)
    await mended(vms, "com2")
    await vm.detach()
    again = await vms.find(plan)
    assert again is not None
    second = record.read(plan.runtime / "process.json").ports["com2"].process  # type: ignore[union-attr]
    assert processes.alive(second)

    def talk() -> bytes:
        with serial.serial_for_url(
            f"rfc2217://127.0.0.1:{number}?timeout={BOUND}", baudrate=1200, parity="E", timeout=BOUND
        ) as port:
            port.baudrate = 19200
            assert (port.cts, port.dsr, port.cd, port.ri) == (True, True, True, False)
            port.rts = False
            heard = b""
            while not heard:
                port.write(b"\xff\rq")
                heard = port.read(1)
            return bytes(heard + port.read(12))

    assert await asyncio.to_thread(talk) == b"\xff weighs 4711"
    await says(plan, "heard")
    await again.kill()
    assert not processes.alive(second)


@pytest.mark.parametrize("broken", ["refused", "cancelled"])
async def test_a_start_that_is_broken_off_leaves_no_socket(
    broken: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    ends, made = os.pipe()
    asked, goes_on = threading.Event(), threading.Event()

    def listening(_: boards.GuestPort) -> int:
        asked.set()
        assert goes_on.wait(BOUND)
        return made

    def refused(*_: object) -> int:
        raise OSError("no")

    monkeypatch.setattr(comports, "_listening", listening)
    monkeypatch.setattr(carriers, "listening", refused)
    port = boards.GuestPort(name="com2", number=2, to="listen", address="127.0.0.1:1")
    at = paths.Paths(tmp_path, tmp_path)
    at.io.mkdir()
    with open(ends, "rb") as end:  # which ends with the other
        starting = asyncio.create_task(comports.start(port, at, mounts=False, group=None))
        await asyncio.to_thread(asked.wait, BOUND)
        if broken == "cancelled":
            starting.cancel()
            await asyncio.wait([starting])
        goes_on.set()
        with pytest.raises(asyncio.CancelledError if broken == "cancelled" else OSError):
            await starting
        assert await asyncio.to_thread(select.select, [end], [], [], BOUND) == ([end], [], [])


@pytest.mark.guest
async def test_an_address_that_is_taken_is_named_and_nothing_is_left(vms: Vms) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        lead: dict[str, Any] = {"name": "com2", "number": 2, "to": "listen", "rfc2217": True}
        lead["address"] = f"127.0.0.1:{other.getsockname()[1]}"
        plan = vms.plan("ide")
        spec = plan.spec.model_copy(update={"ports": (boards.GuestPort.model_validate(lead),)})
        with pytest.raises(Exception, match="com2 cannot listen on"):
            await vms.start(dataclasses.replace(plan, spec=spec))
