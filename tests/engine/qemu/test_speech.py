"""What is said to a peer on a VM's port."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bocage.engine.qemu import speech

IAC, SB, SE = bytes([speech.IAC]), bytes([speech.SB]), bytes([speech.SE])
BINARY = IAC + bytes([speech.WILL, speech.BINARY]) + IAC + bytes([speech.DO, speech.BINARY])
COM_PORT = IAC + bytes([speech.WILL, speech.COM_PORT])


def asks(command: int, value: bytes) -> bytes:
    said = value.replace(b"\xff", b"\xff\xff")
    return IAC + SB + bytes([speech.COM_PORT, command]) + said + IAC + SE


def answers(command: int, value: bytes) -> bytes:
    return asks(command + speech.ANSWER, value)


def session(line: speech.Line | None = None) -> speech.Session:
    made = speech.Session(line or speech.Line())
    made.received(BINARY + COM_PORT)
    made.out.clear()
    return made


@pytest.mark.parametrize(
    ("command", "value", "answer"),
    [
        (speech.SET_BAUDRATE, (115200).to_bytes(4, "big"), (115200).to_bytes(4, "big")),
        (speech.SET_BAUDRATE, (0xFFFF).to_bytes(4, "big"), (0xFFFF).to_bytes(4, "big")),
        (speech.SET_BAUDRATE, bytes(4), (9600).to_bytes(4, "big")),  # asks what it is
        (speech.SET_DATASIZE, b"\7", b"\7"),
        (speech.SET_DATASIZE, b"\11", b"\10"),  # there is no such size: what it stays at
        (speech.SET_PARITY, b"\3", b"\3"),
        (speech.SET_STOPSIZE, b"\2", b"\2"),
        (speech.SET_CONTROL, b"\3", b"\3"),
        (speech.SET_CONTROL, b"\7", b"\10"),  # asks for DTR, which is up
        (speech.SET_CONTROL, b"\14", b"\14"),
        (speech.SET_LINESTATE_MASK, b"\0", b"\0"),
        (speech.PURGE, b"\3", b"\3"),
        (speech.SIGNATURE, b"", b"Bocage"),
    ],
)
def test_each_request_is_answered_with_what_holds(command: int, value: bytes, answer: bytes):
    made = session()
    made.received(asks(command, value))
    assert bytes(made.out) == answers(command, answer)
    assert not made.to_guest


def test_what_was_set_is_kept_for_the_next_client():
    line = speech.Line()
    session(line).received(asks(speech.SET_BAUDRATE, (300).to_bytes(4, "big")) + asks(speech.SET_CONTROL, b"\11"))
    later = session(line)
    later.received(asks(speech.SET_BAUDRATE, bytes(4)) + asks(speech.SET_CONTROL, b"\7"))
    expected = answers(speech.SET_BAUDRATE, (300).to_bytes(4, "big")) + answers(speech.SET_CONTROL, b"\11")
    assert bytes(later.out) == expected


def test_the_state_of_the_lines_is_told_at_once_and_where_the_mask_lets_it():
    made = speech.Session(speech.Line())
    made.out.clear()
    made.received(COM_PORT)
    told = answers(speech.NOTIFY_MODEMSTATE, bytes([speech.LINES_UP]))
    assert bytes(made.out) == told  # no second DO: it was offered, and this is the answer
    made.out.clear()
    made.received(asks(speech.SET_MODEMSTATE_MASK, b"\x80"))
    told = answers(speech.NOTIFY_MODEMSTATE, b"\x80")
    assert bytes(made.out) == answers(speech.SET_MODEMSTATE_MASK, b"\x80") + told
    made.out.clear()
    made.received(asks(speech.SET_MODEMSTATE_MASK, b"\0"))
    assert bytes(made.out) == answers(speech.SET_MODEMSTATE_MASK, b"\0")


def test_who_asks_for_something_without_a_word_on_the_option_is_told_the_state_of_the_lines_too():
    made = speech.Session(speech.Line())
    made.received(BINARY)
    made.out.clear()
    made.received(asks(speech.SET_DATASIZE, b"\7"))
    told = answers(speech.NOTIFY_MODEMSTATE, bytes([speech.LINES_UP]))
    assert bytes(made.out) == told + answers(speech.SET_DATASIZE, b"\7")


def test_an_option_that_nobody_knows_is_refused_and_an_answer_is_not_answered():
    made = session()
    made.received(IAC + bytes([speech.DO, 31]) + IAC + bytes([speech.WILL, 24]))
    assert bytes(made.out) == IAC + bytes([speech.WONT, 31]) + IAC + bytes([speech.DONT, 24])
    made.out.clear()
    made.received(BINARY + COM_PORT + IAC + bytes([speech.WONT, 24]))
    assert not made.out


def test_a_client_that_holds_back_gets_nothing_until_it_goes_on_and_what_it_throws_away_never():
    made = session()
    made.received(asks(speech.FLOW_SUSPEND, b""))
    made.from_guest += b"a\xffb"
    made.fill()
    assert not made.out
    made.received(asks(speech.FLOW_RESUME, b""))
    made.fill()
    assert bytes(made.out) == b"a\xff\xffb"
    made.from_guest += b"lost"
    made.received(asks(speech.PURGE, b"\1"))
    assert not made.from_guest


def test_a_plain_telnet_sends_a_nul_behind_a_return_that_is_not_the_guests():
    made = speech.Session(speech.Line())
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


@pytest.mark.parametrize("manner", [speech.TELNET, speech.CALLING])
def test_telnet_escapes_and_knows_nothing_of_rfc_2217(manner: speech.Manner):
    made = speech.Session(speech.Line(), manner)
    assert COM_PORT[:2] + bytes([speech.COM_PORT]) not in bytes(made.out)
    made.received(BINARY)
    made.out.clear()
    made.received(COM_PORT + asks(speech.SET_DATASIZE, b"\7") + b"a" + IAC + IAC)
    assert bytes(made.out) == IAC + bytes([speech.DONT, speech.COM_PORT])
    assert bytes(made.to_guest) == b"a\xff"
    made.out.clear()
    made.from_guest += b"b\xff"
    made.fill()
    assert bytes(made.out) == b"b\xff\xff"
