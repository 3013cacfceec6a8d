"""A host's own machines: its beats, its lives, what it owns, what it moves."""

from __future__ import annotations

import dataclasses

from bocage.protocol import beating, moving, owning, records, returning, timing

PROFILE = timing.Timing(beat=0.25, answer=0.5, silence=1.0, outage=0.5, guard=4.0, drain=1.0)
LIFE = records.Life("h1", "first", 3, 40)
THERE = records.Life("h2", "first", 2, 41)
BOUNDS = records.Bounds(self_fence=True, guard=4.0, watchdog=5.0)
ERP = records.owner_of("erp")


def view(*, settled: bool = True, incarnation: str = "first", **records_by_key: tuple[object, int]) -> records.View:
    entries = {records.CLUSTER: records.Entry(records.Cluster(incarnation, settled), 1)}
    for key, (record, revision) in records_by_key.items():
        entries[key.replace("_", "/")] = records.Entry(record, revision)
    return records.View(entries)


# Beats


def test_a_beat_compares_incarnation_and_epoch_and_counts_up() -> None:
    beats = beating.Beating(LIFE, PROFILE)
    first, second = beats.tick(10.0)[0], beats.tick(10.25)[0]
    assert beats.tick(10.3) == []
    assert first.transaction == records.Transaction("first", {"epoch/h1": 40}, {"beat/h1": records.Beat(1)})
    assert second.transaction.puts == {"beat/h1": records.Beat(2)}


def test_the_guard_is_told_when_the_beat_was_sent_whenever_its_answer_comes() -> None:
    beats = beating.Beating(LIFE, PROFILE)
    first = beats.tick(10.0)[0]
    beats.tick(10.25)
    assert beats.answered(first.attempt, records.Applied(50)) == [beating.Confirmed(LIFE, 10.0)]


def test_another_incarnation_is_neither_confirmed_nor_raised() -> None:
    beats = beating.Beating(LIFE, PROFILE)
    first = beats.tick(10.0)[0]
    assert beats.answered(first.attempt, records.Refused(records.CLUSTER)) == [beating.Strange(LIFE)]
    assert beats.tick(10.3) != []


def test_a_refused_beat_ends_the_life_unless_the_host_itself_has_gone_on() -> None:
    beats = beating.Beating(LIFE, PROFILE)
    first = beats.tick(10.0)[0]
    assert beats.answered(first.attempt, records.Refused("epoch/h1")) == [beating.Look()]
    assert beats.tick(11.0) == []
    assert beats.looked(view(epoch_h1=(records.Epoch(4, 4), 44))) == []
    assert beats.looked(view(epoch_h1=(records.Epoch(4, 3), 44))) == [beating.Raised(LIFE)]


# Owning


def given(generation: int = 5, revision: int = 9, host: str = "h1") -> records.View:
    return view(owner_erp=(records.Owner(host, generation), revision))


def test_a_vm_that_was_given_is_claimed_under_a_new_generation_and_then_started() -> None:
    own = owning.Owning("erp", "h1", PROFILE)
    (claim,) = own.seen(given(), LIFE, 10.0, 10.1)
    assert isinstance(claim, records.Ask)
    assert claim.transaction == records.Transaction("first", {ERP: 9, "epoch/h1": 40}, {ERP: records.Owner("h1", 6)})
    assert own.answered(claim.attempt, records.Applied(10), LIFE) == [owning.Start("erp", 6, 1)]


def test_a_claim_without_answer_is_settled_by_another_one_and_its_own_answer_counts_no_more() -> None:
    own = owning.Owning("erp", "h1", PROFILE)
    (first,) = own.seen(given(), LIFE, 10.0, 10.1)
    assert own.seen(given(), LIFE, 10.5, 10.55) == []  # it may still come
    assert own.seen(given(), LIFE, 10.3, 11.0) == []  # read before it was given up
    (second,) = own.seen(given(6, 10), LIFE, 10.7, 10.8)
    assert isinstance(first, records.Ask)
    assert isinstance(second, records.Ask)
    assert second.transaction.puts == {ERP: records.Owner("h1", 7)}
    assert own.answered(first.attempt, records.Applied(10), LIFE) == []
    assert own.answered(second.attempt, records.Applied(11), LIFE) == [owning.Start("erp", 7, 2)]


def test_what_belongs_to_another_host_is_ended_and_what_it_sent_with_it() -> None:
    own = owning.Owning("erp", "h1", PROFILE)
    own.found(6)
    assert own.seen(given(6, 9, "h2"), LIFE, 10.0, 10.1) == []  # a record that is older than our own claim
    assert own.seen(given(7, 12, "h2"), LIFE, 10.0, 10.1) == [owning.End("erp")]
    assert own.seen(given(8, 13), LIFE, 10.2, 10.3) == []  # given back: not before nothing of it is left
    own.left(10.4)
    assert own.seen(given(8, 13), LIFE, 11.0, 11.1) == []  # nor before what it had sent has landed
    assert len(own.seen(given(8, 13), LIFE, 11.4, 11.5)) == 1


