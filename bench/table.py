"""The figures as people read them: one table in Markdown, and notes below it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench import machine, measure

_HEADS = ("figure", "ours", "peer", "ratio", "must", "verdict")


def heading(facts: machine.Facts) -> str:
    """The machine, in lines."""
    return (
        f"{facts.date}, commit {facts.commit}: {facts.cpu}, {facts.cores} cores, {facts.memory_gib} GiB; "
        f"{facts.system}, kernel {facts.kernel};\n"
        f"QEMU {facts.qemu} (TCG unless said otherwise), libvirt {facts.libvirt}, Python {facts.python}; "
        f"load at the start {facts.load}.\n"
    )


def text(results: Mapping[str, measure.Result]) -> str:
    """Table and notes."""
    cells = [_cells(row) for result in results.values() for row in result.rows]
    lines = _aligned([_HEADS, *cells])
    for name, result in results.items():
        lines += ["", f"{name}:", *[f"- {note}" for note in result.notes]] if result.notes else []
    return "\n".join(lines)


def _cells(row: measure.Row) -> Sequence[str]:
    verdict = {True: "holds", False: "falls short", None: ""}[row.holds]
    peer = f"{_number(row.peer, row.unit)} ({row.peer_is})" if row.peer is not None else row.peer_is
    ratio = f"{row.ratio:.2f}" if row.ratio is not None else ""
    return (row.what, _number(row.ours, row.unit), peer, ratio, row.must, verdict)


def _number(value: float, unit: str) -> str:
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:.{digits}f} {unit}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return lines
