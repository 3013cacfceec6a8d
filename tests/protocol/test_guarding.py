"""The guard: what it is told, and what it has done then."""

from __future__ import annotations

import pytest

from bocage.protocol import guarding, records
from bocage.protocol.guarding import Act, Phase

LIFE = records.Life("h1", "first", 3, 40)
NEXT = records.Life("h1", "first", 4, 50)
BOUNDS = records.Bounds(self_fence=True, guard=4.0, watchdog=5.0)


def running(bounds: records.Bounds = BOUNDS, *, kernel_disks: bool = False) -> guarding.Guard:
    """A guard of a confirmed life (sent at 100) with one VM's process."""
    guard = guarding.Guard.first(kernel_disks=kernel_disks)
    guard.taken(LIFE, bounds)
    guard.confirmed(LIFE, 100.0, 100.1)
    assert guard.admit("qemu", 100.2)
    return guard


def overdue(*, kernel_disks: bool = False) -> guarding.Guard:
    guard = running(kernel_disks=kernel_disks)
    assert guard.tick(104.0) == [Act.FREEZE, Act.DROP]
    return guard


def test_before_the_first_confirmation_nothing_may_start() -> None:
    guard = guarding.Guard.first()
    assert not guard.admit("qemu", 1.0)
    guard.taken(LIFE, BOUNDS)
    assert not guard.admit("qemu", 1.0)
    guard.confirmed(LIFE, 1.0, 1.1)
    assert guard.admit("qemu", 1.2)


def test_a_confirmation_counts_from_its_sending_and_not_a_moment_longer() -> None:
    guard = running()
    assert guard.tick(103.9) == [Act.FEED]
    assert guard.tick(104.0) == [Act.FREEZE, Act.DROP]


def test_frozen_and_cut_off_it_is_fed_only_when_both_were_read_back() -> None:
    guard = overdue()
    guard.held(frozen=True)
    assert guard.tick(104.1) == [Act.DROP]
    guard.held(dropped=True)
    assert guard.tick(104.2) == [Act.FEED]
    guard.held(frozen=False)
    assert guard.tick(104.3) == [Act.FREEZE]


def test_with_disks_of_the_kernel_it_is_not_fed_at_all_then() -> None:
    guard = overdue(kernel_disks=True)
    guard.held(frozen=True, dropped=True)
    assert guard.tick(104.2) == []


def test_a_fresh_confirmation_undoes_it() -> None:
    guard = overdue()
    guard.held(frozen=True, dropped=True)
    assert guard.confirmed(LIFE, 290.0, 290.1) == [Act.LET_PASS, Act.THAW]
    assert guard.tick(290.2) == [Act.FEED]


def test_an_old_answer_that_was_stuck_on_its_way_thaws_nothing() -> None:
    guard = overdue()
    assert guard.confirmed(LIFE, 103.0, 107.0) == []
    assert guard.phase is Phase.HELD


def test_a_beat_of_another_life_confirms_nothing() -> None:
    guard = overdue()
    assert guard.confirmed(NEXT, 290.0, 290.1) == []
    assert guard.confirmed(records.Life("h1", "restored", 3, 40), 290.0, 290.1) == []
    assert guard.phase is Phase.HELD


def test_an_ended_life_is_killed_thawed_behind_the_drop_and_only_let_go_when_nothing_is_left() -> None:
    guard = overdue()
    guard.held(frozen=True)
    assert guard.raised(LIFE) == [Act.KILL, Act.DROP]
    assert guard.held(dropped=True) == [Act.THAW]
    assert guard.ended("qemu") == [Act.SEVER]
    assert guard.severed() == [Act.LET_PASS, Act.GONE]
    assert guard.phase is Phase.OVER


def test_what_a_dead_process_left_in_sockets_is_destroyed_and_counts_until_then() -> None:
    guard = running()
    assert guard.ended("qemu") == [Act.SEVER]
    assert guard.tick(104.0) == [Act.FREEZE, Act.DROP, Act.SEVER]  # overdue, as if it lived
    guard.severed()
    guard.held(frozen=True, dropped=True)
    assert guard.tick(104.2) == [Act.FEED]


