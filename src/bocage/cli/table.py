"""Tables and lists of facts for people, within the width of their terminal.

Not Rich's: importing it takes longer than all of `bocage vm list` may take beside the request.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import unicodedata
from collections.abc import Iterable, Sequence

NARROWEST = 40


@dataclasses.dataclass(frozen=True, slots=True)
class Column:
    title: str
    right: bool = False
    least: int | None = None
    """How narrow it may become; None: it is never cut."""


def width() -> int:
    """The columns that there are: the terminal's, `COLUMNS`, or 80."""
    return max(NARROWEST, shutil.get_terminal_size((80, 24)).columns)


def height() -> int:
    """The lines that there are."""
    return shutil.get_terminal_size((80, 24)).lines


def render(columns: Sequence[Column], rows: Iterable[Sequence[object]], *, within: int | None = None) -> str:
    """The table as lines; what is too long is cut with `…`, the last columns that may be cut first."""
    cells = [[clean(str(cell)) for cell in row] for row in rows]
    widths = [
        max([cells_wide(column.title), *(cells_wide(row[index]) for row in cells)])
        for index, column in enumerate(columns)
    ]
    excess = sum(widths) + 2 * (len(columns) - 1) - (within or width())
    for index in reversed(range(len(columns))):
        least = columns[index].least
        if excess > 0 and least is not None and widths[index] > least:
            gives = min(excess, widths[index] - max(least, cells_wide(columns[index].title)))
            widths[index] -= max(0, gives)
            excess -= max(0, gives)
    lines = [_line([column.title for column in columns], columns, widths)]
    lines += [_line(row, columns, widths) for row in cells]
    return "\n".join(lines)


def facts(pairs: Iterable[tuple[str, object]], *, within: int | None = None) -> str:
    """Names and values, one below the other; a long value goes on under itself. Empty values are left out."""
    shown = [(name, str(value)) for name, value in pairs if value not in (None, "", [], ())]
    wide = max((cells_wide(name) for name, _ in shown), default=0) + 2
    lines: list[str] = []
    for name, value in shown:
        before = name.ljust(wide)
        for paragraph in value.splitlines() or [""]:
            for piece in _wrap(clean(paragraph), max(20, (within or width()) - wide)):
                lines.append((before + piece).rstrip())
                before = " " * wide
    return "\n".join(lines)


def paragraph(text: str, *, lead: str = "", within: int | None = None) -> str:
    """A text behind `lead`, its further lines below its first."""
    pieces = _wrap(clean(" ".join(text.split())), max(20, (within or width()) - cells_wide(lead)))
    return lead + ("\n" + " " * cells_wide(lead)).join(pieces)


def cells_wide(text: str) -> int:
    """How many terminal cells a text takes."""
    if text.isascii():
        return len(text)
    return sum(_wide(character) for character in text)


def cut(text: str, cells: int) -> str:
    """The text within so many cells, cut with `…`."""
    if cells_wide(text) <= cells:
        return text
    kept, taken = [], 1
    for character in text:
        taken += _wide(character)
        if taken > cells:
            break
        kept.append(character)
    return "".join(kept).rstrip() + "…"


def clean(text: str) -> str:
    """Without control characters: what a guest or a file is called moves no cursor."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else "�" for character in text)


def _wide(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _line(cells: Sequence[str], columns: Sequence[Column], widths: Sequence[int]) -> str:
    pieces = []
    for cell, column, wide in zip(cells, columns, widths, strict=True):
        text = cut(cell, wide)
        gap = " " * (wide - cells_wide(text))
        pieces.append(gap + text if column.right else text + gap)
    return "  ".join(pieces).rstrip()


def _wrap(text: str, wide: int) -> list[str]:
    if cells_wide(text) <= wide:
        return [text]
    import textwrap

    return textwrap.wrap(text, wide, break_long_words=False, break_on_hyphens=False) or [""]


def colour() -> bool:
    """Whether standard output may be coloured (https://no-color.org)."""
    return os.isatty(1) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
