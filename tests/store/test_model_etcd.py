"""etcd against a plain dictionary for each revision: the rules of `test_model`, on a real member."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings, stateful

from bocage.store import contract
from bocage.store.etcd import engine, feed
from tests.store import conformance, members, test_model, trouble

T = TypeVar("T")

ROUNDS = 200 if os.environ.get("BOCAGE_TEST_EVERY") else 10


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
    max_examples=15, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck), database=None
)


class Troubled(Comparison):
    """The same on three members, which are killed and frozen one after the other."""

    voids: list[int]

    def __init__(self) -> None:
        super().__init__()
        self.voids.clear()  # those of another root

    def run(self, doing: Coroutine[Any, Any, T]) -> T:
        async def bounded() -> T:
            async with asyncio.timeout(120):
                return await doing

        return self.runner.run(bounded())

    def expected(self, wish: test_model.Wish) -> int | tuple[str, int, int]:
        while self.newest + 1 in self.voids:  # a revision in which nothing changed
            self.states.append(self.states[-1])
        return super().expected(wish)


@pytest.mark.slow
@pytest.mark.fault
def test_three_members_are_one_store_while_they_are_killed_and_frozen(dice, monkeypatch, voids):
    compare_through(3, dice, monkeypatch, voids, (trouble.killed, trouble.frozen))


@pytest.mark.slow
@pytest.mark.fault
def test_three_members_are_one_store_while_they_are_cut_off(dice, monkeypatch, voids, seats):
    compare_through(seats, dice, monkeypatch, voids, (trouble.cut, trouble.muffled, trouble.unplugged))


def compare_through(
    at: int | Sequence[members.Seat],
    dice: random.Random,
    monkeypatch: pytest.MonkeyPatch,
    voids: list[int],
    deeds: Sequence[trouble.Deed],
) -> None:
    """Rounds of the comparison while such things are done to members."""
    monkeypatch.setattr(engine, "PATIENCE", 60.0)  # a machine under load: here each transaction must come to an end
    with members.cluster(at, members.QUICK) as made, trouble.making(made, dice, deeds) as troubles:
        Troubled.cluster, Troubled.voids = made, voids
        stateful.run_state_machine_as_test(
            Troubled, settings=settings(TestComparison.settings, max_examples=ROUNDS, phases=[Phase.generate])
        )
        print(", ".join(troubles.log))
    assert troubles.log
