"""A serial line as a person would read it."""

from hypothesis import given
from hypothesis import strategies as st

from bocage import lines


def fed(*pieces: bytes) -> list[str]:
    splitter = lines.Splitter()
    return [line for piece in pieces for line in splitter.feed(piece)]


def kept(text: str, *said: str) -> list[str]:
    echo = lines.Echo(text)
    return [line for line in said if not echo.is_echo(line)]


def test_only_whole_lines_come_and_carriage_returns_go():
    assert fed(b"one\r\ntwo\r\r\nthr", b"ee\r", b"\nlogin: ") == ["one", "two", "three"]


def test_colours_titles_and_cursor_reports_are_no_text():
    assert fed(b"\x1b[1;32mready\x1b[0m now\r\n") == ["ready now"]
    assert fed(b"\x1b]0;a title\x07prompt\x1b[6n\n") == ["prompt"]
    assert fed(b"\x1b(Bplain\x1b=\x1bM\n") == ["plain"]


def test_what_is_written_over_is_not_read():
    assert fed(b" 10%\r 20%\r100%\n") == ["100%"]
    assert fed(b"tyPO\b\b\b\bypo!\n") == ["ypo!"]
    assert fed(b"long text\rshort\x1b[K\n") == ["short"]
    assert fed(b"ab\x1b[3Cc\x1b[2Dx\n") == ["ab  xc"]


def test_text_beyond_ascii_survives_a_cut_in_its_middle():
    whole = "r\u00e9seau pr\u00eat\r\n".encode()
    assert fed(whole[:2], whole[2:]) == ["r\u00e9seau pr\u00eat"]


def test_a_line_without_end_is_bounded():
    said = fed(b"x" * (3 << 20), b"y\n")
    assert len(said) == 1
    assert len(said[0]) <= lines.LONGEST


def test_a_cursor_that_is_sent_far_away_makes_no_endless_line():
    assert len(fed(b"\x1b[99999G" + b"\x1b[99999C" * 50 + b"x\n")[0]) <= lines.LONGEST


@given(st.binary(max_size=300), st.integers(0, 300))
def test_the_pieces_in_which_bytes_come_make_no_difference(data, cut):
    assert fed(data[:cut], data[cut:]) == fed(data)
    assert not any(character in line for line in fed(data) for character in "\r\n\x1b\b")


def test_the_echo_is_left_out_and_the_same_words_as_output_are_not():
    assert kept("echo hi", "/ # echo hi", "hi") == ["hi"]
    assert kept("hi", "hi", "hi") == ["hi"]


def test_what_a_shell_repeats_behind_its_prompt_after_the_kernel_did_is_echo_too():
    assert kept("tiny count", "tiny count", "~ # tiny count", "tiny: count 1") == ["tiny: count 1"]


def test_a_line_that_merely_ends_so_counts_once_the_echo_has_passed():
    assert kept("ok", "/ # ok", "all is ok") == ["all is ok"]


def test_without_text_nothing_is_echo():
    assert kept("", "", "a") == ["", "a"]
