"""Fencing: what proves a host's death, and what does not."""

from __future__ import annotations

import dataclasses

from bocage.protocol import fencing, records, timing
from bocage.protocol.fencing import Act, Proof

PROFILE = timing.Timing(beat=0.1, answer=0.5, silence=1.0, outage=0.5, guard=4.0, drain=1.0)
ARMED = records.Bounds(self_fence=True, guard=4.0, watchdog=5.0)
BMC, BOTH, NONE = fencing.Means(power=True), fencing.Means(power=True, storage=True), fencing.Means()


def view(epoch: records.Epoch, *, revision: int = 9, beat: int = 8) -> records.View:
    return records.View(
        {
            records.epoch_of("h2"): records.Entry(epoch, revision),
            records.beat_of("h2"): records.Entry(records.Beat(7), beat),
            records.owner_of("erp"): records.Entry(records.Owner("h2", 5), 6),
            records.owner_of("mail"): records.Entry(records.Owner("h1", 2), 4),
        }
    )


LIVES = records.Epoch(3, 3, 2, ARMED)
RAISED = dataclasses.replace(LIVES, number=4)


def raised(means: fencing.Means = BMC, epoch: records.Epoch = RAISED) -> fencing.Fencing:
    """A fence whose epoch was seen raised at 100."""
    fence = fencing.Fencing("h2", means, PROFILE)
    fence.seen(view(epoch), 100.0)
    return fence


def test_the_epoch_is_raised_only_over_the_beat_that_was_seen_last() -> None:
    transaction = fencing.Fencing("h2", BOTH, PROFILE).raising(view(LIVES), 3, "first")
    assert transaction is not None
    assert transaction.compare == {"leader": 3, "epoch/h2": 9, "beat/h2": 8}
    assert transaction.puts == {"epoch/h2": RAISED, "fence/h2": records.Fence(4)}


def test_a_host_whose_epoch_is_raised_is_not_raised_again() -> None:
    assert fencing.Fencing("h2", BMC, PROFILE).raising(view(RAISED), 3, "first") is None


def test_nothing_is_asked_and_nothing_proven_before_the_answer_that_the_epoch_is_raised() -> None:
    fence = fencing.Fencing("h2", BOTH, PROFILE)
    fence.seen(view(LIVES), 99.0)
    assert fence.tick(500.0) == []
    fence.ordered(99.5)
    fence.read_power(off=True, asked=99.6)
    fence.read_power(off=True, asked=99.7)
    assert fence.proof is None


def test_off_counts_when_it_was_ordered_and_read_twice_afterwards() -> None:
    fence = raised()
    assert fence.tick(100.1) == [Act.POWER_OFF]
    fence.read_power(off=True, asked=100.1)  # nobody has ordered it yet
    fence.ordered(100.2)
    assert fence.tick(100.3) == [Act.READ_POWER]
    fence.read_power(off=True, asked=100.15)  # asked before
    fence.read_power(off=True, asked=100.3)
    assert fence.proof is None
    fence.read_power(off=False, asked=100.4)  # in between: powering off
    fence.read_power(off=True, asked=100.5)
    assert fence.proof is None
    fence.read_power(off=True, asked=100.6)
    assert fence.proof is Proof.POWER
    assert not fence.proven


def test_what_it_has_sent_must_have_ended_before_anything_is_started_elsewhere() -> None:
    fence = raised()
    fence.ordered(100.2)
    fence.read_power(off=True, asked=100.3)
    fence.read_power(off=True, asked=100.4)
    assert fence.tick(100.5) == [Act.END_WRITES]
    fence.writes_ended(3)  # of another epoch
    assert not fence.proven
    fence.writes_ended(4)
    assert fence.proven


def test_time_proves_it_after_guard_watchdog_and_drain_at_the_pace_of_the_slower_clock() -> None:
    fence = raised(NONE)
    fence.tick(100.0 + 10.0 * 1.01)
    assert not fence.proven
    fence.tick(100.0 + 10.0 * 1.01 + 0.01)
    assert fence.proof is Proof.TIME
    assert fence.proven


def test_time_proves_nothing_of_a_host_that_does_not_fence_itself_or_whose_watchdog_was_never_shown() -> None:
    for bounds in (records.Bounds(guard=4.0, watchdog=5.0), records.Bounds(self_fence=True, guard=4.0)):
        fence = raised(NONE, dataclasses.replace(RAISED, bounds=bounds))
        assert fence.tick(10_000.0) == []
        assert not fence.proven


def test_the_storage_proves_it_for_the_epoch_that_it_was_shut_out_for() -> None:
    fence = raised(BOTH)
    assert fence.tick(100.1) == [Act.POWER_OFF, Act.SHUT_OUT]
    fence.shut_out(3)
    assert not fence.proven
    fence.shut_out(4)
    assert fence.proof is Proof.STORAGE
    assert fence.proven


def test_its_own_word_proves_it() -> None:
    fence = raised(NONE)
    fence.seen(view(dataclasses.replace(RAISED, gone=3), revision=12), 101.0)
    assert fence.proof is Proof.WORD
    assert fence.revision == 12


def test_a_persons_word_proves_it_once_the_epoch_is_raised() -> None:
    fence = fencing.Fencing("h2", NONE, PROFILE)
    fence.said_by("anna")
    assert fence.proof is None
    fence = raised(NONE)
    fence.said_by("anna")
    assert fence.proof is Proof.PERSON
    assert fence.tick(100.1) == [Act.END_WRITES]


def test_a_host_that_has_taken_its_new_epoch_is_left_alone() -> None:
    fence = raised()
    fence.ordered(100.2)
    fence.seen(view(records.Epoch(4, 4, 3, ARMED), revision=13), 101.0)
    assert not fence.raised
    assert fence.tick(500.0) == []
    fence.seen(view(records.Epoch(5, 4, 3, ARMED), revision=14), 600.0)
    assert fence.tick(600.1) == [Act.POWER_OFF]  # nothing of the last time counts


def test_a_vm_is_taken_from_it_only_when_it_is_proven_and_still_its_own() -> None:
    fence = raised(BOTH)
    assert fence.clearing("erp", view(RAISED), 3, "first") is None
    fence.shut_out(4)
    clearing = fence.clearing("erp", view(RAISED), 3, "first")
    assert clearing is not None
    assert clearing.compare == {"leader": 3, "epoch/h2": 9, "owner/erp": 6}
    assert clearing.puts == {"owner/erp": records.Owner(None, 6)}
    assert fence.clearing("mail", view(RAISED), 3, "first") is None


def test_the_storage_lets_it_in_again_when_it_has_taken_the_epoch() -> None:
    entries = dict(view(RAISED).entries) | {records.fence_of("h2"): records.Entry(records.Fence(4), 9)}
    assert not fencing.lifting("h2", records.View(entries))
    entries[records.epoch_of("h2")] = records.Entry(records.Epoch(4, 4, 3, ARMED), 13)
    assert fencing.lifting("h2", records.View(entries))
