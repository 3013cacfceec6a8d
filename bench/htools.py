"""Clusters as text files of Ganeti's htools(1): read as our worlds, written again, and scored by `hbal` itself."""

from __future__ import annotations

import json
import math
import pathlib
import re
import resource
import subprocess
from collections.abc import Iterable, Mapping
from typing import Any

from bocage.model import plan, units

_MIB = 1 << 20
_SPINDLES = 32  # what one of Ganeti's hosts is taken to serve
GROUP = "11111111-1111-1111-1111-111111111111"
_HAIL = "/usr/lib/ganeti/3.0/usr/bin/htools"
SIZES = {
    "std": (4096, 2, 40960, 1, 1, 1),
    "min": (128, 1, 1024, 1, 1, 1),
    "max": (65536, 64, 1048576, 16, 8, 64),
}
TEMPLATES = ["drbd", "ext"]
VCPU_RATIO, SPINDLE_RATIO = 8.0, 1000.0


def read(path: pathlib.Path, use: pathlib.Path | None = None) -> plan.World:
    """The world of a file, with what its VMs use."""
    _, nodes, instances = _sections(path)[:3]
    loads = {line.split()[0]: list(map(float, line.split()[1:])) for line in _lines(use)} if use else {}
    vms = [_vm(line, loads) for line in instances]
    replicated = any(vm.replica for vm in vms)
    taken: dict[str, int] = {}
    for vm in vms:
        for host in (vm.host, vm.replica):
            taken[host or ""] = taken.get(host or "", 0) + vm.disk
    hosts = [_host(line, taken if replicated else {}) for line in nodes]
    # Ganeti spreads spindles, too: as many as disks are served, of which a node has 32
    weights = plan.Weights(disk_load=1 + 1 / _SPINDLES if replicated else 1)
    return plan.World(weights=weights, hosts=tuple(hosts), vms=tuple(vms))


def write(origin: pathlib.Path, moves: Iterable[plan.Move], path: pathlib.Path) -> None:
    """The cluster of `origin` as it is when these moves are done."""
    moved: dict[str, plan.Move] = {move.vm: move for move in moves}
    sections = _sections(origin)
    free: dict[str, list[int]] = {}
    instances = []
    for line in sections[2]:
        fields = line.split("|")
        was, (memory, disk) = (fields[6], fields[7]), map(int, fields[1:3])
        if move := moved.get(fields[0]):
            fields[6], fields[7] = move.to, move.replica_to or ""
        disk = disk if fields[8] == "drbd" else 0
        for (host, copy), sign in ((was, 1), ((fields[6], fields[7]), -1)):
            free.setdefault(host, [0, 0])[0] += sign * memory
            free[host][1] += sign * disk
            free.setdefault(copy, [0, 0])[1] += sign * disk
        instances.append("|".join(fields))
    nodes = []
    for line in sections[1]:
        fields = line.split("|")
        memory, disk = free.get(fields[0], [0, 0])
        fields[3], fields[5] = str(int(fields[3]) + memory), str(int(fields[5]) + disk)
        nodes.append("|".join(fields))
    path.write_text("\n\n".join("\n".join(part) for part in (sections[0], nodes, instances, *sections[3:])) + "\n")


def score(path: pathlib.Path, use: pathlib.Path | None = None) -> float:
    """The score that `hbal` prints for a cluster."""
    return float(_scores(run(path, use, "-l", "0", "-v", "-v"))[0])


def balance(path: pathlib.Path, use: pathlib.Path | None, within: float) -> tuple[float, int, bool, float]:
    """What `hbal` makes of it: score and moves at its end, or when the time was up; whether it ended; CPU seconds."""
    done, spent = _timed(_command(path, use, "-v"), within)
    steps = re.findall(r"^ *\d+\. .*? ([0-9]+\.[0-9]+) a=", done.stdout, re.MULTILINE)
    return float(steps[-1]) if steps else score(path, use), len(steps), done.returncode == 0, spent


def new_vm(*, replicated: bool) -> plan.PlanVM:
    """The VM that a place is looked for."""
    return plan.PlanVM(
        name="new1",
        memory=_size("4096"),
        vcpus=2,
        disk=_size("40960" if replicated else "0"),
        replicated=replicated,
        load=plan.Load(cpu=1, memory=1, disk=1, net=1),
    )


