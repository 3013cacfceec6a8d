"""What a guest feels of a snapshot, and how fast one goes again; beside virsh and qemu-img.

The pause is the longest time without a new byte on the serial line, on which the guest counts. With memory, 512 MiB
of a guest of 768 MiB are in use; `virsh snapshot-create` keeps them in the disk's file, with the guest stopped. Where
ours were all written behind the guest, three tenths of that are the bound.
"""

from __future__ import annotations

import contextlib
import pathlib
import subprocess
import time

from bench import bare, gaps, libvirt, measure, ours, session

_FILL = 512  # MiB
_MEMORY = "768M"
_WRITTEN = 2048  # MiB, since the snapshot that goes: as much that its throughput shows
_PIECE = 512  # MiB that qemu-io writes at a time
_READY = b"tiny: ready"


def run(bench: session.Session) -> measure.Result:
    """The figure."""
    result = measure.Result()
    with contextlib.ExitStack() as undo:
        home = undo.enter_context(ours.running(bench.place("snapshots"), bench.tiny))
        peer = bench.libvirt_or_reason(home)
        if not isinstance(peer, libvirt.Libvirt):
            result.notes.append(f"virsh: not measured: {peer}")
        else:
            undo.callback(peer.forget_all)
        for memory in (False, True):
            result.rows.append(_pauses(bench, home, peer, memory=memory))
        result.rows.append(_commits(bench, home))
    return result


def _pauses(bench: session.Session, home: ours.Ours, peer: libvirt.Libvirt | str, *, memory: bool) -> measure.Row:
    name = "with-memory" if memory else "disks-alone"
    machine = home.make(name, nics=[], memory=_MEMORY if memory else "128M")
    home.done(home.api.vms.start(name))
    bare.line_that_says(home.serial(machine), _READY)
    fill = _FILL if memory else 0
    gaps.count_ours(home, name, fill=fill)
    behind: list[bool] = []
    sides = {"ours": lambda: {"ours": _ours(home, machine, behind, memory=memory)}}
    if isinstance(peer, libvirt.Libvirt):
        disk = bare.overlay(bench.tiny, bench.place(f"snapshots-{name}"))
        peer.define(name, machine=machine, disk=disk)
        peer.virsh("start", name)
        bare.line_that_says(peer.serial(name), _READY)
        gaps.count_theirs(peer, name, fill=fill)
        sides["peer"] = lambda: {"peer": _theirs(peer, name, disk, memory=memory)}
    found = measure.alternate(bench.runs, sides)
    home.kill_vm(name)
    if isinstance(peer, libvirt.Libvirt):
        peer.virsh("destroy", name)
    theirs = measure.median(found["peer"]) if "peer" in found else None
    words = f"with memory, {_FILL} MiB in use" if memory else "of disks"
    times = 0.3 if memory and all(behind) else 1
    if memory:
        words += ", written behind it" if times < 1 else ", written ahead"
    return measure.Row(
        figure="snapshots", what=f"guest's pause for a snapshot {words}", unit="ms",
        ours=measure.median(found["ours"]), peer=theirs,
        peer_is="virsh snapshot-create" + ("" if memory else " --disk-only"),
        must=f"≤ {times} {measure.TIMES}", limit=theirs and times * theirs, runs=found,
    )  # fmt: skip


def _ours(home: ours.Ours, machine: ours.Document, behind: list[bool], *, memory: bool) -> float:
    name = machine["metadata"]["name"]
    with gaps.watched(home.serial(machine)) as gap:
        task = home.done(home.api.vms.keep(name, {"name": "now", "memory": memory}))
    behind.append(bool(task["status"]["result"].get("background")))
    home.done(home.api.vms.forget(name, "now"))
    return gap.longest


def _theirs(peer: libvirt.Libvirt, name: str, disk: pathlib.Path, *, memory: bool) -> float:
    over = disk.with_name("over.qcow2")
    asked = ["snapshot-create-as", name, "now"]
    if not memory:
        asked += ["--disk-only", "--no-metadata", "--diskspec", f"vda,file={over}"]
    with gaps.watched(peer.serial(name)) as gap:
        peer.virsh(*asked)
    if memory:
        peer.virsh("snapshot-delete", name, "now")
    else:
        peer.virsh("blockcommit", name, "vda", "--active", "--pivot")
        over.unlink()
    return gap.longest


def _commits(bench: session.Session, home: ours.Ours) -> measure.Row:
    """Of a snapshot's file, while the VM runs."""
    place = bench.place("snapshots-commit")

    def mine() -> float:
        machine = home.make("merged", nics=[], disks=[{"size": "4G"}])
        path = home.disk(machine).with_name("disk1.qcow2")
        _write(path, 11)
        home.done(home.api.vms.keep("merged", {"name": "base"}))
        [top] = [one for one in path.parent.iterdir() if one.name.startswith("disk1-")]
        _write(top, 12)
        home.done(home.api.vms.start("merged"))
        bare.line_that_says(home.serial(machine), _READY)
        begun = time.monotonic()
        home.done(home.api.vms.forget("merged", "base"))
        took = time.monotonic() - begun
        home.done(home.api.vms.remove("merged", force=True, purge=True))
        return _WRITTEN / took

    def peer() -> float:
        base, top = place / "base.qcow2", place / "top.qcow2"
        for line in (
            ["create", "-q", "-f", "qcow2", str(base), "4G"],
            ["create", "-q", "-f", "qcow2", "-b", base.name, "-F", "qcow2", str(top)],
        ):
            subprocess.run(["qemu-img", *line], check=True)
        _write(base, 11)
        _write(top, 12)
        begun = time.monotonic()
        subprocess.run(["qemu-img", "commit", "-q", str(top)], check=True)
        took = time.monotonic() - begun
        base.unlink()
        top.unlink()
        return _WRITTEN / took

    found = measure.alternate(bench.runs, {"ours": lambda: {"ours": mine()}, "peer": lambda: {"peer": peer()}})
    theirs = measure.median(found["peer"])
    return measure.Row(
        figure="snapshots", what="deletion of a snapshot while the VM runs", unit="MiB/s",
        ours=measure.median(found["ours"]), peer=theirs, peer_is="qemu-img commit",
        must=f"≥ 0.8 {measure.TIMES}", limit=0.8 * theirs, at_least=True, runs=found,
    )  # fmt: skip


def _write(path: pathlib.Path, pattern: int) -> None:
    written = [f"write -P {pattern} {at}M {_PIECE}M" for at in range(0, _WRITTEN, _PIECE)]
    line = ["qemu-io", "-f", "qcow2", *(word for one in written for word in ("-c", one)), str(path)]
    subprocess.run(line, check=True, capture_output=True)
    subprocess.run(["sync", "-f", str(path)], check=True)
