"""What hosts know of each other: silence, leadership, the census, and what the leader makes of it."""

from __future__ import annotations

from collections.abc import Mapping

from bocage.protocol import census, fencing, leading, records, ruling, silence, timing

PROFILE = timing.Timing(beat=0.1, answer=0.5, silence=1.0, outage=0.5, guard=4.0, drain=1.0)
LIFE = records.Life("h1", "first", 3, 40)


def view(
    hosts: int = 3,
    *,
    beats: dict[str, int] | None = None,
    leader: str | None = None,
    settled: bool = True,
    more: Mapping[str, tuple[object, int]] = {},
) -> records.View:
    entries = {records.CLUSTER: records.Entry(records.Cluster("first", settled), 1)}
    for number in range(1, hosts + 1):
        entries[f"epoch/h{number}"] = records.Entry(records.Epoch(3, 3, 2), 40)
        entries[f"beat/h{number}"] = records.Entry(records.Beat(1), (beats or {}).get(f"h{number}", 50))
    if leader is not None:
        entries[records.LEADER] = records.Entry(records.Leader(leader, 1), 7)
    entries |= {key: records.Entry(record, revision) for key, (record, revision) in more.items()}
    return records.View(entries)


def listening(hosts: int = 3) -> silence.Silence:
    """Clocks of h1, which has been confirmed all the while; all others were heard at 100 and never again."""
    clocks = silence.Silence("h1", PROFILE, 100.0)
    clocks.confirmed(100.0, 100.0)
    clocks.seen(view(hosts), 100.0)
    for tenth in range(1, 30):
        clocks.confirmed(100.0 + tenth / 10, 100.0 + tenth / 10)
    return clocks


def test_a_host_is_silent_since_its_beat_was_seen_to_change() -> None:
    clocks = listening()
    clocks.seen(view(beats={"h2": 51}), 102.5)
    assert clocks.silent(102.9) == ["h3"]
    clocks.heard("h3", 102.8)
    assert clocks.silent(102.9) == []
    for tenth in range(30, 60):
        clocks.confirmed(100.0 + tenth / 10, 100.0 + tenth / 10)
        clocks.heard("h3", 100.0 + tenth / 10)
    assert "h3" in clocks.silent(105.9)  # whose network answers, and whose beats do not come, stands still by now


def test_a_host_that_has_just_taken_an_epoch_is_heard() -> None:
    clocks = listening()
    clocks.seen(view(more={"epoch/h3": (records.Epoch(4, 4, 3), 60)}), 102.5)
    assert clocks.of("h3", 102.9) < 0.5


def test_who_is_not_confirmed_himself_knows_of_nobodys_silence() -> None:
    clocks = listening()
    assert clocks.silent(102.9)
    assert clocks.silent(103.5) == []


def test_after_an_outage_of_ones_own_all_clocks_start_anew() -> None:
    clocks = listening()
    clocks.confirmed(110.0, 110.1)
    assert clocks.silent(110.4) == []
    for tenth in range(1, 15):
        clocks.confirmed(110.0 + tenth / 10, 110.1 + tenth / 10)
    assert clocks.silent(111.5) == ["h2", "h3"]


def test_more_than_half_at_once_is_the_network() -> None:
    assert listening(3).most_are_silent(102.9)
    clocks = listening(5)
    clocks.heard("h2", 102.8)
    clocks.heard("h3", 102.8)
    assert not clocks.most_are_silent(102.9)


def test_the_key_is_taken_when_nobody_has_it_or_its_holder_is_silent() -> None:
    clocks = listening()
    led = leading.Leading("h1", PROFILE)
    assert led.stand(clocks, "first", LIFE, 102.9) is None  # it has not looked
    led.seen(view(leader="h2"), 100.0, 100.1)
    led.seen(view(leader="h2"), 102.8, 102.85)
    stands = led.stand(clocks, "first", LIFE, 102.9)
    assert stands is not None
    assert stands.compare == {"leader": 7, "epoch/h1": 40}
    assert stands.puts == {"leader": records.Leader("h1", 2)}
    led.seen(view(leader="h2", more={"rules": (records.Beat(1), 60)}), 102.86, 102.87)
    assert led.stand(clocks, "first", LIFE, 102.9) is None


