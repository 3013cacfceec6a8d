"""A real guard over real control groups: what it lets run, and until when."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest

from bocage.node import spoken
from bocage.protocol import records
from tests.node.lives import ground

pytestmark = pytest.mark.fault

LIFE = records.Life(ground.HOST, "first", 3, 40)
FENCES = records.Bounds(self_fence=True, guard=1.0)
OPEN = records.Bounds(guard=1.0)


@pytest.fixture
def guard() -> Iterator[ground.Guard]:
    with ground.guard() as made:
        yield made


@contextlib.asynccontextmanager
async def running(guard: ground.Guard, bounds: records.Bounds, vm: str = "one") -> AsyncIterator[ground.Writer]:
    """A process that the guard has let run, in a life that was just confirmed."""
    writer = ground.Writer(guard.path, vm)
    try:
        await writer.enter()
        guard.say("taken", life=LIFE, bounds=bounds)
        guard.say("confirmed", life=LIFE, sent=spoken.now())
        assert guard.admits(writer)
        guard.note(LIFE, bounds)
        writer.go()
        ground.until(writer.writes)
        yield writer
    finally:
        await writer.clear()


async def test_what_is_not_confirmed_is_not_let_run(guard: ground.Guard) -> None:
    writer = ground.Writer(guard.path, "one")
    try:
        await writer.enter()
        assert not guard.admits(writer)
        guard.say("taken", life=LIFE, bounds=OPEN)
        assert not guard.admits(writer), "taken, and not confirmed yet"
        guard.say("confirmed", life=LIFE, sent=spoken.now() - OPEN.guard)
        assert not guard.admits(writer), "an old confirmation"
        guard.say("confirmed", life=LIFE, sent=spoken.now())
        assert guard.admits(writer)
        assert not (guard.path / "one").exists()
        held = guard.stands()["held"]
        assert held == {"one": {"generation": 7, "runs": 1}}
    finally:
        await writer.clear()
    guard.stands(held={})
    assert not list((guard.path / "guarded").iterdir())


async def test_one_that_fences_itself_stands_still_by_its_bound_and_goes_on_with_a_fresh_beat_alone(
    guard: ground.Guard,
) -> None:
    async with running(guard, FENCES) as writer:
        sent = spoken.now()
        guard.say("confirmed", life=LIFE, sent=sent)
        guard.stands(phase="HELD")
        ground.until(writer.group.frozen)
        assert not writer.writes()
        guard.say("confirmed", life=LIFE, sent=sent + 0.001)  # an answer that was stuck on its way
        guard.say("confirmed", life=records.Life(ground.HOST, "second", 3, 40), sent=spoken.now())
        assert not writer.writes()
        guard.say("confirmed", life=LIFE, sent=spoken.now())
        ground.until(writer.writes)


async def test_without_self_fencing_what_runs_runs_on_and_nothing_new_may(guard: ground.Guard) -> None:
    async with running(guard, OPEN) as writer:
        other = ground.Writer(guard.path, "two")
        try:
            await other.enter()
            ground.until(lambda: spoken.now() > guard.stands()["confirmed"] + OPEN.guard)
            assert not guard.admits(other)
            ground.until(writer.writes)
        finally:
            await other.clear()


async def test_a_life_that_was_ended_is_killed_and_gone(guard: ground.Guard) -> None:
    async with running(guard, FENCES) as writer:
        guard.stands(phase="HELD")
        guard.say("raised", life=LIFE)
        told = guard.stands(phase="OVER", held={})
        assert writer.process.wait(ground.BOUND) == -9
        assert told["gone"] is not None
        assert not writer.group.procs()
        guard.say("confirmed", life=LIFE, sent=spoken.now())
        assert not guard.admits(writer)


async def test_a_guard_without_predecessor_holds_everything_until_a_beat_of_its_own_time(guard: ground.Guard) -> None:
    async with running(guard, OPEN) as writer:
        guard.kill()
        ground.until(writer.writes)
        before = spoken.now()
        guard.start()
        assert guard.standing["life"]["epoch"] == LIFE.epoch
        assert guard.standing["held"] == {"one": {"generation": 7, "runs": 1}}
        ground.until(writer.group.frozen)
        guard.say("confirmed", life=LIFE, sent=before)
        assert not writer.writes()
        guard.say("confirmed", life=LIFE, sent=spoken.now())
        ground.until(writer.writes)
        writer.process.kill()
        guard.stands(held={})


async def test_a_second_guard_does_not_come_beside_one(guard: ground.Guard) -> None:
    first, guard.process = guard.process, None
    assert first
    try:
        guard.start()
        assert guard.process
        assert guard.process.wait(ground.BOUND) == 0
    finally:
        guard.process = first


async def test_the_watchdog_is_fed_while_the_host_is_confirmed_or_has_nothing_to_hold() -> None:
    with ground.directory() as path:
        dog = ground.Dog(path / "watchdog")
        fences = records.Bounds(self_fence=True, guard=1.0, watchdog=10.0)
        try:
            with ground.guard(str(path / "watchdog"), "10", path=path) as guard:
                ground.until(dog.fed)
                async with running(guard, fences) as writer:
                    ground.until(writer.group.frozen)
                    dog.fed()
                    assert not any(writer.writes() for _ in range(3))  # several times as long as it is fed apart
                    assert not dog.fed(), "the kernel may still write what a frozen process has given it"
                    guard.say("confirmed", life=LIFE, sent=spoken.now())
                    ground.until(dog.fed)
                    ground.until(writer.writes)
        finally:
            dog.close()
