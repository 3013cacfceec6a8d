"""Clusters for the scheduler, made up: unequal nodes, ten VMs to each, the first nodes crowded."""

from __future__ import annotations

import pathlib
import random
from collections.abc import Iterator

from bench import htools

_OWN = 4096  # MiB of a node that are its own
_KEPT = 0.1  # of a node's memory that stays free
_SKEW = 1.6
_SIZES = ((2, 1), (4, 2), (8, 4), (16, 8), (32, 8))  # GiB, vCPUs
_SHARES = (35, 30, 20, 12, 3)
KINDS = ((10, False), (40, False), (10, True), (40, True))  # nodes, and whether each VM has a replica


def made(at: pathlib.Path) -> Iterator[pathlib.Path]:
    """Their files, written below a directory."""
    for nodes, replicated in KINDS:
        path = at / f"{'replicas' if replicated else 'shared'}-{nodes}x{nodes * 10}.data"
        path.write_text(text(nodes, replicated=replicated))
        yield path


def text(count: int, *, replicated: bool, seed: int = 1) -> str:
    """One of them, as htools(1) reads it."""
    dice = random.Random(seed)
    names = [f"node{number:03}" for number in range(1, count + 1)]
    large = [number % 4 == 0 for number in range(count)]
    memory = [262_144 if one else 131_072 for one in large]
    disk = [8_000_000 if one else 4_000_000 for one in large]
    free, disk_free = [one - _OWN for one in memory], list(disk)
    vms = []
    for number in range(1, count * 10 + 1):
        gib, vcpus = dice.choices(_SIZES, _SHARES)[0]
        needs, size, copy = gib << 10, gib * 10_240, ""
        while True:
            node = int(count * dice.random() ** _SKEW)
            if free[node] - needs >= memory[node] * _KEPT:
                break
        free[node] -= needs
        if replicated:
            other = dice.choice([one for one in range(count) if one != node])
            copy = names[other]
            for where in (node, other):
                disk_free[where] -= size
        kind = "drbd" if replicated else "ext"
        vms.append(f"vm{number:04}|{needs}|{size}|{vcpus}|running|Y|{names[node]}|{copy}|{kind}||1|-")
    nodes = [
        f"{name}|{memory[index]}|{_OWN}|{free[index]}|{disk[index]}|{disk_free[index]}|{64 if large[index] else 32}"
        f"|{'M' if index == 0 else 'N'}|{htools.GROUP}|1||N|1|1|1.0"
        for index, name in enumerate(names)
    ]
    group = [f"default|{htools.GROUP}|preferred||"]
    policy = [f"|{_policy()}", f"default|{_policy()}"]
    return "\n\n".join("\n".join(section) for section in (group, nodes, vms, [], policy)) + "\n"


def _policy() -> str:
    std, least, most = (",".join(map(str, htools.SIZES[kind][:5])) for kind in ("std", "min", "max"))
    return f"{std}|{least};{most}|{','.join(htools.TEMPLATES)}|{htools.VCPU_RATIO}|{htools.SPINDLE_RATIO}"