def test_a_host_that_beats_while_its_daemon_does_not_lead_is_succeeded() -> None:
    clocks = listening()
    led = leading.Leading("h1", PROFILE)
    for tenth in range(30):
        led.seen(view(leader="h2", beats={"h2": 51 + tenth}), 100.0 + tenth / 10, 100.0 + tenth / 10)
    assert led.stand(clocks, "first", LIFE, 102.9) is not None


def test_who_has_not_seen_lately_that_he_leads_does_nothing_outside_the_store() -> None:
    led = leading.Leading("h1", PROFILE)
    led.seen(view(leader="h1"), 100.0, 100.1)
    assert led.leads(100.4)
    assert not led.leads(100.6)


def told(**reports: dict[str, int]) -> dict[str, tuple[object, int]]:
    return {f"report/{host}": (records.Report("first", runs, {"erp": 9}), 45) for host, runs in reports.items()}


def test_a_restored_store_stays_closed_until_every_host_has_told_what_it_runs_or_is_dead() -> None:
    erp: dict[str, tuple[object, int]] = {"owner/erp": (records.Owner("h2", 5), 9)}
    two = view(settled=False, more=erp | told(h1={"erp": 9}, h2={"erp": 7}))
    assert census.missing(two, []) == ["h3"]
    assert census.settling(two, [], 7) is None
    owners = census.settling(two, ["h3"], 7)
    assert owners is not None
    assert owners.puts == {"owner/erp": records.Owner("h1", 10, anew=True)}  # the higher generation; h3 told nothing
    opens = census.settling(
        records.View({**two.entries, "owner/erp": records.Entry(owners.puts["owner/erp"], 60)}), ["h3"], 7
    )
    assert opens is not None
    assert opens.puts == {records.CLUSTER: records.Cluster("first", settled=True)}
    assert opens.compare == {"epoch/h1": 40, "epoch/h2": 40, "epoch/h3": 40, "cluster": 1, "leader": 7}


def test_many_owners_are_settled_some_at_a_time_and_the_store_is_opened_last() -> None:
    many: dict[str, tuple[object, int]] = {f"owner/vm{number}": (records.Owner("h2", 5), 9) for number in range(200)}
    seen, asked = view(settled=False, more=many | told(h1={}, h2={"vm7": 5}, h3={})), []
    while (ask := census.settling(seen, [], 7)) is not None:
        asked.append(ask)
        assert len(ask.compare) + len(ask.puts) <= 128
        seen = records.View({**seen.entries, **{key: records.Entry(put, 60) for key, put in ask.puts.items()}})
    assert [records.CLUSTER in ask.puts for ask in asked] == [False] * 5 + [True]
    assert seen.get(records.Owner, "owner/vm7") == records.Owner("h2", 6, anew=True)


def test_an_instance_goes_on_where_its_directory_names_no_later_start() -> None:
    erp: dict[str, tuple[object, int]] = {"owner/erp": (records.Owner("h2", 5), 9)}
    for generation, anew in ((9, False), (8, True)):  # 9 was started last, on a host that has been off since
        seen = view(settled=False, more=erp | told(h1={"erp": generation}, h2={}, h3={}))
        opens = census.settling(seen, [], 7)
        assert opens is not None
        assert opens.puts["owner/erp"] == records.Owner("h1", 10, anew=anew)


def test_an_instance_that_is_older_than_one_on_a_dead_host_is_over() -> None:
    erp: dict[str, tuple[object, int]] = {"owner/erp": (records.Owner("h2", 5), 9)}
    all_told = view(settled=False, more=erp | told(h1={"erp": 7}, h2={}, h3={"erp": 9}))
    opens = census.settling(all_told, ["h3"], 7)
    assert opens is not None
    assert opens.puts["owner/erp"] == records.Owner("h3", 10)  # which the leader takes from it


def test_what_nobody_runs_is_nobodys_under_a_generation_that_was_never_given() -> None:
    erp: dict[str, tuple[object, int]] = {"owner/erp": (records.Owner("h2", 5), 9)}
    entries = dict(view(settled=False, more=erp | told(h1={}, h2={}, h3={})).entries)
    entries[records.CLUSTER] = records.Entry(records.Cluster("first", settled=False, floor=1000), 1)
    opens = census.settling(records.View(entries), [], 7)
    assert opens is not None
    assert opens.puts["owner/erp"] == records.Owner(None, 1001)


