"""Whether a QEMU ended in an orderly way: from its event, else from the line that it traced into its log."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bocage import words
from bocage.engine import base
from bocage.engine.qemu import command, ending
from bocage.words import N_

_REASONS = (  # ShutdownCause of QEMU's qapi/run-state.json, in its order
    "none",
    "host-error",
    "host-qmp-quit",
    "host-qmp-system-reset",
    "host-signal",
    "host-ui",
    "guest-shutdown",
    "guest-reset",
    "guest-panic",
    "subsystem-reset",
    "snapshot-load",
)
_RESETS = frozenset({"none", "host-qmp-system-reset", "guest-reset", "subsystem-reset", "snapshot-load"})
_SIGNALLED = ": terminating on signal "  # what it says of itself then; that is not traced
_PREFIX = re.compile(rf"^(\S+Z )?({command.PROGRAM}: )?")  # the time and its own name
_TRACED = re.compile(rf"{command.SHUTDOWN_TRACE} reason=(\d+)")


class SwitchedOff(words.Message):
    """The usual end."""

    type = "guest-switched-off"
    text = N_("the guest switched itself off")


class Quit(words.Message):
    """We told it to."""

    type = "machine-quit"
    text = N_("its plug was pulled")


class Terminated(words.Message):
    """Somebody outside ended it, in a way that lets QEMU write what it holds."""

    type = "machine-terminated"
    text = N_("somebody on the host ended QEMU with a signal")
    hint = N_("the last lines of its log name the sender: 'bocage vm log NAME --qemu'")


_ORDERLY: dict[str, words.Message] = {"guest-shutdown": SwitchedOff(), "host-qmp-quit": Quit(), "host-ui": Quit()}


def traced(lines: Sequence[str]) -> str:
    """The reason of the last shutdown that QEMU's log tells of; empty when it tells of none."""
    for line in reversed(lines):
        if _SIGNALLED in line:
            return "host-signal"
        if (found := _TRACED.search(line)) and int(found[1]) < len(_REASONS):
            reason = _REASONS[int(found[1])]
            if reason not in _RESETS:
                return reason
    return ""


def plain(lines: Sequence[str]) -> list[str]:
    """QEMU's words without what stands before each of them, and without what it traced."""
    return [_PREFIX.sub("", line) for line in lines if not _TRACED.search(line)]


def told(how: ending.Ended, *, shutdown: str) -> base.Ended:
    """The end in the engine's terms. `shutdown` is the SHUTDOWN event's reason, empty when none was heard."""
    reason = shutdown or traced(how.last_lines)
    lines = tuple(line for line in how.last_lines if not _TRACED.search(line))
    if how.exit_code not in (0, None) or how.signal is not None or how.out_of_memory:
        return base.Ended(orderly=False, reason=how.reason, last_lines=lines)
    if reason in _ORDERLY:
        return base.Ended(orderly=True, reason=_ORDERLY[reason], last_lines=lines)
    if reason == "host-signal":
        return base.Ended(orderly=False, reason=Terminated(), last_lines=lines)
    return base.Ended(orderly=how.exit_code == 0, reason=how.reason, last_lines=lines)