def request(*, replicated: bool) -> dict[str, Any]:
    """The same as hail(1) reads it; the cluster comes from a file beside."""
    names = ("memory-size", "cpu-count", "disk-size", "disk-count", "nic-count", "spindle-use")
    std, least, most = (dict(zip(names, SIZES[kind], strict=True)) for kind in ("std", "min", "max"))
    policy = {
        "std": std,
        "minmax": [{"min": least, "max": most}],
        "disk-templates": TEMPLATES,
        "vcpu-ratio": VCPU_RATIO,
        "spindle-ratio": SPINDLE_RATIO,
    }
    group = {"name": "default", "alloc_policy": "preferred", "ipolicy": policy, "tags": [], "networks": []}
    asked = {
        "type": "allocate",
        "name": "new1",
        "memory": 4096,
        "disks": [{"size": 40960, "mode": "w", "spindles": 1}],
        "disk_space_total": 40960,
        "vcpus": 2,
        "disk_template": "drbd" if replicated else "ext",
        "required_nodes": 2 if replicated else 1,
        "nics": [{"ip": None, "mac": "aa:00:00:00:00:01", "bridge": "b"}],
        "tags": [],
        "hypervisor": "kvm",
        "os": "none",
        "spindle_use": 1,
        "group_name": "default",
    }
    return {
        "version": 2,
        "cluster_name": "cluster",
        "enabled_hypervisors": ["kvm"],
        "ipolicy": policy,
        "cluster_tags": [],
        "nodegroups": {GROUP: group},
        "nodes": {},
        "instances": {},
        "request": asked,
    }


def allocate(path: pathlib.Path, asked: pathlib.Path, *, within: float) -> tuple[float, str]:
    """The CPU seconds that `hail` takes for a request, and what it says."""
    done, spent = _timed([_HAIL, "-t", str(path), str(asked)], within, HTOOLS="hail")
    try:
        return spent, str(json.loads(done.stdout)["info"])
    except ValueError:
        return spent, done.stderr.strip() or f"no answer within {within:g} s"


def _timed(command: list[str], within: float, **environment: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """Run it for so many seconds of a CPU at most; what it said, and what it took of them."""
    before = _children()
    done = subprocess.run(
        ["prlimit", f"--cpu={math.ceil(within)}", *command],
        env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return done, _children() - before


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(path: pathlib.Path, use: pathlib.Path | None, *options: str) -> str:
    """`hbal` on a file."""
    return subprocess.run(_command(path, use, *options), capture_output=True, text=True, check=True).stdout


def _command(path: pathlib.Path, use: pathlib.Path | None, *options: str) -> list[str]:
    return ["hbal", "-t", str(path), *(["-U", str(use)] if use else []), *options]


def _scores(text: str) -> list[str]:
    return re.findall(r"coefficients: +overall ([0-9.]+)", text)


def _sections(path: pathlib.Path) -> list[list[str]]:
    """Separated by empty lines; an empty one is an empty line with another behind it."""
    sections: list[list[str]] = [[]]
    lines = path.read_text().split("\n")
    for line in lines[:-1] if not lines[-1] else lines:
        if line:
            sections[-1].append(line)
        else:
            sections.append([])
    return sections


def _lines(path: pathlib.Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line.strip()]


def _host(line: str, taken: Mapping[str, int]) -> plan.PlanHost:
    name, memory, own, _, disk, disk_left, cpus, state, *_, cpus_own, _ = line.split("|")
    local = bool(taken)
    return plan.PlanHost(
        name=name,
        state="draining" if state == "Y" else "ready",
        memory=_size(memory),
        memory_own=_size(own),
        cpus=int(cpus),
        cpus_own=int(cpus_own),
        cpu_overcommit=VCPU_RATIO,
        disk=_size(disk) if local else _size("0"),
        disk_own=units.Size(_size(disk) - _size(disk_left) - taken.get(name, 0)) if local else _size("0"),
    )


def _vm(line: str, loads: Mapping[str, list[float]]) -> plan.PlanVM:
    name, memory, disk, vcpus, _, _, host, replica, kind = line.split("|")[:9]
    cpu, of_memory, of_disk, net = loads.get(name, [1.0] * 4)
    return plan.PlanVM(
        name=name,
        memory=_size(memory),
        vcpus=int(vcpus),
        disk=_size(disk) if kind == "drbd" else _size("0"),
        load=plan.Load(cpu=cpu, memory=of_memory, disk=of_disk, net=net),
        host=host,
        replica=replica or None,
    )


def _size(mebibytes: str) -> units.Size:
    return units.Size(int(mebibytes) * _MIB)
