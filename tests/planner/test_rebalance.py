"""Plans of moves: each step is possible, nothing that held breaks, and the cluster is better for it."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as some

from bocage.model import plan
from bocage.planner import exchanges, moves, occupancy, patience, rebalance, survival
from tests.planner import worlds
from tests.planner.worlds import host, vm, world


def told(of: plan.World) -> list[tuple[str, str, str]]:
    return [(one.vm, one.origin, one.to) for one in rebalance.rebalance(of).moves]


def test_what_is_balanced_stays():
    assert told(world(host("host1"), host("host2"), vm("a", 2, "host1"), vm("b", 2, "host2"))) == []


def test_a_full_host_gives_to_an_empty_one():
    of = world(host("host1"), host("host2"), *(vm(f"vm{n}", 1, "host1") for n in range(6)))
    found = rebalance.rebalance(of)
    assert len(found.moves) == 3
    assert [share.vms for share in found.hosts_before] == [6, 0]
    assert [share.vms for share in found.hosts_after] == [3, 3]
    assert found.moves[0].because.type == "move-balances"
    assert found.complete


def test_the_bound_on_moves_holds_and_the_plan_says_that_more_would_gain():
    of = world(host("host1"), host("host2"), *(vm(f"vm{n}", 1, "host1") for n in range(6)))
    found = rebalance.rebalance(of, most=2)
    assert len(found.moves) == 2
    assert not found.complete


def test_a_draining_host_is_emptied_and_who_cannot_leave_is_named_with_what_every_host_says():
    of = world(
        host("host1", state="draining"),
        host("host2", tags=("ssd",)),
        host("host3"),
        vm("a", 1, "host1"),
        vm("pinned", 1, "host1", stays=True),
        vm("tagged", 1, "host1", host_tags=("nvme",)),
    )
    found = rebalance.rebalance(of)
    assert [one.vm for one in found.moves] == ["a"]
    assert found.moves[0].because.text == "it must not be on host1: host1 is draining"
    assert {one.vm: [reason.type for reason in one.reasons] for one in found.stuck} == {
        "pinned": ["host-takes-no-vms"],
        "tagged": ["host-takes-no-vms", "host-lacks-tag"],
    }
    tagged = next(one for one in found.stuck if one.vm == "tagged")
    assert [one.reasons[0].type for one in tagged.verdicts] == ["host-lacks-tag"] * 2


def test_those_that_stand_apart_are_parted_and_those_that_stand_together_are_not():
    of = world(
        host("host1"),
        host("host2"),
        vm("web1", 1, "host1", apart=("web",)),
        vm("web2", 1, "host1", apart=("web",)),
        vm("app", 1, "host2", together=("shop",)),
        vm("db", 1, "host2", together=("shop",)),
    )
    assert told(of) in ([("web1", "host1", "host2")], [("web2", "host1", "host2")])


def test_a_guest_that_sees_its_hosts_own_cpu_goes_where_that_is_the_same():
    board = plan.PlanBoard(cpu_model="host")
    of = world(
        host("host1", 8, cpu_kind="intel", state="draining"),
        host("host2", 64, cpu_kind="amd"),
        host("host3", 8, cpu_kind="intel"),
        vm("a", 1, "host1", hardware=board),
    )
    assert told(of) == [("a", "host1", "host3")]


def test_vms_change_places_where_no_single_move_helps():
    of = world(
        host("host1", 10, cpus=16),
        host("host2", 10, cpus=16),
        *(vm(f"large{n}", 3, "host1", vcpus=1, load=plan.Load(cpu=1.0)) for n in range(2)),
        *(vm(f"small{n}", 1, "host2", vcpus=1, load=plan.Load(cpu=1.0)) for n in range(2)),
    )
    found = rebalance.rebalance(of)
    assert [share.memory >> 30 for share in found.hosts_after] == [4, 4]
    assert len(found.moves) == 2
    assert {one.because.type for one in found.moves} == {"move-prepares", "move-balances"}


def test_a_replica_moves_where_it_could_start():
    of = world(
        host("host1", 16),
        host("host2", 4),
        host("host3", 16),
        *(vm(f"vm{n}", 2, "host1", replica="host2", storages=()) for n in range(4)),
    )
    found = rebalance.rebalance(of)
    assert found.before > 4
    assert found.after < 1
    assert any(one.replica_to == "host3" for one in found.moves)


def test_no_host_gets_more_reservations_than_it_has_cpus():
    busy = [vm(f"vm{n}", 1, "host1", cpus_reserved=1.5, load=plan.Load(cpu=1.0)) for n in range(4)]
    of = world(host("host1", cpus=8), host("host2", cpus=2), *busy)
    assert len(told(of)) == 1


def test_a_host_keeps_the_memory_that_its_replicas_would_start_in():
    copies = [vm(f"vm{n}", 3, "host1", replica="host2", storages=()) for n in range(2)]
    of = world(host("host1", 32), host("host2", 8), *copies, vm("a", 3, "host1"), vm("b", 3, "host1"))
    for one in rebalance.rebalance(of).moves:
        assert (one.vm, one.to) not in (("a", "host2"), ("b", "host2"))


def test_what_would_not_survive_is_named_with_its_reason():
    of = world(
        host("host1", 8),
        host("host2", 4),
        vm("big", 6, "host1"),
        vm("local", 1, "host2", storages=("here",)),
        vm("replicated", 1, "host2", replica="host1", storages=()),
        survive=1,
    )
    found = {one.vm: (one.hosts, one.reason.type) for one in rebalance.rebalance(of, most=0).unsurvived}
    assert found == {"big": (("host1",), "survive-no-room"), "local": (("host2",), "survive-unreached")}


def test_of_a_group_with_one_on_each_host_none_could_start_again():
    hosts = [host(f"host{n}") for n in (1, 2)]
    of = world(*hosts, *(vm(f"web{n}", 1, f"host{n}", apart=("web",)) for n in (1, 2)), survive=1)
    reasons = [one.reason for one in rebalance.rebalance(of).unsurvived]
    assert [one.type for one in reasons] == ["survive-kept-apart"] * 2
    assert "web" in reasons[0].text


def test_the_hole_that_a_large_vm_would_start_in_is_kept():
    small = [vm(f"small{n}", 1, "host2", load=plan.Load(cpu=1.0)) for n in range(4)]
    of = world(host("host1"), host("host2"), host("host3"), vm("big", 8, "host1"), *small)
    assert not worlds.survived(worlds.moved(of, _after(of)).model_copy(update={"survive": 1}))
    kept = of.model_copy(update={"survive": 1})
    assert worlds.survived(worlds.moved(kept, _after(kept)))


def _after(of: plan.World) -> worlds.Places:
    where = worlds.places(of)
    for move in rebalance.rebalance(of).moves:
        where[move.vm] = (move.to, move.replica_to)
    return where


@settings(max_examples=60, deadline=None)
@given(worlds.worlds())
def test_the_best_move_of_each_vm_is_worth_what_is_said(of):
    state = moves.State(occupancy.Occupancy(of))
    for number, one in enumerate(of.vms):
        if state.movable(number) and (step := state.best(number, float("inf"))):
            copy = None if step.replica == occupancy.NOWHERE else of.hosts[step.replica].name
            then = worlds.moved(of, {**worlds.places(of), one.key: (of.hosts[step.host].name, copy)})
            assert abs(worlds.score(then) - step.score) < 1e-6


@settings(max_examples=60, deadline=None)
@given(worlds.tight())
def test_who_survives_at_first_survives_after_every_step(of):
    where = worlds.places(of)
    for move in rebalance.rebalance(of).moves:
        where[move.vm] = (move.to, move.replica_to)
        assert worlds.survived(worlds.moved(of, where))


def test_the_score_is_the_one_that_hbal_prints():
    """Of three nodes, as in `hbal -t FILE -v -v`: see bench/htools.py."""
    weights = plan.Weights(disk_load=1 + 1 / 32)
    nodes = [(16384, 1024, 8), (8192, 512, 4), (8192, 512, 4)]
    hosts = [
        plan.PlanHost(
            name=f"node{n}", memory=f"{m}M", memory_own=f"{own}M", cpus=c, cpus_own=1, disk="102400M", cpu_overcommit=8
        )
        for n, (m, own, c) in enumerate(nodes, 1)
    ]
    sizes = [
        (4096, 10240, 4, 1, 2),
        (2048, 10240, 2, 1, 3),
        (2048, 5120, 1, 1, 2),
        (1024, 5120, 1, 2, 3),
        (512, 2048, 1, 3, 1),
    ]
    vms = [
        plan.PlanVM(
            name=f"vm{n}", memory=f"{m}M", disk=f"{d}M", vcpus=c, host=f"node{p}", replica=f"node{s}",
            load=plan.Load(cpu=1, memory=1, disk=1, net=1),
        )
        for n, (m, d, c, p, s) in enumerate(sizes, 1)
    ]  # fmt: skip
    of = plan.World(weights=weights, hosts=tuple(hosts), vms=tuple(vms))
    assert round(moves.State(occupancy.Occupancy(of)).score, 8) == 4.34400106  # hbal 3.0.2


def _breaks(before: plan.World, after: plan.World, name: str) -> bool:
    """Whether the VM that moved stands where it must not."""
    one = next(one for one in after.vms if one.key == name)
    there = next(host for host in after.hosts if host.name == one.host)
    was = next(one for one in before.vms if one.key == name)
    if one.host == was.host:
        return False
    if not worlds.may_stand(one, there) or not worlds.room(after, there):
        return True
    new = worlds.groups_broken(after) - worlds.groups_broken(before)
    lonely = bool(one.together) and not any(
        other.host == one.host for other in after.vms if other.key != name and set(other.together) & set(one.together)
    )
    mates = any(other.host for other in after.vms if other.key != name and set(other.together) & set(one.together))
    return any("apart" in pair and name in pair for pair in new) or (lonely and mates)


@settings(max_examples=80, deadline=None)
@given(worlds.worlds())
def test_every_step_is_possible_and_breaks_nothing_and_the_end_is_no_worse(of):
    found = rebalance.rebalance(of)
    assert rebalance.rebalance(of) == found
    assert found.after <= found.before
    now, score, survived = of, worlds.score(of), worlds.survived(of)
    assert abs(score - found.before) < 1e-6
    where = worlds.places(of)
    for move in found.moves:
        assert where[move.vm] == (move.origin, move.replica_from)
        assert move.to != move.replica_to
        where[move.vm] = (move.to, move.replica_to)
        then = worlds.moved(of, where)
        assert not _breaks(now, then, move.vm)
        assert all(worlds.lack(then, there) <= worlds.lack(now, there) for there in of.hosts)
        assert abs(worlds.score(then) - move.score) < 1e-6
        assert move.because.text
        now = then
    assert abs(worlds.score(now) - found.after) < 1e-6
    if survived:
        assert worlds.survived(now)
    assert survived == (not _short(of))
    silent = {one.name for one in of.hosts if one.state == "silent"}
    assert not any({move.origin, move.to, move.replica_to} & silent for move in found.moves)


@settings(max_examples=60, deadline=None)
@given(worlds.worlds(survive=some.just(1), most=6))
def test_that_a_cluster_survives_is_said_when_there_is_a_way_and_only_then(of):
    assert (not _short(of)) == worlds.survived(of)


@settings(max_examples=30, deadline=None)
@given(worlds.worlds(), some.integers(0, 3))
def test_no_plan_is_longer_than_its_bound(of, most):
    assert len(rebalance.rebalance(of, most=most).moves) <= most


def _short(of: plan.World) -> list[str]:
    proofs = survival.Survival(occupancy.Occupancy(of)).proofs
    return [of.vms[one].key for proof in proofs for one in proof.short]


@settings(max_examples=60, deadline=None)
@given(worlds.worlds())
def test_a_world_comes_back_from_its_text(of):
    assume(of.vms)
    assert plan.World.model_validate_json(of.model_dump_json(exclude_defaults=True)) == of


class Told(Exception):
    pass


def _after_looks(looks: int, *, told: bool = False) -> patience.Check:
    """A check that says so often that there is time, and then that there is none, or that it is to end."""
    left = iter(range(looks))

    def check() -> bool:
        late = next(left, None) is None
        if late and told:
            raise Told
        return late

    return check


@settings(max_examples=60, deadline=None)
@given(worlds.worlds(), some.integers(0, 400))
def test_what_was_found_in_time_is_a_plan_like_any_other(of, looks):
    try:
        found = rebalance.rebalance(of, check=_after_looks(looks))
    except patience.TookTooLong:
        assert of.survive
        return
    now, where = of, worlds.places(of)
    for move in found.moves:
        where[move.vm] = (move.to, move.replica_to)
        then = worlds.moved(of, where)
        assert not _breaks(now, then, move.vm)
        assert abs(worlds.score(then) - move.score) < 1e-6
        now = then
    assert abs(worlds.score(now) - found.after) < 1e-6
    assert found.unsurvived == rebalance.rebalance(now, most=0).unsurvived


def test_a_plan_whose_time_is_over_says_that_more_may_gain():
    of = world(host("host1"), host("host2"), *(vm(f"vm{n}", 1, "host1") for n in range(6)))
    found = rebalance.rebalance(of, check=_after_looks(10))
    assert not found.complete
    assert len(found.moves) < 3


def test_a_plan_can_be_ended_wherever_it_is():
    busy = [vm(f"vm{n}", 1 + n % 3, f"host{1 + n % 2}", load=plan.Load(cpu=n)) for n in range(8)]
    of = world(*(host(f"host{n}", 16) for n in (1, 2, 3)), *busy, vm("c", host_tags=("x",), at="host1"), survive=1)
    looks = 0

    def count() -> bool:
        nonlocal looks
        looks += 1
        return False

    rebalance.rebalance(of, check=count)
    assert looks > 50
    for number in range(looks):
        with pytest.raises(Told):
            rebalance.rebalance(of, check=_after_looks(number, told=True))


def test_no_part_of_a_plan_is_long_without_a_look():
    hosts = [host(f"host{n}", 64) for n in range(12)]
    of = world(*hosts, *(vm(f"vm{n}", 1, f"host{n % 6}") for n in range(60)), survive=2)
    left = iter(range(10_000))
    state = moves.State(occupancy.Occupancy(of), lambda: next(left) < 0)
    begun = next(left)
    assert begun >= 66  # pairs of hosts
    exchanges.pairs(state, 0.0)
    assert next(left) - begun > 66


def test_the_first_proofs_end_with_their_time_wherever_they_are():
    big = [vm(f"vm{n}", 5, f"host{n}") for n in range(3)]
    of = world(*(host(f"host{n}", 8) for n in range(3)), *big, survive=1)
    left = iter(range(10_000))
    survival.Survival(occupancy.Occupancy(of), lambda: next(left) < 0)
    looks = next(left)
    assert looks > len(of.hosts)
    for number in range(looks):
        with pytest.raises(patience.TookTooLong):
            survival.Survival(occupancy.Occupancy(of), _after_looks(number))
