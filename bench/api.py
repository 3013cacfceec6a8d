"""The API with 1,000 VMs: all listed; 1,000 reads and 1,000 writes from 32 clients; beside sqlite3 alone.

A read is GET of one VM, a write PATCH of its notes, each VM once in each run, over the Unix socket. A
write is answered when it is durable; the node follows each up (`vm.yaml`, the observed generation) while
the next ones come in. The peer reads and writes the same documents by key, one after another, in WAL mode
with synchronous=FULL, a transaction for each.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping

from bench import load, measure, ours, profile, session

VMS = 1000
CLIENTS = 32
_WRITE = 100.0  # ms, of which one in a hundred may take longer
_PATH = "/api/v1/projects/default/vms"


def run(bench: session.Session) -> measure.Result:
    """The figure."""
    place = bench.place("api")
    with contextlib.ExitStack() as undo:
        home = undo.enter_context(ours.running(place, bench.tiny))
        took = _make(home)
        rows = undo.enter_context(_Rows(place / "rows.db", home.api.vms.list()["items"]).opened())
        turn = iter(range(1 << 30))
        found = measure.alternate(bench.runs, {"ours": lambda: _ours(home, next(turn)), "peer": rows.run})
        told = profile.of(home.pid, lambda: [_ours(home, next(turn)) for _ in range(3)], place)
        ours.settled(home)
    rows_ = [_row(found, name) for name in ("list", "read-p50", "read-p99", "write-p50", "write-p99")]
    median = {name: measure.median(values) for name, values in found.items()}
    notes = [
        f"making the {VMS} VMs with {CLIENTS} clients, disks and all: {took:.0f} s",
        f"a second: {median['reads']:.0f} reads, {median['writes']:.0f} writes",
        "profile of the daemon under this load (py-spy, 200 samples a second):",
        *[f"  {line}" for line in told],
    ]
    return measure.Result(rows_, notes)


def _row(found: Mapping[str, list[float]], name: str) -> measure.Row:
    what = {
        "list": f"API: list {VMS:,} VMs",
        "read": f"API: {VMS:,} reads, {CLIENTS} clients",
        "write": f"API: {VMS:,} writes, {CLIENTS} clients",
    }[name.partition("-")[0]]
    bound = name == "write-p99"
    return measure.Row(
        figure="api", what=f"{what} {name.partition('-')[2]}".strip(), unit="ms", ours=measure.median(found[name]),
        peer=measure.median(found[f"sqlite-{name}"]), peer_is="sqlite3 alone",
        must=f"≤ {_WRITE:g} ms" if bound else "", limit=_WRITE if bound else None, runs=found,
    )  # fmt: skip


def _make(home: ours.Ours) -> float:
    """Seconds until all VMs are there and the daemon rests."""
    begun = time.monotonic()
    load.run(
        str(home.homes.socket),
        CLIENTS,
        [("POST", _PATH, {"name": f"vm-{number}", **ours.WANTED}) for number in range(VMS)],
    )
    ready = lambda: all(one["status"]["ready"] for one in home.api.vms.list()["items"])  # noqa: E731
    made = measure.until(ready, what="all VMs", within=1800, every=1.0)
    ours.settled(home, within=600)
    return made - begun


def _ours(home: ours.Ours, turn: int) -> dict[str, float]:
    socket = str(home.homes.socket)
    begun = time.monotonic()
    assert len(home.api.vms.list()["items"]) == VMS
    listed = (time.monotonic() - begun) * 1000
    reads = load.run(socket, CLIENTS, [("GET", f"{_PATH}/vm-{number}", None) for number in range(VMS)])
    changes = [("PATCH", f"{_PATH}/vm-{number}", {"notes": f"turn {turn}"}) for number in range(VMS)]
    writes = load.run(socket, CLIENTS, changes)
    ours.settled(home)
    return {
        "list": listed,
        **_percentiles("read", reads["milliseconds"]),
        **_percentiles("write", writes["milliseconds"]),
        "reads": VMS / reads["seconds"],
        "writes": VMS / writes["seconds"],
    }


def _percentiles(name: str, took: list[float]) -> dict[str, float]:
    return {f"{name}-p50": measure.percentile(took, 0.5), f"{name}-p99": measure.percentile(took, 0.99)}


class _Rows:
    """The same documents in a database of their own."""

    def __init__(self, path: pathlib.Path, documents: list[ours.Document]) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("CREATE TABLE rows (name TEXT PRIMARY KEY, document BLOB) WITHOUT ROWID")
        self._held = {one["metadata"]["name"]: json.dumps(one).encode() for one in documents}
        self._connection.executemany("INSERT INTO rows VALUES (?, ?)", self._held.items())

    @contextlib.contextmanager
    def opened(self) -> Iterator[_Rows]:
        with contextlib.closing(self._connection):
            yield self

    def run(self) -> dict[str, float]:
        listed = _timed(lambda: self._connection.execute("SELECT document FROM rows").fetchall())
        reads = [_timed(lambda name=name: self._read(name)) for name in self._held]  # type: ignore[misc]
        writes = [_timed(lambda name=name: self._write(name)) for name in self._held]  # type: ignore[misc]
        return {
            "sqlite-list": listed,
            **_percentiles("sqlite-read", reads),
            **_percentiles("sqlite-write", writes),
        }

    def _read(self, name: str) -> None:
        self._connection.execute("SELECT document FROM rows WHERE name = ?", (name,)).fetchone()

    def _write(self, name: str) -> None:
        # SQLite writes nothing where the new value is the old one
        changed = os.urandom(8).hex().encode() + self._held[name][16:]
        self._connection.execute("UPDATE rows SET document = ? WHERE name = ?", (changed, name))


def _timed(do: Callable[[], object]) -> float:
    begun = time.monotonic()
    do()
    return (time.monotonic() - begun) * 1000