def test_a_process_that_the_guard_does_not_take_is_ended() -> None:
    own = owning.Owning("erp", "h1", PROFILE)
    (claim,) = own.seen(given(), LIFE, 10.0, 10.1)
    assert isinstance(claim, records.Ask)
    own.answered(claim.attempt, records.Applied(10), LIFE)
    assert own.started(claim.attempt, running=False) == [owning.End("erp")]


def test_what_was_granted_to_a_life_that_is_over_starts_nothing_in_the_next_one() -> None:
    """The VM may have been given to another host meanwhile."""
    own = owning.Owning("erp", "h1", PROFILE)
    (claim,) = own.seen(given(), LIFE, 10.0, 10.1)
    assert isinstance(claim, records.Ask)
    following = dataclasses.replace(LIFE, epoch=LIFE.epoch + 1, revision=LIFE.revision + 1)
    assert own.answered(claim.attempt, records.Applied(10), following) == []
    (anew,) = own.seen(given(6, 10), LIFE, 10.2, 10.3)
    assert isinstance(anew, records.Ask)
    own.answered(anew.attempt, records.Applied(11), LIFE)
    assert own.still(anew.attempt, LIFE)
    assert not own.still(anew.attempt, following)
    assert not own.still(anew.attempt, None)
    assert own.started(anew.attempt, running=False) == [owning.End("erp")]


def test_a_claim_of_a_life_that_is_over_is_not_waited_for() -> None:
    own = owning.Owning("erp", "h1", PROFILE)
    own.seen(given(), LIFE, 10.0, 10.1)
    following = dataclasses.replace(LIFE, epoch=LIFE.epoch + 1, revision=LIFE.revision + 1)
    assert len(own.seen(given(), following, 10.1, 10.2)) == 1


def test_in_a_store_that_is_not_settled_nothing_is_claimed_and_what_was_granted_before_is_not_started() -> None:
    own = owning.Owning("erp", "h1", PROFILE)
    (claim,) = own.seen(given(), LIFE, 10.0, 10.1)
    assert isinstance(claim, records.Ask)
    assert own.answered(claim.attempt, records.Applied(10), None) == []
    assert own.seen(view(settled=False, owner_erp=(records.Owner("h1", 5), 9)), LIFE, 11.0, 11.1) == []


# Lives


def come_back(
    host: returning.Returning, seen: records.View, *, gone: float | None = 0.0, sent: float = 10.0, now: float = 10.1
) -> list[returning.Act]:
    acts = host.seen(seen, {}, {}, gone=gone, sent=sent, now=now)
    for act in acts:
        if isinstance(act, returning.Narrow):
            host.narrowed(act.bounds)
            return host.seen(seen, {}, {}, gone=gone, sent=sent, now=now)
    return acts


def live() -> returning.Returning:
    host = returning.Returning("h1", BOUNDS, PROFILE)
    (ask,) = come_back(host, view(epoch_h1=(records.Epoch(2, 2), 30)))
    assert isinstance(ask, records.Ask)
    host.answered(ask.attempt, records.Applied(40))
    assert host.life == LIFE
    return host


def test_a_host_that_boots_takes_a_new_epoch_though_nobody_has_raised_the_old_one() -> None:
    host = returning.Returning("h1", BOUNDS, PROFILE)
    (ask,) = come_back(host, view(epoch_h1=(records.Epoch(2, 2), 30)))
    assert isinstance(ask, records.Ask)
    assert ask.transaction.puts == {"epoch/h1": records.Epoch(3, 3, 2, BOUNDS)}
    assert ask.transaction.compare["epoch/h1"] == 30


def test_an_epoch_whose_answer_was_lost_is_found_in_the_records() -> None:
    host = returning.Returning("h1", BOUNDS, PROFILE)
    come_back(host, view(epoch_h1=(records.Epoch(2, 2), 30)))
    assert come_back(host, view(epoch_h1=(records.Epoch(3, 3, 2, BOUNDS), 40)), sent=10.7, now=10.8) == []
    assert host.life == LIFE


def test_a_host_whose_epoch_was_raised_takes_the_new_one_only_when_nothing_of_the_old_is_left() -> None:
    host = live()
    raised = view(epoch_h1=(records.Epoch(4, 3, 2, BOUNDS), 44))
    assert come_back(host, raised, gone=None, sent=20.0, now=20.1) == [returning.EndLife(LIFE)]
    assert host.phase is returning.Phase.ENDING
    (ask,) = come_back(host, raised, sent=21.0, now=21.1)
    assert isinstance(ask, records.Ask)
    assert ask.transaction.puts == {"epoch/h1": records.Epoch(4, 4, 3, BOUNDS)}


