"""The scheduler beside Ganeti's: one placement (`hail`), a whole plan of moves (`hbal`), both on the same clusters.

All of it is computing, so that seconds are those of a CPU on both sides: a busy machine changes neither.
"""

from __future__ import annotations

import json
import pathlib
import random
import time

from bench import clusters, htools, measure, session
from bocage.model import base, plan, units
from bocage.planner import placement, rebalance

_SECONDS = 60.0  # of a CPU that hbal is given for a cluster, and hail for a VM
_GIB = 1 << 30
_HOSTS, _VMS = 50, 2000


def run(bench: session.Session) -> measure.Result:
    """The figure."""
    result = measure.Result()
    given = sorted(bench.clusters.glob("*.data"), key=_size) if bench.clusters else None
    for path in clusters.made(bench.place("clusters")) if given is None else given:
        _place(bench, result, path)
        for use in (None, path.with_suffix(".util")):
            if use is None or use.exists():
                _balance(bench, result, path, use)
    _large(bench, result)
    return result


def _place(bench: session.Session, result: measure.Result, path: pathlib.Path) -> None:
    world = htools.read(path)
    replicated = any(vm.replica for vm in world.vms)
    asked = bench.place("placement") / "request.json"
    asked.write_text(json.dumps(htools.request(replicated=replicated)))
    runs: dict[str, list[float]] = {"ours": [], "hail": []}
    said, chosen = "", plan.Placed(vm="", host=None, because=base.Saying(type=""), verdicts=())
    for number in range(bench.runs):
        begun = time.process_time()
        chosen = placement.place(htools.new_vm(replicated=replicated), htools.read(path))
        runs["ours"].append((time.process_time() - begun) * 1000)
        if number == 0:
            spent, said = htools.allocate(path, asked, within=_SECONDS)
            runs["hail"].append(spent * 1000)
    where = chosen.host if chosen.replica is None else f"{chosen.host} and {chosen.replica}"
    result.notes.append(f"{path.stem}: ours chooses {where} (score {chosen.verdicts[0].score}); hail: {said}")
    row = measure.Row(
        figure="placement", what=f"one placement, {_title(world)}", unit="ms", ours=measure.median(runs["ours"]),
        peer=measure.median(runs["hail"]), peer_is="hail, once", must="≤ 50 ms", limit=50.0, runs=runs,
    )  # fmt: skip
    result.rows.append(row)


def _balance(bench: session.Session, result: measure.Result, path: pathlib.Path, use: pathlib.Path | None) -> None:
    world = htools.read(path, use)
    runs: dict[str, list[float]] = {"ours": [], "hbal": []}
    for _ in range(min(bench.runs, 3)):
        begun = time.process_time()
        found = rebalance.rebalance(htools.read(path, use))
        runs["ours"].append(time.process_time() - begun)
    peer, moves, whole, spent = htools.balance(path, use, _SECONDS)
    runs["hbal"].append(spent)
    after = bench.place("placement") / "after.data"
    htools.write(path, found.moves, after)
    title = _title(world) + (", measured loads" if use else "")
    told = "hbal" if whole else f"hbal, stopped after {_SECONDS:g} s"
    peer_took = measure.median(runs["hbal"])
    result.rows += [
        measure.Row(
            figure="placement", what=f"plan, {title}", unit="s", ours=measure.median(runs["ours"]), peer=peer_took,
            peer_is=told, must=f"≤ 0.5 {measure.TIMES}", limit=peer_took / 2, runs=runs,
        ),
        measure.Row(
            figure="placement", what=f"score by hbal of our end, {title}", unit="", ours=htools.score(after, use),
            peer=peer, peer_is=told, must="no worse", limit=peer,
        ),
        measure.Row(
            figure="placement", what=f"moves, {title}", unit="moves", ours=len(found.moves), peer=moves, peer_is=told
        ),
    ]  # fmt: skip


def _large(bench: session.Session, result: measure.Result) -> None:
    """50 hosts with 2,000 VMs, which survive the death of one: shared storage, and local disks with replicas."""
    for kind in ("shared storage", "replicas"):
        world = _world(replicas=kind == "replicas")
        planned, placed = list[float](), list[float]()
        for _ in range(min(bench.runs, 3)):
            begun = time.process_time()
            found = rebalance.rebalance(world)
            planned.append(time.process_time() - begun)
        for _ in range(bench.runs):
            begun = time.process_time()
            placement.place(plan.PlanVM(name="new", memory=units.Size(8 * _GIB), vcpus=2), world)
            placed.append((time.process_time() - begun) * 1000)
        title = f"{_HOSTS} hosts, {_VMS} VMs, {kind}, one host may die"
        result.notes.append(f"{title}: score {found.before:.2f} to {found.after:.2f} by {len(found.moves)} moves")
        result.rows += [
            measure.Row(
                figure="placement", what=f"plan, {title}", unit="s", ours=measure.median(planned), must="≤ 30 s",
                limit=30.0, runs={"ours": planned},
            ),
            measure.Row(
                figure="placement", what=f"one placement, {title}", unit="ms", ours=measure.median(placed),
                must="≤ 50 ms", limit=50.0, runs={"ours": placed},
            ),
        ]  # fmt: skip


def _world(*, replicas: bool) -> plan.World:
    """Hosts of two sizes, some crowded and some nearly empty, 60 % full in all."""
    dice = random.Random(1)
    hosts = [
        plan.PlanHost(
            name=f"host{number}",
            memory=units.Size(dice.choice([512, 768]) * _GIB),
            cpus=64,
            cpu_overcommit=8.0,
            storages=("array",),
            disk=units.Size(40_000 * _GIB if replicas else 0),
        )
        for number in range(1, _HOSTS + 1)
    ]
    left = {host.name: int(host.memory * 0.6) for host in hosts}
    crowded = {host.name: dice.uniform(0.2, 1.8) for host in hosts}
    vms = []
    for number in range(1, _VMS + 1):
        size = dice.choices([2, 4, 8, 16, 32], [37, 31, 19, 10, 3])[0]
        fitting = [name for name, free in left.items() if free >= size * _GIB] or list(left)
        host = dice.choices(fitting, [crowded[name] for name in fitting])[0]
        left[host] -= size * _GIB
        vm = plan.PlanVM(
            name=f"vm{number}",
            memory=units.Size(size * _GIB),
            vcpus=max(1, min(8, size // 2)),
            host=host,
            storages=() if replicas else ("array",),
            disk=units.Size(size * 10 * _GIB if replicas else 0),
            replica=dice.choice([name for name in left if name != host]) if replicas else None,
            load=plan.Load(cpu=round(dice.uniform(0.05, 2), 2)),
        )
        vms.append(vm)
    return plan.World(survive=1, hosts=tuple(hosts), vms=tuple(vms))


def _title(world: plan.World) -> str:
    kind = "replicas" if any(vm.replica for vm in world.vms) else "shared storage"
    return f"{len(world.hosts)} hosts, {len(world.vms)} VMs, {kind}"


def _size(path: pathlib.Path) -> int:
    return path.stat().st_size
