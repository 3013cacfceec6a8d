"""Proofs of who runs again when hosts die: each holds by itself, when it is first made and after every move."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from bocage.model import plan
from bocage.planner import moves, occupancy, proofs, survival
from tests.planner import worlds
from tests.planner.worlds import host, vm, world


def unsurvived(of: plan.World) -> dict[str, str]:
    return {one.vm: one.reason.type for one in survival.Survival(occupancy.Occupancy(of)).unsurvived()}


def holds(state: moves.State, proof: proofs.Proof) -> None:
    """Look at a proof without any of what made it."""
    held = state.held
    now = {one.key: (held.at[number], held.replica[number]) for number, one in enumerate(held.vms)}
    dead = {key for number, (key, (at, _)) in enumerate(now.items()) if at in proof.failed and held.vms[number].running}
    told = [[held.vms[one].key for one in kind] for kind in (proof.where, proof.lost, proof.short)]
    assert sorted(key for kind in told for key in kind) == sorted(dead)
    sums = [[0.0] * len(held.hosts) for _ in range(3)]
    for number, there in proof.where.items():
        one = held.vms[number]
        assert there not in proof.failed
        assert worlds.may_stand(one, held.hosts[there]) or held.replica[number] == there
        assert held.replica[number] in (occupancy.NOWHERE, there)
        for total, amount in zip(sums, (one.memory, one.vcpus, one.cpus_reserved), strict=True):
            total[there] += amount
    assert [proof.memory, proof.vcpus] == sums[:2]
    assert proof.cpus == pytest.approx(sums[2])
    places = {key: at for key, (at, _) in now.items() if at != occupancy.NOWHERE and at not in proof.failed}
    places |= {held.vms[number].key: there for number, there in proof.where.items()}
    then = worlds.moved(held.world, {key: (_name(held, places.get(key)), None) for key in now})
    assert all(worlds.room(then, held.hosts[there]) for there in proof.where.values())
    new = {held.vms[number].key for number in proof.where}
    assert not any("apart" in pair and new & set(pair) for pair in worlds.groups_broken(then))


def _name(held: occupancy.Occupancy, number: int | None) -> str | None:
    return None if number is None else held.hosts[number].name


@settings(max_examples=60, deadline=None)
@given(worlds.worlds(survive=some.integers(1, 2)), some.data())
def test_every_proof_holds_at_first_and_after_every_move(of, data):
    state = moves.State(occupancy.Occupancy(of))
    for proof in state.survival.proofs:
        holds(state, proof)
    for number in range(len(of.vms)):
        if state.movable(number):
            there = data.draw(some.integers(0, len(of.hosts) - 1))
            if step := state.step(number, there, state.held.replica[number]):
                state.do(step)
                for proof in state.survival.proofs:
                    holds(state, proof)


def test_two_replicas_on_one_host_need_room_for_both():
    of = world(
        host("host1"),
        host("host2", 5),
        *(vm(f"vm{n}", 3, "host1", replica="host2", storages=()) for n in range(2)),
        survive=1,
    )
    assert unsurvived(of) == {"vm1": "survive-no-room"}


def test_room_where_a_vm_may_not_be_is_none_for_it():
    full, roomy = host("host2", 2), host("host3", 64, storages=("other",))
    assert unsurvived(world(host("host1"), full, roomy, vm("a", 3, "host1"), survive=1)) == {"a": "survive-no-room"}


def test_what_does_not_fit_says_how_much_is_missing_and_the_last_in_order_is_left_out():
    early, late = vm("early", 3, "host1", priority=9_990), vm("late", 3, "host1", priority=9_900)
    of = world(host("host1"), host("host2", 5), late, early, survive=1)
    (one,) = survival.Survival(occupancy.Occupancy(of)).unsurvived()
    assert (one.vm, one.hosts) == ("late", ("host1",))
    assert one.reason.text == "it needs 3G, and no host that may have it has that left then: 1G are missing"


def test_a_start_breaks_what_it_takes_the_room_of_and_nothing_else():
    off = vm("off", 3, "host2", running=False)
    of = world(host("host1", 16), host("host2", 8), vm("a", 6, "host1"), off, survive=1)
    (broken,) = survival.broken_by_start(of, "off")
    assert (broken.vm, broken.hosts, broken.reason.type) == ("a", ("host1",), "survive-no-room")
    broken_before = world(host("host1", 16), host("host2", 4), vm("a", 6, "host1"), off, survive=1)
    assert survival.broken_by_start(broken_before, "off") == []


@pytest.mark.parametrize(
    ("rooms", "sizes"),
    [
        ((6, 9), (6, 4, 4)),  # the largest goes where least is left
        ((6, 10), (5, 5, 4, 2)),  # neither where most is left nor where least is
    ],
)
def test_a_way_is_found_where_the_usual_ones_lead_nowhere(rooms, sizes):
    of = world(
        host("host1", 64, cpus=16),
        *(host(f"host{n}", room, cpus=16) for n, room in enumerate(rooms, 2)),
        *(vm(f"vm{n}", size, "host1") for n, size in enumerate(sizes)),
        survive=1,
    )
    assert unsurvived(of) == {}


def test_the_search_for_a_way_ends_where_there_is_none():
    looks = 0

    def check() -> bool:
        nonlocal looks
        looks += 1
        return False

    hosts = [host("host0", 64, cpus=16), *(host(f"host{n}", 4) for n in range(1, 10))]
    of = world(*hosts, *(vm(f"vm{n}", 3, "host0") for n in range(10)), survive=1)
    proof = proofs.Prover(occupancy.Occupancy(of), check).prove((0,))
    assert len(proof.short) == 1
    assert looks < 10_000  # of 10! ways


def test_a_vm_that_left_where_it_must_not_be_is_not_to_start_there_again():
    tagged = host("host1", tags=("ssd",))
    of = world(tagged, host("host2"), host("host3"), vm("a", 1, "host2", host_tags=("ssd",)), survive=1)
    state = moves.State(occupancy.Occupancy(of))
    step = state.step(0, 0, state.held.replica[0])
    assert step
    state.do(step)
    for proof in state.survival.proofs:
        holds(state, proof)
