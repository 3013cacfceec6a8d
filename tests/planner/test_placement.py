from __future__ import annotations

from bocage.model import base
from bocage.planner import placement
from tests.planner import things


def refusals(world: placement.World) -> list[str]:
    decided = placement.place(things.machine(), world)
    assert isinstance(decided, list)
    return [refusal.type for refusal in decided]


def test_a_vm_lives_where_its_storage_is_reached_and_each_refusal_says_why():
    here, there = things.host(), things.storage()
    world = placement.World(hosts=(here,), storages={there.uid: there})
    assert placement.place(things.machine(), world) == placement.Placement(here.uid)
    assert refusals(placement.World(hosts=(here,), storages={})) == ["storage-unknown"]
    elsewhere = things.storage(host=base.new_uid())
    world = placement.World(hosts=(here,), storages={elsewhere.uid: elsewhere})
    assert refusals(world) == ["host-lacks-storage"]
