"""The order of starts: whoever waits comes after whom it waits for, whatever their orders."""

import uuid

from hypothesis import given
from hypothesis import strategies as some

from bocage.model import vm
from bocage.planner import order
from tests.planner import things

TRASHED = {"deleted": "2026-01-31T03:00:00Z"}
NAMES = [f"vm{n}" for n in range(7)]


def leaders(one: vm.VM) -> list[str]:
    return [name for name in NAMES if uid(name) in one.spec.autostart.after]


def machine(name: str, first: int = 100, after: tuple[str, ...] = (), **fields: object) -> vm.VM:
    autostart = {"order": first, "after": [uid(one) for one in after], **fields}
    return things.machine(uid=uid(name), name=name, autostart=autostart)


def uid(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, name))


def named(machines: list[vm.VM]) -> list[list[str]]:
    return [[one.name for one in stage] for stage in order.stages(machines)]


def test_those_that_others_wait_for_come_first_and_are_as_early_as_these():
    web, mail = machine("web", 20, ("db",)), machine("mail", 30)
    assert named([web, mail, machine("db", 100)]) == [["db"], ["web"], ["mail"]]
    assert named([machine("web", after=("gone",)), machine("db", 200)]) == [["web"], ["db"]]
    assert named([machine("b", 10), machine("a", 10), machine("c", 5)]) == [["c"], ["a", "b"]]


@given(some.data())
def test_every_vm_has_one_stage_after_all_that_it_waits_for(data):
    machines = []
    for number, name in enumerate(NAMES):  # those that it waits for stand before it, so there is no ring
        after = tuple(sorted(data.draw(some.sets(some.sampled_from(NAMES[:number]))))) if number else ()
        machines.append(machine(name, data.draw(some.integers(0, 3)), after))
    found = order.stages(data.draw(some.permutations(machines)))
    at = {one.name: number for number, stage in enumerate(found) for one in stage}
    assert sorted(at) == NAMES
    assert sum(map(len, found)) == len(NAMES)
    for one in machines:
        assert all(at[leader] < at[one.name] for leader in leaders(one))


@given(some.data())
def test_a_ring_ends_too_and_is_found(data):
    some_of_them = some.sets(some.sampled_from(NAMES)).map(sorted).map(tuple)
    others = {name: machine(name, data.draw(some.integers(0, 2)), data.draw(some_of_them)) for name in NAMES}
    assert sorted(one.name for stage in order.stages(others.values()) for one in stage) == NAMES
    by_uid = {one.uid: one for one in others.values()}
    for name, one in others.items():
        way = order.ring(one.uid, one.spec.autostart.after, by_uid)
        for step, following in zip([one.uid, *way], way, strict=False):
            assert following in by_uid[step].spec.autostart.after
        reached, left = set[str](), leaders(one)
        while left:
            if (at := left.pop()) not in reached:
                reached.add(at)
                left += leaders(others[at])
        assert bool(way) == (name in reached)


def test_who_is_waited_for():
    def leader(state: str, power: str = "running", *, answers: bool = False, until: object = "runs") -> vm.VM:
        status = vm.VMStatus(state=vm.State(state), answers=answers)
        return things.machine(uid=uid("db"), name="db", power=power, status=status, autostart={"answers": until})

    web = machine("web", after=("db", "gone"))

    def waits(one: vm.VM) -> bool:
        return order.awaited(web, {uid("db"): one}) == ["db"]

    assert waits(leader("stopped"))
    assert waits(leader("starting"))
    assert not waits(leader("running"))
    assert not waits(leader("stopped", "stopped"))
    assert not waits(leader("stopped").model_copy(update={"metadata": things.machine(metadata=TRASHED).metadata}))
    assert waits(leader("running", until="agent"))
    assert waits(leader("running", until=5432))
    assert not waits(leader("running", until=5432, answers=True))
