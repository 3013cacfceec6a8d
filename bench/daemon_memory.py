"""Memory of the idle daemon with 0, 20 and 200 defined VMs, and its CPU; beside `libvirtd` with `virtlogd`.

A daemon counts as idle once it has rested. Two are looked at for each number: one that has just made
all these VMs, and one started anew on them, each time in a process of its own; the larger counts. CPU is
taken over whole minutes with 200 VMs, on both sides at once.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping

from bench import bare, libvirt, measure, ours, session

COUNTS = (0, 20, 200)
_AT_NONE = 100.0  # MiB
_EACH = 0.2  # MiB
_CPU = 0.5  # percent of a core
_WINDOW = 60.0  # seconds
_REST = 3.0


def run(bench: session.Session) -> measure.Result:
    """The figure."""
    result = measure.Result()
    found: dict[str, list[float]] = {}
    with contextlib.ExitStack() as undo:
        home = undo.enter_context(ours.running(bench.place("memory"), bench.tiny))
        had = bench.libvirt_or_reason(home)
        peer = had if isinstance(had, libvirt.Libvirt) else None
        if peer:
            undo.callback(peer.forget_all)
        else:
            result.notes.append(f"libvirtd: not measured: {had}")
        for count in COUNTS:
            home.make_many(count)
            ours.settled(home)
            found |= {f"made-{count}-{name}": [value] for name, value in _memory([home.pid]).items()}
            if peer and count:
                disk = bare.overlay(bench.tiny, bench.place("memory-virsh"))
                peer.forget_all()
                names = [f"vm-{number}" for number in range(count)]
                peer.define(*names, machine=home.vm("vm-0"), disk=disk)
            found |= measure.alternate(bench.runs, _sides(home, peer, count))
        found |= _idle(home, peer, bench.runs)
    for count in COUNTS:
        result.rows.append(_row(found, count))
    result.rows.append(_more(found))
    result.rows.append(_cpu(found))
    result.notes += [_words(found, count) for count in COUNTS]
    return result


def _sides(home: ours.Ours, peer: libvirt.Libvirt | None, count: int) -> dict[str, Callable[[], Mapping[str, float]]]:
    def mine() -> dict[str, float]:
        home.stop()
        home.start()
        ours.settled(home)
        return {f"ours-{count}-{name}": value for name, value in _memory([home.pid]).items()}

    def theirs() -> dict[str, float]:
        assert peer
        peer.stop_daemon()
        peer.start_daemon()
        peer.answers()
        time.sleep(_REST)
        return {f"peer-{count}-{name}": value for name, value in _memory(peer.pids("libvirtd", "virtlogd")).items()}

    return {"ours": mine, **({"peer": theirs} if peer else {})}


def _memory(pids: list[int]) -> dict[str, float]:
    return {"pss": measure.pss(pids), "rss": measure.rss(pids)}


def _idle(home: ours.Ours, peer: libvirt.Libvirt | None, runs: int) -> dict[str, list[float]]:
    """Percent of a core over each of `runs` minutes."""
    sides = {"ours-cpu": [home.pid], **({"peer-cpu": peer.pids("libvirtd", "virtlogd")} if peer else {})}
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(runs):
        before = {name: measure.cpu(pids) for name, pids in sides.items()}
        begun = time.monotonic()
        time.sleep(_WINDOW)
        span = time.monotonic() - begun
        for name, pids in sides.items():
            found[name].append((measure.cpu(pids) - before[name]) / span * 100)
    return found


def _larger(found: Mapping[str, list[float]], count: int, kind: str) -> float:
    return max(measure.median(found[f"{who}-{count}-{kind}"]) for who in ("ours", "made"))


def _peer(found: Mapping[str, list[float]], name: str) -> float | None:
    return measure.median(found[name]) if name in found else None


def _row(found: Mapping[str, list[float]], count: int) -> measure.Row:
    limit = _AT_NONE + _EACH * count
    return measure.Row(
        figure="daemon-memory", what=f"memory of the daemon, {count} VMs (RSS)", unit="MiB",
        ours=_larger(found, count, "rss"), peer=_peer(found, f"peer-{count}-rss"), peer_is="libvirtd + virtlogd",
        must=f"≤ {limit:g} MiB", limit=limit, runs=found,
    )  # fmt: skip


def _more(found: Mapping[str, list[float]]) -> measure.Row:
    most = COUNTS[-1]
    theirs = [_peer(found, f"peer-{count}-rss") for count in (most, 0)]
    return measure.Row(
        figure="daemon-memory", what=f"memory of the daemon for each VM more (0 to {most})", unit="MiB",
        ours=(_larger(found, most, "rss") - _larger(found, 0, "rss")) / most,
        peer=(theirs[0] - theirs[1]) / most if theirs[0] is not None and theirs[1] is not None else None,
        peer_is="libvirtd + virtlogd", must=f"≤ {_EACH:g} MiB", limit=_EACH,
    )  # fmt: skip


def _cpu(found: Mapping[str, list[float]]) -> measure.Row:
    return measure.Row(
        figure="daemon-memory", what=f"CPU of the idle daemon, {COUNTS[-1]} VMs", unit="% of a core",
        ours=measure.median(found["ours-cpu"]), peer=_peer(found, "peer-cpu"), peer_is="libvirtd + virtlogd",
        must=f"≤ {_CPU:g} %", limit=_CPU,
    )  # fmt: skip


def _words(found: Mapping[str, list[float]], count: int) -> str:
    named = {"made": "made them", "ours": "started on them", "peer": "peer"}
    told = [
        f"{words} {measure.median(found[f'{who}-{count}-pss']):.1f} / {measure.median(found[f'{who}-{count}-rss']):.1f}"
        for who, words in named.items()
        if f"{who}-{count}-pss" in found
    ]
    return f"{count} VMs, PSS / RSS in MiB: {', '.join(told)}"
