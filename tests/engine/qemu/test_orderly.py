"""How an end is judged."""

from collections.abc import Sequence

import pytest

from bocage.engine.qemu import ending, orderly


def ended(
    code: int | None = None, *, signal: int | None = None, oom: bool = False, lines: Sequence[str] = ()
) -> ending.Ended:
    reason = ending.EndUnknown(program="QEMU")
    return ending.Ended(reason, exit_code=code, signal=signal, out_of_memory=oom, last_lines=tuple(lines))


def trace(reason: int) -> str:
    return f"6177@1795516994.054323:qemu_system_shutdown_request reason={reason}"


@pytest.mark.parametrize(
    ("how", "shutdown", "is_orderly", "reason"),
    [
        (ended(0), "guest-shutdown", True, orderly.SwitchedOff),
        (ended(0), "host-qmp-quit", True, orderly.Quit),
        (ended(0), "host-signal", False, orderly.Terminated),
        (ended(0), "", True, ending.EndUnknown),
        (ended(0, lines=[trace(6)]), "", True, orderly.SwitchedOff),
        (ended(0, lines=[trace(4)]), "", False, orderly.Terminated),
        (ended(lines=[trace(6)]), "", True, orderly.SwitchedOff),
        (ended(), "", False, ending.EndUnknown),
        (ended(1), "guest-shutdown", False, ending.EndUnknown),
        (ended(signal=11), "guest-shutdown", False, ending.EndUnknown),
        (ended(oom=True), "", False, ending.EndUnknown),
    ],
)
def test_an_end_is_orderly_when_the_guest_or_we_wanted_it(how, shutdown, is_orderly, reason):
    told = orderly.told(how, shutdown=shutdown)
    assert told.orderly is is_orderly
    assert isinstance(told.reason, reason)


def test_a_guest_that_rebooted_and_then_crashed_did_not_switch_itself_off():
    assert orderly.traced([trace(7), "some words"]) == ""
    assert orderly.traced([trace(6), trace(7)]) == "guest-shutdown"


def test_the_traced_lines_are_not_shown_as_the_last_words():
    assert orderly.told(ended(1, lines=["it hurts", trace(4)]), shutdown="").last_lines == ("it hurts",)
