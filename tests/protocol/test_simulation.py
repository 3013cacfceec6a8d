"""Simulated clusters in trouble: never twice, nothing lost, and everything runs in the end. And each rule broken once.

A world that fails is named by its seed and tells its story; `World(seed, only=…).run()` plays it again, step by step.
"""

from __future__ import annotations

import os
import random

import pytest

from bocage.protocol import records
from tests.protocol import ground, mutants, pair, world

EVERY = bool(os.environ.get("BOCAGE_TEST_EVERY"))  # the soak
SEED = int(os.environ.get("BOCAGE_TEST_SEED") or random.SystemRandom().randrange(1 << 31))
FEW, MANY = 120, 20_000 if EVERY else 1000  # worlds
BLOCKS = 8  # so that a failure says how far it came
PAIRS = 20_000 if EVERY else 1000
MOST = 1500  # worlds in which a broken rule must be found out


def play(first: int, worlds: int) -> None:
    """Every third world is a calm one, with one kind of trouble."""
    for number in range(first, first + worlds):
        seed = SEED * 100_000 + number
        only = (list(world.TROUBLES)[number % len(world.TROUBLES)],) if number % 3 == 0 else ()
        try:
            world.World(seed, only=only).run()
        except ground.Violation as violation:
            raise AssertionError(f"World({seed}, only={only}):\n{violation}") from None


def test_nothing_runs_twice_nothing_is_lost_and_all_runs_in_the_end() -> None:
    play(0, FEW)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(BLOCKS))
def test_nor_in_thousands_of_worlds(block: int) -> None:
    play(FEW + block * MANY // BLOCKS, MANY // BLOCKS)


def test_a_copy_that_is_in_sync_has_all_that_was_acknowledged() -> None:
    taken_over = 0
    for number in range(PAIRS):
        try:
            taken_over += pair.Pair(SEED * 1000 + number).run()
        except ground.Violation as violation:
            raise AssertionError(f"seed {SEED * 1000 + number}:\n{violation}") from None
    assert taken_over > PAIRS // 4  # else there was nothing to lose


@pytest.mark.slow
@pytest.mark.parametrize("name", mutants.MUTANTS)
def test_a_broken_rule_is_found_out(name: str) -> None:
    assert any(mutants.MUTANTS[name].found(1000 + number) for number in range(MOST)), "nobody noticed"


@pytest.mark.parametrize("name", pair.MUTANTS)
def test_a_broken_rule_of_replicas_is_found_out(name: str) -> None:
    for number in range(3000):
        try:
            pair.Pair(number, pair.MUTANTS[name]()).run()
        except ground.Violation:
            return
    pytest.fail(f"not found out: {name}")


def test_the_same_seed_gives_the_same_world() -> None:
    first, second = world.World(7), world.World(7)
    first.run()
    second.run()
    assert first.time.story == second.time.story
    assert first.time.steps == second.time.steps > 1000


def test_there_is_trouble_in_a_world_and_vms_change_hands_in_it() -> None:
    """A world in which nothing happened would prove nothing."""
    raised = moved = restored = 0
    for seed in range(12):
        one = world.World(seed)
        one.run()
        raised += sum("raises the epoch" in line for line in one.time.story)
        moved += sum("migrates to" in line for line in one.time.story)
        restored += sum("restored" in line for line in one.time.story)
        owners = [entry.record for key, entry in one.store.entries.items() if key.startswith("owner/")]
        assert all(isinstance(owner, records.Owner) and owner.host for owner in owners)
    assert raised >= 12
    assert moved >= 6
    assert restored
