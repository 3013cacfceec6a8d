"""What VMs use: all of them now, one of them since a while ago."""

from __future__ import annotations

import contextlib
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from bocage.cli import chart, failure, options, output, people, read, session, table
from bocage.client import rest

_COLUMNS = (
    table.Column("NAME", least=12),
    table.Column("CPU", right=True),
    table.Column("WAIT", right=True),
    table.Column("MEMORY", right=True),
    table.Column("GUEST", right=True),
    table.Column("READ/s", right=True),
    table.Column("WRITE/s", right=True),
    table.Column("OPS/s", right=True),
    table.Column("IN/s", right=True),
    table.Column("OUT/s", right=True),
)
_SORTED_BY = {
    "cpu": ("cpu",),
    "wait": ("wait",),
    "memory": ("memory",),
    "guest": ("memory_guest",),
    "disk": ("disk_read_bytes", "disk_written_bytes"),
    "ops": ("disk_reads", "disk_writes"),
    "net": ("net_received_bytes", "net_sent_bytes"),
}
_COURSES = (
    ("CPU", "cpu"),
    ("waiting for CPU", "wait"),
    ("memory, guest's use", "memory_guest"),
    ("memory, given (dynamic)", "memory_has"),
    ("memory of the host", "memory"),
    ("disk read/s", "disk_read_bytes"),
    ("disk written/s", "disk_written_bytes"),
    ("disk reads/s", "disk_reads"),
    ("disk writes/s", "disk_writes"),
    ("read latency", "disk_read_latency"),
    ("write latency", "disk_write_latency"),
    ("network in/s", "net_received_bytes"),
    ("network out/s", "net_sent_bytes"),
    ("packets in/s", "net_received_packets"),
    ("packets out/s", "net_sent_packets"),
)
_STATS = (
    table.Column(""),
    table.Column("LAST", right=True),
    table.Column("AVERAGE", right=True),
    table.Column("PEAK", right=True),
    table.Column("COURSE"),
)
_TAKEN = 53  # columns of that table before the course
_QUIT = b"q\x03\x04"


def top(
    sort: Annotated[
        str, typer.Option("--sort", metavar="KEY", help="By name, cpu, wait, memory, guest, disk, ops or net.")
    ] = "cpu",
    once: Annotated[bool, typer.Option("--once", help="Print it once, also on a terminal.")] = False,
    every: Annotated[float, typer.Option("--every", metavar="SECONDS", help="How often it is drawn anew.")] = 5.0,
    project: options.Project = options.DEFAULT,
    json: options.Json = False,
) -> None:
    """Show what the running VMs use, the hungriest first; q leaves.

    CPU and WAIT count cores (1.00: one of them all the time); WAIT is how long vCPUs were
    ready and the host had none for them. MEMORY is what a VM takes of the host's, GUEST
    what the guest itself says it uses, of what it has where its memory is dynamic.

    Examples:
      bocage vm top
      bocage vm top --sort net --once
      bocage vm top --json | jq -r '.vms[] | [.name, .now.cpu] | @tsv'
    """
    if sort not in (*_SORTED_BY, "name"):
        right = f"by one of name, {', '.join(_SORTED_BY)}"
        raise failure.Usage(option="--sort", wrong=f"'{sort}' is no column", right=right)
    with session.connect(project) as api:
        if json:
            output.document(api.top())
        elif once or not (output.on_terminal() and sys.stdin.isatty()):
            output.line(_drawn(api.top(), sort))
        else:
            with contextlib.suppress(KeyboardInterrupt):  # leaves it as q does
                _live(api, sort, max(every, 1.0))


def _live(api: rest.Client, sort: str, every: float) -> None:
    with _keys() as keys:
        while True:
            lines = _drawn(api.top(), sort).splitlines()
            shown = "\r\n".join(line + "\x1b[K" for line in lines[: table.height() - 1])
            sys.stdout.write(f"\x1b[H{shown}\x1b[J\r\n")
            sys.stdout.flush()
            due = time.monotonic() + every
            while (left := due - time.monotonic()) > 0:
                ready, _, _ = select.select([keys], [], [], left)
                if ready and (not (typed := keys.buffer.raw.read(64)) or set(typed) & set(_QUIT)):
                    return


