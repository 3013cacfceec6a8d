"""The continuous replica: in sync, stale, and in sync again."""

from __future__ import annotations

from bocage.protocol import records, replicating, timing
from bocage.protocol.replicating import Act, Copy, Phase

PROFILE = timing.Timing(beat=0.1, answer=0.5, silence=1.0, outage=0.5, guard=4.0, drain=1.0)
LIFE = records.Life("h1", "first", 3, 40)


def view(*, in_sync: bool, revision: int = 20) -> records.View:
    return records.View(
        {
            records.owner_of("erp"): records.Entry(records.Owner("h1", 5), 9),
            records.replica_of("erp"): records.Entry(records.Replica("h2", in_sync), revision),
        }
    )


def alone() -> replicating.Replicating:
    copy = replicating.Replicating("erp", "h2", PROFILE)
    assert copy.reachable() == []  # what the record says is of an earlier life: first it is called stale
    (ask,) = copy.seen(view(in_sync=True), LIFE, 9.0, 9.1)
    assert ask.transaction.puts == {"replica/erp": records.Replica("h2", in_sync=False)}
    assert copy.answered(ask.attempt, records.Applied(19)) == [Act.LET_GO, Act.CONTINUE]
    return copy


def in_sync() -> replicating.Replicating:
    copy = alone()
    assert copy.reachable() == [Copy(1)]
    assert copy.copied(1, left=1 << 30) == [Copy(2)]
    assert copy.copied(1, left=0) == []  # an end that comes late is that of another pass
    assert copy.copied(2, left=4096) == [Act.PAUSE, Copy(3)]
    assert copy.copied(3, left=0) == [Act.JOIN, Act.CONTINUE]
    (ask,) = copy.seen(view(in_sync=False), LIFE, 10.0, 10.1)
    assert ask.transaction.puts == {"replica/erp": records.Replica("h2", in_sync=True)}
    assert ask.transaction.compare == {"replica/erp": 20, "owner/erp": 9, "epoch/h1": 40}
    copy.answered(ask.attempt, records.Applied(21))
    assert copy.phase is Phase.IN_SYNC
    return copy


def test_in_sync_is_said_after_every_write_goes_to_both_again() -> None:
    in_sync()


def test_a_guest_goes_on_alone_only_when_the_store_calls_the_copy_stale() -> None:
    copy = in_sync()
    assert copy.failed() == []
    (ask,) = copy.seen(view(in_sync=True, revision=21), LIFE, 11.0, 11.1)
    assert ask.transaction.puts == {"replica/erp": records.Replica("h2", in_sync=False)}
    assert copy.answered(ask.attempt, records.Applied(22)) == [Act.LET_GO, Act.CONTINUE]


def test_a_stale_that_was_not_answered_is_written_again_and_the_guest_stands() -> None:
    copy = in_sync()
    copy.failed()
    (first,) = copy.seen(view(in_sync=True, revision=21), LIFE, 11.0, 11.1)
    assert copy.seen(view(in_sync=True, revision=21), LIFE, 11.4, 11.45) == []
    (second,) = copy.seen(view(in_sync=False, revision=22), LIFE, 11.7, 11.8)
    assert copy.answered(first.attempt, records.Applied(22)) == []
    assert copy.answered(second.attempt, records.Applied(23)) == [Act.LET_GO, Act.CONTINUE]


def test_a_copy_that_fails_while_in_sync_is_being_said_is_called_stale_after_it() -> None:
    copy = alone()
    copy.reachable()
    copy.copied(1, left=0)
    copy.copied(2, left=0)
    (said,) = copy.seen(view(in_sync=False), LIFE, 10.0, 10.1)
    assert copy.failed() == []
    assert copy.answered(said.attempt, records.Applied(21)) == []  # it is in the store now
    (ask,) = copy.seen(view(in_sync=True, revision=21), LIFE, 10.3, 10.4)
    assert ask.transaction.puts == {"replica/erp": records.Replica("h2", in_sync=False)}


def test_a_pass_that_fails_leaves_the_guest_alone_and_running() -> None:
    copy = alone()
    copy.reachable()
    assert copy.failed() == [Act.LET_GO]
    copy.reachable()
    copy.copied(2, left=0)
    assert copy.failed() == [Act.LET_GO, Act.CONTINUE]
    assert copy.phase is Phase.ALONE


def test_only_a_copy_that_is_in_sync_is_started_from_and_the_old_side_is_the_stale_one_then() -> None:
    assert replicating.taking_over("erp", view(in_sync=False), 44, 7, "first", "h1") is None
    takes = replicating.taking_over("erp", view(in_sync=True), 44, 7, "first", "h1")
    assert takes is not None
    assert takes.compare == {"replica/erp": 20, "owner/erp": 9, "epoch/h1": 44, "leader": 7}
    assert takes.puts == {"owner/erp": records.Owner("h2", 6), "replica/erp": records.Replica("h1", in_sync=False)}
