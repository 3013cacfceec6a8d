"""RFC 2217 on a VM's serial port: what is said to a client, and a real guest's port through pyserial."""

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
from hypothesis import given
from hypothesis import strategies as st

from bocage.engine import base
from bocage.engine.qemu import carriers, comport, comports, paths, processes, record
from bocage.model import board as boards
from bocage.model.units import Size
from tests.engine.qemu import bootsector
from tests.engine.qemu.test_old_hardware import BOUND, booting, says
from tests.engine.qemu.vms import Vms, until

IAC, SB, SE = bytes([comport.IAC]), bytes([comport.SB]), bytes([comport.SE])
BINARY = IAC + bytes([comport.WILL, comport.BINARY]) + IAC + bytes([comport.DO, comport.BINARY])
COM_PORT = IAC + bytes([comport.WILL, comport.COM_PORT])


def asks(command: int, value: bytes) -> bytes:
    said = value.replace(b"\xff", b"\xff\xff")
    return IAC + SB + bytes([comport.COM_PORT, command]) + said + IAC + SE


def answers(command: int, value: bytes) -> bytes:
    return asks(command + comport.ANSWER, value)


def session(line: comport.Line | None = None) -> comport.Session:
    made = comport.Session(line or comport.Line())
    made.received(BINARY + COM_PORT)
    made.out.clear()
    return made


@pytest.mark.parametrize(
    ("command", "value", "answer"),
    [
        (comport.SET_BAUDRATE, (115200).to_bytes(4, "big"), (115200).to_bytes(4, "big")),
        (comport.SET_BAUDRATE, (0xFFFF).to_bytes(4, "big"), (0xFFFF).to_bytes(4, "big")),
        (comport.SET_BAUDRATE, bytes(4), (9600).to_bytes(4, "big")),  # asks what it is
        (comport.SET_DATASIZE, b"\7", b"\7"),
        (comport.SET_DATASIZE, b"\11", b"\10"),  # there is no such size: what it stays at
        (comport.SET_PARITY, b"\3", b"\3"),
        (comport.SET_STOPSIZE, b"\2", b"\2"),
        (comport.SET_CONTROL, b"\3", b"\3"),
        (comport.SET_CONTROL, b"\7", b"\10"),  # asks for DTR, which is up
        (comport.SET_CONTROL, b"\14", b"\14"),
        (comport.SET_LINESTATE_MASK, b"\0", b"\0"),
        (comport.PURGE, b"\3", b"\3"),
        (comport.SIGNATURE, b"", b"Bocage"),
    ],
)
def test_each_request_is_answered_with_what_holds(command: int, value: bytes, answer: bytes):
    made = session()
    made.received(asks(command, value))
    assert bytes(made.out) == answers(command, answer)
    assert not made.to_guest


def test_what_was_set_is_kept_for_the_next_client():
    line = comport.Line()
    session(line).received(asks(comport.SET_BAUDRATE, (300).to_bytes(4, "big")) + asks(comport.SET_CONTROL, b"\11"))
    later = session(line)
    later.received(asks(comport.SET_BAUDRATE, bytes(4)) + asks(comport.SET_CONTROL, b"\7"))
    expected = answers(comport.SET_BAUDRATE, (300).to_bytes(4, "big")) + answers(comport.SET_CONTROL, b"\11")
    assert bytes(later.out) == expected


def test_the_state_of_the_lines_is_told_at_once_and_where_the_mask_lets_it():
    made = comport.Session(comport.Line())
    made.out.clear()
    made.received(COM_PORT)
    told = answers(comport.NOTIFY_MODEMSTATE, bytes([comport.LINES_UP]))
    assert bytes(made.out) == told  # no second DO: it was offered, and this is the answer
    made.out.clear()
    made.received(asks(comport.SET_MODEMSTATE_MASK, b"\x80"))
    told = answers(comport.NOTIFY_MODEMSTATE, b"\x80")
    assert bytes(made.out) == answers(comport.SET_MODEMSTATE_MASK, b"\x80") + told
    made.out.clear()
    made.received(asks(comport.SET_MODEMSTATE_MASK, b"\0"))
    assert bytes(made.out) == answers(comport.SET_MODEMSTATE_MASK, b"\0")


def test_who_asks_for_something_without_a_word_on_the_option_is_told_the_state_of_the_lines_too():
    made = comport.Session(comport.Line())
    made.received(BINARY)
    made.out.clear()
    made.received(asks(comport.SET_DATASIZE, b"\7"))
    told = answers(comport.NOTIFY_MODEMSTATE, bytes([comport.LINES_UP]))
    assert bytes(made.out) == told + answers(comport.SET_DATASIZE, b"\7")


def test_an_option_that_nobody_knows_is_refused_and_an_answer_is_not_answered():
    made = session()
    made.received(IAC + bytes([comport.DO, 31]) + IAC + bytes([comport.WILL, 24]))
    assert bytes(made.out) == IAC + bytes([comport.WONT, 31]) + IAC + bytes([comport.DONT, 24])
    made.out.clear()
    made.received(BINARY + COM_PORT + IAC + bytes([comport.WONT, 24]))
    assert not made.out