@contextlib.contextmanager
def _keys() -> Iterator[Any]:
    """Keys as they are pressed, on a screen of their own; all is put back at the end."""
    before = termios.tcgetattr(sys.stdin)
    sys.stdout.write("\x1b[?1049h\x1b[?25l\x1b[2J")
    try:
        tty.setcbreak(sys.stdin)
        yield sys.stdin
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
        sys.stdout.write("\x1b[?25h\x1b[?1049l")
        sys.stdout.flush()


def _drawn(found: rest.Document, sort: str) -> str:
    vms = sorted(found["vms"], key=lambda one: str(one["name"]))
    if sort != "name":
        vms.sort(key=lambda one: -sum(one["now"].get(metric) or 0.0 for metric in _SORTED_BY[sort]))
    lines = [table.cut(line, table.width()) for line in host_lines(found["host"])]
    if not vms:
        return "\n".join([*lines, "", "no VM runs"])
    rows = [_row(one["name"], one["now"], one.get("memory")) for one in vms]
    if len(vms) > 1:
        rows.append(
            _row(f"{len(vms)} VMs", found["host"]["now"], sum(one.get("memory") or 0 for one in vms), host=True)
        )
    return "\n".join([*lines, "", table.render(_COLUMNS, rows)])


def host_lines(host: rest.Document) -> list[str]:
    """What a host does, in two lines."""
    busy = people.cores(host["now"].get("cpu"))
    used = f"{people.size(host['memory_used'])} of {people.size(host['memory_total'])}"
    lines = [f"Host: CPU {busy} of {host['cpus']}, memory {used}"]
    if told := people.pressure(host.get("pressure") or {}):
        lines.append(f"Waiting in the last 10 s: {told}")
    return lines


def _row(name: str, now: dict[str, Any], memory: int | None, *, host: bool = False) -> tuple[str, ...]:
    operations = [now.get("disk_reads"), now.get("disk_writes")]
    known = [value for value in operations if value is not None]
    return (
        name,
        "" if host else people.cores(now.get("cpu")),
        "" if host else people.cores(now.get("wait")),
        people.size(memory or None),
        "" if host else _of_guest(now),
        people.measure("disk_read_bytes", now.get("disk_read_bytes")),
        people.measure("disk_written_bytes", now.get("disk_written_bytes")),
        people.measure("disk_reads", sum(known) if known else None),
        people.measure("net_received_bytes", now.get("net_received_bytes")),
        people.measure("net_sent_bytes", now.get("net_sent_bytes")),
    )


def _of_guest(now: dict[str, Any]) -> str:
    """What it uses, and of how much where that moves."""
    used, has = (people.measure(metric, now.get(metric)) for metric in ("memory_guest", "memory_has"))
    return f"{used or '?'} of {has}" if now.get("memory_has") else used


def stats(
    name: options.VMName,
    since: Annotated[
        str, typer.Option("--since", metavar="SPAN", help="How far back: 90s, 30m, 6h, 1d, 2w, 1y.")
    ] = "1h",
    project: options.Project = options.DEFAULT,
    json: options.Json = False,
) -> None:
    """Show what a VM has used: its last value, average and peak, and the course.

    The last hour is known to 5 seconds, the last day to a minute, the last year to an hour.
    With --json: all steps, by metric.

    Examples:
      bocage vm stats web1 --since 1d
      bocage vm stats web1 --since 30m --json | jq .courses.cpu.average
    """
    span = read.span(since, option="--since")
    room = max(8, table.width() - _TAKEN)
    with session.connect(project) as api:
        found = api.vms.stats(name, span=span, most=720 if json else room)
    if json:
        output.document(found)
        return
    rows = [_course(title, metric, found["courses"][metric]) for title, metric in _COURSES]
    shown = [row for row in rows if row]
    if not shown:
        output.complain(f"nothing was measured of {name} in that time: it did not run")
        return
    output.line(table.render(_STATS, shown))
    output.complain(f"{people.clock(found['start'])} to now, a column is {people.span(found['step'])}")


def _course(title: str, metric: str, course: dict[str, Any]) -> tuple[str, ...] | None:
    known = [value for value in course["average"] if value is not None]
    if not known:
        return None
    peak = max(value for value in course["peak"] if value is not None)
    told = (known[-1], sum(known) / len(known), peak)
    return (title, *(people.measure(metric, value) for value in told), chart.line(course["average"]))