def rules(means: fencing.Means | None = None) -> ruling.Ruling:
    every = {f"h{number}": means or fencing.Means(power=True) for number in range(1, 6)}
    return ruling.Ruling("h1", every, PROFILE, lambda machine, fit: fit[0] if fit else None)


def writes(acts: list[ruling.Act]) -> list[records.Transaction]:
    """All but the leader's own beat."""
    found = [act.transaction for act in acts if isinstance(act, ruling.Write)]
    return [each for each in found if records.RULES not in each.puts]


def test_a_leader_raises_the_epoch_of_the_silent_and_places_what_nobody_has() -> None:
    clocks = listening(5)
    for host in ("h2", "h4", "h5"):
        clocks.heard(host, 102.8)
    seen = view(5, leader="h1", more={"owner/erp": (records.Owner(None, 5), 9)})
    raising, giving = writes(rules().seen(seen, clocks, LIFE, 102.85, 102.9))
    assert raising.puts == {"epoch/h3": records.Epoch(4, 3, 2)}
    assert giving.puts == {"owner/erp": records.Owner("h1", 6)}
    assert giving.compare == {"owner/erp": 9, "epoch/h1": 40, "leader": 7}


def test_what_was_begun_a_moment_ago_is_not_begun_again() -> None:
    clocks = listening(5)
    for host in ("h2", "h4", "h5"):
        clocks.heard(host, 102.8)
    rule, seen = rules(), view(5, leader="h1")
    assert writes(rule.seen(seen, clocks, LIFE, 102.85, 102.88))
    assert not writes(rule.seen(seen, clocks, LIFE, 102.87, 102.9))


def test_when_most_are_silent_nobody_is_fenced_and_their_bmcs_are_asked() -> None:
    clocks = listening(3)
    rule, seen = rules(), view(leader="h1")
    acts = rule.seen(seen, clocks, LIFE, 102.85, 102.9)
    assert not writes(acts)
    asked = [ruling.Do(fencing.Act.READ_POWER, host, 0) for host in ("h2", "h3")]
    assert [act for act in acts if isinstance(act, ruling.Do)] == asked
    rule.read_power("h3", off=True, asked=102.9)  # that one is off, and nobody here has told it to be
    assert [list(each.puts) for each in writes(rule.seen(seen, clocks, LIFE, 102.86, 102.9))] == [["epoch/h3"]]


def test_who_does_not_lead_does_nothing() -> None:
    clocks = listening(5)
    for host in ("h2", "h4", "h5"):
        clocks.heard(host, 102.8)
    assert rules().seen(view(5, leader="h2"), clocks, LIFE, 102.85, 102.9) == []


def test_a_host_that_is_shut_out_gets_no_vm_until_it_is_let_in() -> None:
    clocks = listening(3)
    clocks.heard("h2", 102.8)
    clocks.heard("h3", 102.8)
    rule = rules()
    seen = view(leader="h1", more={"fence/h1": (records.Fence(3), 30), "owner/erp": (records.Owner(None, 5), 9)})
    acts = rule.seen(seen, clocks, LIFE, 102.85, 102.9)
    assert ruling.Lift("h1", 3) in acts
    assert writes(acts)[0].puts == {"owner/erp": records.Owner("h2", 6)}
    rule.lifted("h1", 3)
    assert {"fence/h1": None} in [each.puts for each in writes(rule.seen(seen, clocks, LIFE, 102.86, 102.9))]


def test_a_dead_host_that_owns_nothing_any_more_is_not_switched_off_once_more() -> None:
    """It may be starting again just then, or be led by another who knows nothing of the first proof."""
    clocks = listening(3)
    ended = (records.Epoch(4, 3, 2), 60)
    owned = view(leader="h1", more={"epoch/h2": ended, "owner/erp": (records.Owner("h2", 5), 9)})
    cleared = view(leader="h1", more={"epoch/h2": ended, "owner/erp": (records.Owner("h3", 7), 61)})
    unknown = view(leader="h1", settled=False, more={"epoch/h2": ended})
    power_off = [ruling.Do(fencing.Act.POWER_OFF, "h2", 4)]
    for seen, acts in ((owned, power_off), (cleared, []), (unknown, power_off)):
        rule = rules()
        rule.seen(seen, clocks, LIFE, 102.85, 102.9)
        assert rule.tick(103.0) == acts
