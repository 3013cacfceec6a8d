"""Small worlds for tests of placement, and a plain way to ask what holds in them, which shares no code with ours."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as some

from bocage.model import plan
from bocage.model.units import Size

GiB = 1 << 30
Places = Mapping[str, tuple[str | None, str | None]]  # host and replica's host by VM


def host(name: str, memory: int = 8, **fields: Any) -> plan.PlanHost:
    fields.setdefault("storages", ("array",))
    return plan.PlanHost(name=name, memory=Size(memory * GiB), cpus=fields.pop("cpus", 8), **fields)


def vm(name: str, memory: int = 1, at: str | None = None, **fields: Any) -> plan.PlanVM:
    fields.setdefault("storages", ("array",))
    return plan.PlanVM(name=name, memory=Size(memory * GiB), host=at, **fields)


def world(*parts: plan.PlanHost | plan.PlanVM, **fields: Any) -> plan.World:
    hosts = tuple(part for part in parts if isinstance(part, plan.PlanHost))
    vms = tuple(part for part in parts if isinstance(part, plan.PlanVM))
    return plan.World(hosts=hosts, vms=vms, **fields)


def places(of: plan.World) -> dict[str, tuple[str | None, str | None]]:
    return {one.key: (one.host, one.replica) for one in of.vms}


def moved(of: plan.World, where: Places) -> plan.World:
    """The same with its VMs elsewhere."""
    vms = [one.model_copy(update=dict(zip(("host", "replica"), where[one.key], strict=True))) for one in of.vms]
    return of.model_copy(update={"vms": tuple(vms)})


def may_stand(one: plan.PlanVM, there: plan.PlanHost) -> bool:
    """Whether a host by itself may have a VM."""
    return there.state == "ready" and set(one.storages) <= set(there.storages) and set(one.host_tags) <= set(there.tags)


def room(of: plan.World, there: plan.PlanHost, extra: tuple[plan.PlanVM, ...] = ()) -> bool:
    """Whether what stands on a host, and some more, fits there."""
    running = [*(one for one in of.vms if one.host == there.name and one.running), *extra]
    memory = int(there.memory) - int(there.memory_own)
    vcpus = sum(one.vcpus for one in running)
    return (
        sum(one.memory for one in running) <= memory
        and (there.cpu_overcommit is None or vcpus <= there.cpus * there.cpu_overcommit)
        and sum(one.cpus_reserved for one in running) <= there.cpus
    )


def groups_broken(of: plan.World) -> set[tuple[str, str, str]]:
    """Pairs of VMs that stand together and must not, or must and do not."""
    found = set()
    for one, other in itertools.combinations(of.vms, 2):
        if one.host and other.host:
            if one.host == other.host and set(one.apart) & set(other.apart):
                found.add(("apart", one.key, other.key))
            if one.host != other.host and set(one.together) & set(other.together):
                found.add(("together", one.key, other.key))
    return found


def survives(of: plan.World, failed: tuple[str, ...]) -> bool:
    """Whether all that could run again if hosts died has room, by trying every way there is."""
    dead = [one for one in of.vms if one.host in failed and one.running]
    alive = [one for one in of.hosts if one.name not in failed]
    options = []
    for one in dead:
        could = [there for there in alive if may_stand(one, there)]
        if one.replica is not None:
            could = [there for there in alive if there.name == one.replica and there.state == "ready"]
        if could:
            options.append([(one, there.name) for there in could])
    rest = [one for one in of.vms if one.host not in failed]
    for choice in itertools.product(*options):
        chosen = [one.model_copy(update={"host": there, "replica": None}) for one, there in choice]
        then = of.model_copy(update={"vms": (*rest, *chosen)})
        new = {one.key for one in chosen}
        broken = any("apart" in pair and new & set(pair) for pair in groups_broken(then))
        if (
            all(room(then, there) for there in alive if any(one.host == there.name for one in chosen))
            and not broken
            and _gathered(chosen, rest)
        ):
            return True
    return not options


def _gathered(new: list[plan.PlanVM], rest: list[plan.PlanVM]) -> bool:
    """Whether VMs that start anew are with those of their groups that live, or with each other when none does."""
    for group in {group for one in new for group in one.together}:
        living = {one.host for one in rest if group in one.together and one.host}
        hosts = {one.host for one in new if group in one.together}
        if not (hosts <= living if living else len(hosts) == 1):
            return False
    return True


def survived(of: plan.World) -> bool:
    alive = [one.name for one in of.hosts if one.state != "silent"]
    return all(survives(of, failed) for failed in itertools.combinations(alive, min(of.survive, len(alive))))


def reserve(of: plan.World, there: plan.PlanHost) -> int:
    """Bytes that the replicas on a host would start in."""
    by_host: dict[str, int] = {}
    for one in of.vms:
        if one.replica == there.name and one.running and one.host:
            by_host[one.host] = by_host.get(one.host, 0) + one.memory
    return max(by_host.values(), default=0)


def lack(of: plan.World, there: plan.PlanHost) -> int:
    """Bytes that they would lack."""
    used = sum(one.memory for one in of.vms if one.host == there.name and one.running)
    return max(int(there.memory_own) + used + reserve(of, there) - there.memory, 0)


def unready(of: plan.World) -> int:
    """The same of all hosts."""
    return sum(lack(of, there) for there in of.hosts)


def score(of: plan.World) -> float:
    """The score, from its definition."""
    ready = [one for one in of.hosts if one.state == "ready"]
    weights, spread = of.weights, lambda values: statistics.pstdev(values) if values else 0.0
    total = 0.0
    by_primary = {there.name: [one for one in of.vms if one.host == there.name] for there in of.hosts}
    by_copy = {there.name: [one for one in of.vms if one.replica == there.name] for there in of.hosts}

    def running(there: plan.PlanHost) -> list[plan.PlanVM]:
        return [one for one in by_primary[there.name] if one.running]

    def used(there: plan.PlanHost) -> int:
        return int(there.memory_own) + sum(one.memory for one in running(there))

    total += weights.memory * spread([used(there) / there.memory for there in ready])
    total += weights.vcpus * spread([sum(one.vcpus for one in running(there)) / there.cpus for there in ready])
    for part, weight in (("cpu", weights.cpu_load), ("memory", weights.memory_load), ("net", weights.net_load)):
        loads = [sum(getattr(one.load, part) for one in by_primary[there.name]) / there.power for there in ready]
        total += weight * spread(loads)
    disks = [
        sum(one.load.disk for one in (*by_primary[there.name], *by_copy[there.name])) / there.power for there in ready
    ]
    total += weights.disk_load * spread(disks)
    reserved = {there.name: reserve(of, there) for there in of.hosts}
    for there in of.hosts:
        if lack(of, there) > 0 and any(one.replica for one in of.vms):
            total += weights.unready * (len(by_primary[there.name]) + len(by_copy[there.name]))
    shares = [reserved[there.name] / there.memory for there in ready]
    total += weights.reserved * spread(shares) + weights.reserved_sum * sum(shares)
    named = {there.name: there for there in of.hosts}
    broken = groups_broken(of)
    for one in of.vms:
        if one.host and named[one.host].state != "silent":
            lonely = any("together" in pair and one.key in pair for pair in broken) and not any(
                set(one.together) & set(other.together) and other.host == one.host
                for other in of.vms
                if other.key != one.key
            )
            close = any("apart" in pair and one.key in pair for pair in broken)
            total += weights.misplaced * (not may_stand(one, named[one.host]) or lonely or close)
    return total


_HOSTS = ("host1", "host2", "host3", "host4")


@some.composite
def worlds(draw: some.DrawFn, *, survive: some.SearchStrategy[int] | None = None, most: int = 8) -> plan.World:
    """Up to four hosts with VMs that are within what their hosts have, but may break every other wish."""
    names = _HOSTS[: draw(some.integers(1, 4))]
    hosts = [
        host(
            name,
            draw(some.integers(4, 12)),
            cpus=draw(some.integers(2, 8)),
            cpu_overcommit=draw(some.sampled_from([None, 1.0, 4.0])),
            state=draw(some.sampled_from(["ready"] * 6 + ["draining", "silent"])),
            storages=draw(some.sampled_from([("array",)] * 4 + [("array", "fast"), ("fast",)])),
            tags=draw(some.sampled_from([(), ("ssd",)])),
            power=draw(some.sampled_from([1.0, 2.0])),
        )
        for name in names
    ]
    vms: list[plan.PlanVM] = []
    for number in range(draw(some.integers(0, most))):
        at = draw(some.none() | some.sampled_from(names))
        copies = [None, *(name for name in names if name != at)] if at else [None]
        one = vm(
            f"vm{number}",
            draw(some.integers(1, 4)),
            at,
            vcpus=draw(some.integers(1, 2)),
            running=draw(some.sampled_from([True, True, True, False])),
            cpus_reserved=draw(some.sampled_from([0.0, 0.0, 0.5])),
            storages=draw(some.sampled_from([("array",), ("array",), (), ("fast",)])),
            host_tags=draw(some.sampled_from([(), (), (), ("ssd",)])),
            apart=draw(some.sampled_from([(), (), ("a",), ("b",)])),
            together=draw(some.sampled_from([(), (), (), (), ("t",)])),
            priority=draw(some.integers(1, 3)),
            replica=draw(some.sampled_from(copies)),
            load=plan.Load(cpu=draw(some.sampled_from([0.0, 0.5, 1.0])), disk=draw(some.sampled_from([0.0, 1.0]))),
        )
        whole = plan.World(hosts=tuple(hosts), vms=(*vms, one))
        if all(room(whole, there) for there in hosts):
            vms.append(one)
    levels = survive if survive is not None else some.integers(0, 2)
    return plan.World(hosts=tuple(hosts), vms=tuple(vms), survive=draw(levels))


@some.composite
def tight(draw: some.DrawFn) -> plan.World:
    """Few hosts that are nearly as full as survives the death of one, and badly balanced."""
    hosts = [host(f"host{number}", draw(some.integers(8, 12))) for number in range(1, draw(some.integers(3, 4)) + 1)]
    vms: list[plan.PlanVM] = []
    for number in range(draw(some.integers(3, 8))):
        at = draw(some.sampled_from([one.name for one in hosts[:2]] + [one.name for one in hosts]))
        one = vm(f"vm{number}", draw(some.sampled_from([1, 1, 2, 3, 5, 6])), at, load=plan.Load(cpu=1.0))
        one = one.model_copy(update={"apart": draw(some.sampled_from([(), (), (), ("a",)]))})
        of = plan.World(hosts=tuple(hosts), vms=(*vms, one), survive=1)
        if all(room(of, there) for there in hosts) and survived(of):
            vms.append(one)
    return plan.World(hosts=tuple(hosts), vms=tuple(vms), survive=1)