def test_a_client_that_holds_back_gets_nothing_until_it_goes_on_and_what_it_throws_away_never():
    made = session()
    made.received(asks(comport.FLOW_SUSPEND, b""))
    made.from_guest += b"a\xffb"
    made.fill()
    assert not made.out
    made.received(asks(comport.FLOW_RESUME, b""))
    made.fill()
    assert bytes(made.out) == b"a\xff\xffb"
    made.from_guest += b"lost"
    made.received(asks(comport.PURGE, b"\1"))
    assert not made.from_guest


def test_a_plain_telnet_sends_a_nul_behind_a_return_that_is_not_the_guests():
    made = comport.Session(comport.Line())
    for piece in (b"ls\r", b"\0pwd\r\0", b"\r\n"):
        made.received(piece)
    assert bytes(made.to_guest) == b"ls\rpwd\r\r\n"


PIECES = st.one_of(
    st.binary(max_size=20).map(lambda data: data.replace(b"\xff", b"\xff\xff")),
    st.builds(asks, st.integers(0, 20), st.binary(max_size=6)),
    st.tuples(st.sampled_from([251, 252, 253, 254]), st.integers(0, 254)).map(lambda pair: IAC + bytes(pair)),
)


@given(st.lists(PIECES, max_size=8).map(b"".join), st.lists(st.integers(0, 200), max_size=8))
def test_it_makes_no_difference_where_the_network_cuts(stream: bytes, cuts: list[int]):
    whole, cut = session(), session()
    whole.received(stream)
    at = 0
    for end in [*sorted(min(one, len(stream)) for one in cuts), len(stream)]:
        cut.received(stream[at:end])
        at = end
    assert (cut.to_guest, cut.out) == (whole.to_guest, whole.out)


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_every_byte_passes_in_both_directions(typed: bytes, said: bytes):
    made = session()
    made.received(typed.replace(b"\xff", b"\xff\xff"))
    assert bytes(made.to_guest) == typed
    made.from_guest += said
    made.fill()
    assert bytes(made.out).replace(b"\xff\xff", b"\xff") == said


@given(st.binary(max_size=2000))
def test_nothing_that_a_client_sends_breaks_it_or_is_kept_without_a_bound(noise: bytes):
    made = session()
    made.received(noise)
    endless = IAC + SB + b"x" * 10_000
    for _ in range(3):
        made.received(endless)
    assert len(made.to_guest) + len(made._held) <= len(noise) + 3 * len(endless)
    made.received(b"y" * 300)
    assert len(made._held) <= 300


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@contextlib.contextmanager
def served(peers: comport.Listening | comport.Calling, begin: Callable[[], comport.Raw]) -> Iterator[socket.socket]:
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
    with listening, served(comport.Listening(listening), lambda: comport.Session(comport.Line())) as qemu:
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
    with listening, served(comport.Listening(listening), comport.Raw) as qemu:
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
    signature = asks(comport.SIGNATURE, b""), answers(comport.SIGNATURE, b"Bocage")
    with listening, served(comport.Listening(listening), lambda: comport.Session(comport.Line())) as qemu:
        sent = b"x" * (comport._MOST + 40_000)
        with socket.create_connection(listening.getsockname(), timeout=BOUND) as first:
            first.sendall(sent)
        with socket.create_connection(listening.getsockname(), timeout=BOUND) as second:
            second.sendall(b"more" + signature[0])
            reaches(second, signature[1])
            second.sendall(asks(comport.PURGE, b"\2") + b"now")
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
        comport.serve(ours, comport.Listening(listening), comport.Raw)  # which finds all that in place
        assert reaches(client, b"bye").startswith(b"yyy")
        assert client.recv(1) == b""


def test_a_peer_is_called_again_a_pause_after_it_hung_up_however_long_it_was_there(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(comport, "_CALL_AGAIN", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as printer:
        printer.settimeout(BOUND)
        with served(comport.Calling(f"127.0.0.1:{printer.getsockname()[1]}"), comport.Raw):
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
        with served(comport.Calling(f"a..b:{printer.getsockname()[1]}"), comport.Raw):
            printer.accept()[0].close()
            monkeypatch.undo()


def test_a_peer_is_called_again_when_it_hangs_up_and_hears_what_the_guest_said_last():
    with socket.create_server(("127.0.0.1", 0)) as printer:
        printer.settimeout(BOUND)
        with served(comport.Calling(f"127.0.0.1:{printer.getsockname()[1]}"), comport.Raw) as qemu:
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


@pytest.mark.parametrize("manner", [comport.TELNET, comport.CALLING])
def test_telnet_escapes_and_knows_nothing_of_rfc_2217(manner: comport.Manner):
    made = comport.Session(comport.Line(), manner)
    assert COM_PORT[:2] + bytes([comport.COM_PORT]) not in bytes(made.out)
    made.received(BINARY)
    made.out.clear()
    made.received(COM_PORT + asks(comport.SET_DATASIZE, b"\7") + b"a" + IAC + IAC)
    assert bytes(made.out) == IAC + bytes([comport.DONT, comport.COM_PORT])
    assert bytes(made.to_guest) == b"a\xff"
    made.out.clear()
    made.from_guest += b"b\xff"
    made.fill()
    assert bytes(made.out) == b"b\xff\xff"


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
