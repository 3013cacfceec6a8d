"""What each guest of a host should have: never too little, never too much, and by weight when it is short."""

import dataclasses

from hypothesis import given
from hypothesis import strategies as some

from bocage.model.units import GiB, MiB
from bocage.planner import memory
from bocage.planner.memory import GRAIN, Decision, Guest, Host

SPAN = 1.0


@some.composite
def a_guest(draw, *, known=True):
    minimum = draw(some.integers(16, 2048)) * MiB
    maximum = minimum + draw(some.integers(0, 4096)) * MiB
    has = draw(some.integers(minimum // 2, maximum))
    return Guest(
        minimum=minimum,
        maximum=maximum,
        buffer=draw(some.integers(0, 200)),
        weight=draw(some.integers(1, 10_000)),
        has=has,
        asked=draw(some.one_of(some.just(max(has, minimum)), some.integers(minimum, maximum))),
        needs=(needs := draw(some.integers(0, has)) if known and draw(some.integers(0, 9)) else None),
        may_need=draw(some.integers(needs or 0, maximum)),
        rise=draw(some.sampled_from([0, 0, 30 * MiB])),
        peak=draw(some.integers(0, maximum)),
        pressed=draw(some.booleans()),
    )


guests = some.dictionaries(some.text("abcdef", min_size=1, max_size=2), a_guest(), max_size=8)
budgets = some.integers(0, 32 * GiB)


def held(these, asked):
    return sum(max(guest.has, asked[uid]) for uid, guest in these.items())


@given(guests, budgets)
def test_the_sum_stays_within_the_budget_or_does_not_grow(these, within):
    asked = {uid: one.target for uid, one in memory.divide(these, within, SPAN).items()}
    before = held(these, {uid: guest.asked for uid, guest in these.items()})
    assert held(these, asked) <= max(within, before)


@given(guests, budgets)
def test_nobody_is_asked_to_have_less_than_it_needs_now_or_than_its_minimum(these, within):
    for uid, one in memory.divide(these, within, SPAN).items():
        guest = these[uid]
        if one.target < guest.has and one.target != guest.asked:
            assert guest.needs is not None
            assert one.target >= min(guest.may_need, guest.has)
            assert one.target >= min(guest.minimum, guest.has)
            assert guest.has - one.target <= max(guest.has - guest.may_need, 0) / 2 + 1  # and that not at once


@given(guests, budgets)
def test_nobody_gets_more_than_its_maximum(these, within):
    for uid, one in memory.divide(these, within, SPAN).items():
        assert one.target <= max(these[uid].maximum, these[uid].asked)


@given(guests, budgets)
def test_a_guest_of_whom_nothing_is_known_is_left_alone(these, within):
    for uid, one in memory.divide(these, within, SPAN).items():
        if these[uid].needs is None:
            assert one.target == these[uid].asked


@given(guests, budgets)
def test_where_all_fits_who_lacks_something_gets_it_at_once(these, within):
    decided = memory.divide(these, within, SPAN)
    wanted = sum(max(these[uid].has, these[uid].asked, one.wants) for uid, one in decided.items())
    if wanted <= within:
        for uid, one in decided.items():
            if these[uid].needs is not None:
                assert one.target >= one.wants - GRAIN


@given(a_guest(known=False), some.integers(1, 10_000), some.integers(1, 10_000), budgets)
def test_of_two_alike_the_one_that_counts_more_never_gets_less(guest, less, more, within):
    less, more = sorted((less, more))
    guest = dataclasses.replace(guest, needs=guest.has // 2)
    pair = {"less": dataclasses.replace(guest, weight=less), "more": dataclasses.replace(guest, weight=more)}
    decided = memory.divide(pair, within, SPAN)
    assert decided["more"].target >= decided["less"].target - 1


@given(a_guest(), some.integers(0, 1 << 34))
def test_nobody_else_is_promised_what_a_guest_needs_or_has_not_given_yet(guest, before):
    kept = memory.kept(guest, before)
    assert min(guest.has, guest.needs or 0) <= kept <= guest.has
    if guest.needs is None:
        assert kept == guest.has
    elif guest.has > guest.asked + GRAIN:
        assert kept >= min(before, guest.has)
    else:
        assert kept == min(guest.needs, guest.has)


@dataclasses.dataclass
class Room:
    """Guests that do what they are asked, and what they need."""

    guests: dict[str, Guest]
    within: int
    words: int = 0  # that were said to guests

    def go(self, seconds, **needs):
        for _ in range(seconds):
            for uid, guest in self.guests.items():
                need = min(needs.get(uid, guest.needs or 0), guest.asked)
                rise = max(0, need - (guest.needs or 0))
                self.guests[uid] = dataclasses.replace(guest, has=guest.asked, needs=need, rise=rise)
            for uid, one in memory.divide(self.guests, self.within, SPAN).items():
                self.words += one.target != self.guests[uid].asked
                self.guests[uid] = dataclasses.replace(self.guests[uid], asked=one.target, peak=one.peak)
            assert sum(max(guest.has, guest.asked) for guest in self.guests.values()) <= self.within
        return {uid: guest.asked // MiB for uid, guest in self.guests.items()}


def three(within=900 * MiB, **changes):
    usual = Guest(
        minimum=128 * MiB, maximum=768 * MiB, buffer=20, weight=100, has=256 * MiB, asked=256 * MiB, needs=100 * MiB
    )
    return Room({name: dataclasses.replace(usual, **changes.get(name, {})) for name in ("one", "two", "three")}, within)


def test_a_peak_gets_the_others_buffers_within_seconds_and_gives_back_when_it_is_over():
    room = three()
    calm = room.go(120)
    assert set(calm.values()) <= {*range(128, 137)}  # as little as their minimum
    assert room.go(8, one=500 * MiB)["one"] >= 500 + 500 // 16
    after = room.go(240, one=100 * MiB)
    assert after["one"] <= 137
    room.words = 0
    assert room.go(60) == after  # and then it is quiet
    assert room.words == 0


def test_what_is_short_beyond_the_needs_is_divided_by_weight():
    hungry = {"needs": 240 * MiB, "buffer": 100}
    room = three(one={**hungry, "weight": 300}, two=hungry, three=hungry)
    had = room.go(60, one=240 * MiB, two=240 * MiB, three=240 * MiB)
    assert sum(had.values()) >= 890  # all of it is in use
    assert had["one"] > 380
    assert had["two"] == had["three"] >= 240 + 240 // 16


def test_needs_come_before_buffers_whatever_the_weights():
    calm = {"needs": 200 * MiB, "buffer": 50, "weight": 10_000}
    room = three(one={"weight": 1}, two=calm, three=calm)
    had = room.go(60, one=450 * MiB, two=200 * MiB, three=200 * MiB)
    assert had["one"] >= 450
    assert min(had["two"], had["three"]) >= 200


def test_a_guest_that_swaps_counts_as_one_that_needs_all_it_has():
    calm = Guest(
        minimum=128 * MiB, maximum=768 * MiB, buffer=20, weight=100, has=300 * MiB, asked=300 * MiB, needs=280 * MiB
    )
    [calm_one] = memory.divide({"a": calm}, 4 * GiB, SPAN).values()
    [pressed] = memory.divide({"a": dataclasses.replace(calm, pressed=True)}, 4 * GiB, SPAN).values()
    assert pressed.target > calm_one.target
    assert pressed.target >= 1.2 * calm.has - 1


def test_who_gives_nothing_is_not_asked_for_less_and_less_and_what_it_has_is_not_given_to_others():
    stuck = Guest(
        minimum=128 * MiB, maximum=768 * MiB, buffer=20, weight=100, has=700 * MiB, asked=400 * MiB, needs=100 * MiB
    )
    other = dataclasses.replace(stuck, has=256 * MiB, asked=256 * MiB, needs=250 * MiB)
    decided = memory.divide({"stuck": stuck, "other": other}, 960 * MiB, SPAN)
    assert decided["stuck"].target == 400 * MiB
    assert decided["other"].target <= 260 * MiB


def test_a_host_keeps_a_tenth_and_lends_less_when_it_waits_for_memory_itself():
    plain = Host(total=10 * GiB, available=8 * GiB)
    assert memory.budget(plain, 2 * GiB) == 9 * GiB
    assert memory.budget(dataclasses.replace(plain, fixed=4 * GiB), 2 * GiB) == 5 * GiB
    assert memory.budget(dataclasses.replace(plain, budget=3 * GiB, fixed=1 * GiB), GiB) == 2 * GiB
    assert memory.budget(dataclasses.replace(plain, available=GiB // 2), 5 * GiB) == 5 * GiB - GiB // 2
    assert memory.budget(dataclasses.replace(plain, pressure=0.5), 4 * GiB) == 4 * GiB - 4 * GiB // 32
    assert memory.budget(dataclasses.replace(plain, fixed=20 * GiB), 2 * GiB) == 0


def test_why_it_has_what_it_has():
    guest = Guest(minimum=128, maximum=1024, buffer=20, weight=1, has=512, asked=512, needs=400)
    assert memory.why(guest, Decision(480, 480, 0.0), short=False).type == "memory-as-needed"
    assert memory.why(guest, Decision(128, 128, 0.0), short=False).type == "memory-at-minimum"
    full = dataclasses.replace(guest, needs=1000)
    assert memory.why(full, Decision(1024, 1024, 0.0), short=False).type == "memory-at-maximum"
    assert memory.why(guest, Decision(480, 480 + 2 * GRAIN, 0.0), short=True).params == {"wants": 480 + 2 * GRAIN}