def test_in_a_restored_store_a_host_tells_what_it_runs_and_waits() -> None:
    host = live()
    strange = view(settled=False, incarnation="second", epoch_h1=(records.Epoch(2, 2), 30))
    (ask,) = host.seen(strange, {"erp": 6}, {"erp": 6, "web": 4}, gone=None, sent=20.0, now=20.1)
    assert isinstance(ask, records.Ask)
    assert ask.transaction.incarnation == "second"
    assert ask.transaction.puts["report/h1"] == records.Report("second", {"erp": 6}, {"erp": 6, "web": 4})
    assert ask.transaction.compare == {"epoch/h1": 30, records.CLUSTER: 1}
    host.answered(ask.attempt, records.Applied(50))
    assert host.waits
    settled = view(incarnation="second", epoch_h1=(records.Epoch(3, 3, 0, BOUNDS), 50))
    assert come_back(host, settled, gone=None, sent=21.0, now=21.1) == []
    assert host.waits  # until what belongs elsewhere is ended
    host.ended(settled)
    (clean,) = come_back(host, settled, gone=None, sent=22.0, now=22.1)
    assert isinstance(clean, records.Ask)
    assert clean.transaction.puts == {"epoch/h1": records.Epoch(4, 4, 3, BOUNDS)}
    host.answered(clean.attempt, records.Applied(60))
    assert not host.waits


def test_what_runs_here_and_was_settled_elsewhere_is_ended_before_the_guard_lets_anything_go_on() -> None:
    host = live()
    settled = view(owner_erp=(records.Owner("h2", 9), 60), owner_web=(records.Owner("h1", 4), 60))
    assert host.to_end(settled, ["erp", "web"]) == ["erp"]


def test_a_host_that_a_restored_store_was_settled_without_ends_its_life() -> None:
    host = live()
    settled = view(incarnation="second", epoch_h1=(records.Epoch(2, 2), 30))
    assert come_back(host, settled, gone=None, sent=20.0, now=20.1) == [returning.EndLife(LIFE)]
    assert isinstance(come_back(host, settled, gone=0.0, sent=21.0, now=21.1)[0], records.Ask)


def test_other_bounds_come_with_another_epoch_and_what_runs_goes_on() -> None:
    host = live()
    bounds = records.Bounds(self_fence=True, guard=9.0, watchdog=5.0)
    host.change(bounds)
    (ask,) = come_back(host, view(epoch_h1=(records.Epoch(3, 3, 2, BOUNDS), 40)), gone=None, sent=20.0, now=20.1)
    assert isinstance(ask, records.Ask)
    assert ask.transaction.puts == {"epoch/h1": records.Epoch(4, 4, 3, bounds)}


# Moving


def leaving() -> moving.Source:
    return moving.Source("erp", THERE, 5, PROFILE)


def test_before_completed_a_source_that_fails_runs_on_where_it_is() -> None:
    source = leaving()
    source.failed()
    assert source.completed(given(), LIFE, 10.0) == []


def test_ownership_goes_over_in_one_transaction_that_compares_both_epochs() -> None:
    source = leaving()
    (ask,) = source.completed(given(), LIFE, 10.0)
    assert isinstance(ask, records.Ask)
    assert ask.transaction == records.Transaction(
        "first", {ERP: 9, "epoch/h1": 40, "epoch/h2": 41}, {ERP: records.Owner("h2", 6)}
    )
    assert source.answered(ask.attempt, records.Applied(50)) == [moving.Act.END]


def test_a_source_whose_question_was_not_answered_runs_only_after_a_transaction_that_keeps_it() -> None:
    source = leaving()
    (first,) = source.completed(given(), LIFE, 10.0)
    assert isinstance(first, records.Ask)
    assert source.seen(given(), LIFE, 10.4, 10.45) == []
    (keep,) = source.seen(given(), LIFE, 10.6, 10.7)
    assert isinstance(keep, records.Ask)
    assert keep.transaction.puts == {ERP: records.Owner("h1", 6)}
    assert source.answered(first.attempt, records.Refused(ERP)) == []
    assert source.answered(keep.attempt, records.Applied(51)) == [moving.Act.CONTINUE]
    assert source.generation == 6


def test_a_source_that_finds_the_target_as_the_owner_ends() -> None:
    source = moving.Source.found("erp", 5, PROFILE)
    assert source.seen(given(6, 12, "h2"), LIFE, 10.0, 10.1) == [moving.Act.END]


def test_a_target_runs_when_it_has_everything_and_is_the_owner() -> None:
    target = moving.Target("erp", THERE, 5)
    target.received()
    assert target.seen(given()) == []
    assert target.seen(given(6, 12, "h2")) == [moving.Act.CONTINUE]


def test_a_target_that_owns_what_it_has_not_received_waits_and_one_that_was_passed_over_ends() -> None:
    target = moving.Target("erp", THERE, 5)
    assert target.seen(given(6, 12, "h2")) == []
    assert target.seen(given(8, 14, "h2")) == [moving.Act.END]  # given to this host afresh: not with this memory


def test_in_a_store_that_is_not_settled_neither_side_of_a_move_runs() -> None:
    unsettled = view(settled=False, owner_erp=(records.Owner("h2", 6), 12))
    target = moving.Target("erp", THERE, 5)
    target.received()
    assert target.seen(unsettled) == []
    assert moving.Source.found("erp", 5, PROFILE).seen(unsettled, LIFE, 10.0, 10.1) == []
