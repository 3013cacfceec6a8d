"""Where a VM that nobody has is to go, as things change."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from bocage.model import ground as model
from bocage.store import resources
from tests.cluster import ground


@pytest.fixture
async def world() -> AsyncIterator[ground.World]:
    made = ground.World()
    await made.build(2)
    yield made
    await made.close()


async def test_a_host_that_was_chosen_is_not_asked_for_any_more_when_it_gets_no_vms_meanwhile(
    world: ground.World,
) -> None:
    leader = world.hosts[0]
    machine = await world.machine("box", leader, power="stopped")
    await leader.mirror_is_fresh()
    fit = [host.uid for host in world.hosts]
    chosen = leader.places.place(machine.uid, fit)
    assert chosen in fit
    await world.kept.change(model.Host, None, chosen, lambda one: resources.with_spec(one, drained=True))
    await leader.mirror_is_fresh()
    assert leader.places.place(machine.uid, fit) == chosen, "not decided anew each time"
    world.now += 1.1
    (other,) = set(fit) - {chosen}
    assert leader.places.place(machine.uid, fit) == other
    assert leader.places.place(machine.uid, fit) == other
