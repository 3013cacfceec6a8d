"""etcd against a plain dictionary for each revision: the rules of `test_model`, on a real member."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, settings, stateful

from bocage.store import contract
from bocage.store.etcd import engine, feed
from tests.store import conformance, members, test_model


class Comparison(test_model.Comparison):
    """A root of its own for each run, in the cluster that is there."""

    cluster: members.Cluster

    def __init__(self) -> None:
        super().__init__()
        self.root = members.new_root()

    async def opened(self) -> engine.EtcdStore:
        return await members.opened(self.cluster.access(), self.root)

    @stateful.initialize()
    def begin(self) -> None:  # etcd forgets what it is told to, and nothing by itself
        self.keep = 10_000
        self.run(members.found(self.cluster.access(), self.root))
        self.store = self.run(self.opened())

    async def following(self, watching: test_model.Watching) -> list[contract.Change] | None:
        """As with any engine, once the watch has been told of what there is: that takes its time over a network."""
        assert isinstance(watching.watch, feed.Watch)
        waiting = asyncio.ensure_future(anext(watching.watch))
        while not waiting.done() and watching.watch.position < self.newest:
            await asyncio.sleep(0.001)
        await conformance.turns()
        if waiting.done():
            return waiting.result()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        return None


@pytest.fixture(autouse=True)
def _cluster(etcd: members.Cluster) -> None:
    Comparison.cluster = etcd


TestComparison = Comparison.TestCase
TestComparison.settings = settings(
    max_examples=30, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck), database=None
)