def test_what_the_kernel_writes_ends_with_a_reset_alone() -> None:
    guard = running(kernel_disks=True)
    guard.raised(LIFE)
    guard.held(dropped=True)
    guard.ended("qemu")
    assert guard.severed() == []
    assert Act.FEED not in guard.tick(101.0)
    assert guard.phase is Phase.ENDING


def test_a_life_that_is_given_again_is_the_same() -> None:
    guard = running()
    guard.taken(LIFE, BOUNDS)
    assert guard.admit("another", 100.5)
    assert guard.raised(LIFE) != []


def test_a_guard_that_holds_nothing_any_more_lets_pass_when_a_new_life_is_taken() -> None:
    guard = overdue()
    guard.held(frozen=True, dropped=True)
    guard.ended("qemu")
    guard.severed()
    assert guard.taken(NEXT, BOUNDS) == [Act.LET_PASS, Act.THAW]


def test_who_was_cut_off_already_is_thawed_as_soon_as_it_is_killed() -> None:
    guard = overdue()
    guard.held(frozen=True, dropped=True)
    assert guard.raised(LIFE) == [Act.KILL, Act.DROP, Act.THAW]


def test_while_a_killed_process_lives_the_watchdog_is_not_fed() -> None:
    guard = overdue()
    guard.held(frozen=True, dropped=True)
    guard.raised(LIFE)
    assert Act.FEED not in guard.tick(104.5)
    guard.ended("qemu")
    guard.severed()
    assert guard.tick(104.6) == [Act.FEED]


def test_an_ended_life_takes_nothing_in_and_does_not_come_back() -> None:
    guard = running()
    guard.raised(LIFE)
    assert guard.confirmed(LIFE, 101.0, 101.1) == []
    assert not guard.admit("another", 101.2)
    guard.held(dropped=True)
    guard.ended("qemu")
    guard.severed()
    guard.taken(LIFE, BOUNDS)
    assert guard.phase is Phase.OVER


def test_the_end_of_a_life_that_it_was_not_given_yet_is_the_end_of_what_it_holds() -> None:
    guard = running()
    assert guard.raised(NEXT) == [Act.KILL, Act.DROP]


def test_a_late_word_of_a_life_that_is_over_ends_nothing() -> None:
    guard = running()
    guard.taken(NEXT, BOUNDS)
    assert guard.raised(LIFE) == []
    assert guard.phase is Phase.OPEN


def test_without_self_fencing_an_outage_of_the_store_stops_nothing() -> None:
    guard = running(records.Bounds(guard=4.0))
    assert guard.tick(1000.0) == [Act.FEED]
    assert guard.phase is Phase.OPEN
    assert not guard.admit("another", 1000.0)


def test_a_guard_without_predecessor_holds_everything_until_it_knows_where_it_stands() -> None:
    guard = guarding.Guard.alone(LIFE, BOUNDS, 200.0)
    assert guard.tick(200.1) == [Act.FREEZE, Act.DROP]
    guard.held(frozen=True, dropped=True)
    assert guard.tick(200.2) == []  # and does not feed
    assert guard.confirmed(LIFE, 199.9, 200.3) == []  # sent before it was there
    assert guard.confirmed(LIFE, 200.2, 200.3) == []  # there may be others
    guard.found(["qemu"], complete=True)
    assert guard.confirmed(LIFE, 200.4, 200.5) == [Act.LET_PASS, Act.THAW]
    assert guard.tick(200.6) == [Act.FEED]


def test_a_successor_goes_on_with_what_its_predecessor_knew() -> None:
    guard = guarding.Guard(overdue().standing)
    guard.held(frozen=True, dropped=True)
    assert guard.tick(104.2) == [Act.FEED]
    assert guard.confirmed(LIFE, 103.0, 107.0) == []
    assert guard.confirmed(LIFE, 107.0, 107.1) == [Act.LET_PASS, Act.THAW]


@pytest.mark.parametrize(("asked", "held"), [(2.0, 2.0), (9.0, 4.0)])
def test_tighter_bounds_hold_at_once_and_wider_ones_with_the_next_epoch(asked: float, held: float) -> None:
    guard = running()
    bounds = records.Bounds(self_fence=True, guard=asked, watchdog=5.0)
    guard.narrow(bounds)
    assert guard.bounds.guard == held
    guard.taken(NEXT, bounds)
    assert guard.bounds.guard == asked
