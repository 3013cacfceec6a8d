"""What a person would read of a terminal's output: bytes with control sequences in, plain lines out. Pure."""

from __future__ import annotations

import re

LONGEST = 16_384  # characters of a line; the rest of a longer one is dropped
_PENDING = 1 << 20  # bytes of a line without an end that are held

# ECMA-48: control sequences, control strings (OSC, DCS and the like), and other escapes.
_TOKEN = re.compile(
    r"\x1b\[(?P<arguments>[0-?]*)[ -/]*(?P<final>[@-~])"
    r"|\x1b[\]PX^_].*?(?:\x07|\x1b\\|$)"
    r"|\x1b[ -/]*[0-~]?"
    r"|(?P<text>[^\x00-\x1f\x7f-\x9f]+)"
    r"|(?P<control>[\x00-\x1f\x7f-\x9f])",
    re.DOTALL,
)
_PROMPT_END = re.compile(r"[#$%>:\])]\s*$")


class Splitter:
    """Cuts a stream into whole lines, however it comes in pieces."""

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, data: bytes) -> list[str]:
        """The lines that are whole now, as they would be read."""
        *whole, self._pending = (self._pending + data).split(b"\n")
        self._pending = self._pending[-_PENDING:]
        return [rendered(line.decode(errors="replace")) for line in whole]

    def rest(self) -> str:
        """What came after the last whole line."""
        return rendered(self._pending.decode(errors="replace"))


class Echo:
    """Leaves out the lines in which the terminal repeats what was typed.

    The kernel repeats it at once, and a shell that was not reading yet repeats it behind its prompt:
    the first line that ends with the text, and each further one where a prompt stands before it.
    """

    def __init__(self, text: str) -> None:
        self._text = text.strip()
        self._first = True

    def is_echo(self, line: str) -> bool:
        """Whether this line, the next of those that came, is no more than a repetition."""
        if not self._text or not line.rstrip().endswith(self._text):
            return False
        before = line.rstrip()[: -len(self._text)]
        first, self._first = self._first, False
        return first or bool(_PROMPT_END.search(before))


def rendered(line: str) -> str:
    """One line as a terminal would show it: carriage returns and backspaces write over what was there."""
    if line.isprintable():
        return line[:LONGEST]
    cells: list[str] = []
    at = 0
    for token in _TOKEN.finditer(line):
        if text := token["text"]:
            text = text[: max(0, LONGEST - at)]
            cells += " " * (at - len(cells))
            cells[at : at + len(text)] = text
            at += len(text)
        elif final := token["final"]:
            at = _moved(final, token["arguments"], cells, at)
        elif control := token["control"]:
            at = _controlled(control, at)
    return "".join(cells).rstrip("\x00")


def _controlled(control: str, at: int) -> int:
    match control:
        case "\r":
            return 0
        case "\b":
            return max(0, at - 1)
        case "\t":
            return min(LONGEST, (at // 8 + 1) * 8)
        case _:
            return at


def _moved(final: str, arguments: str, cells: list[str], at: int) -> int:
    count = int(arguments) if arguments.isdecimal() and len(arguments) < 6 else 0
    match final:
        case "C":
            return min(LONGEST, at + max(1, count))
        case "D":
            return max(0, at - max(1, count))
        case "G":
            return min(LONGEST, max(1, count) - 1)
        case "K" | "J" if count == 0:
            del cells[at:]
        case "K" if count == 2:
            cells[:] = " " * at
    return at
