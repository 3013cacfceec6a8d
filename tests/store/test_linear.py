"""The checker of histories: what it must accept and what it must not."""

from __future__ import annotations

import random

import pytest

from tests.store.linear import NEVER, Operation, Undecided, Value, explain


def read(begin: float, end: float, value: Value) -> Operation:
    return Operation("read", begin, end, value)


def write(begin: float, end: float, value: Value) -> Operation:
    return Operation("write", begin, end, value)


def exchange(begin: float, end: float, expected: Value, value: Value, *, done: bool | None = True) -> Operation:
    return Operation("exchange", begin, end, value, expected, done)


@pytest.mark.parametrize(
    "history",
    [
        [],
        [write(0, 1, "a"), read(2, 3, "a")],
        [write(0, 5, "a"), read(1, 2, None), read(3, 4, "a")],
        [write(0, 5, "a"), write(0, 5, "b"), read(6, 7, "a")],
        [write(0, 1, "a"), write(2, 9, "b"), read(3, 4, "a"), read(5, 6, "b")],
        [write(0, NEVER, "a"), read(1, 2, None), read(8, 9, "a")],
        [write(0, NEVER, "a"), read(1, 2, None), read(8, 9, None)],
        [exchange(0, 1, None, "a"), exchange(0, 1, None, "b", done=False), read(2, 3, "a")],
        [exchange(0, NEVER, None, "a", done=None), read(1, 2, None), read(3, 4, "a")],
    ],
)
def test_what_can_have_happened_is_explained(history):
    found = explain(history)
    assert found is not None
    held: Value = None
    for one in found:
        after = one.after(held)
        assert after
        held = after[0]


@pytest.mark.parametrize(
    "history",
    [
        [read(0, 1, "a")],
        [write(0, 1, "a"), read(2, 3, None)],
        [write(0, 5, "a"), read(1, 2, "a"), read(3, 4, None)],
        [write(0, 1, "a"), write(2, 3, "b"), read(4, 5, "a")],
        [exchange(0, 1, None, "a"), exchange(0, 1, None, "b")],
        [exchange(0, 1, None, "a", done=False), read(2, 3, None)],
        [write(0, NEVER, "a"), read(1, 2, "a"), write(3, 4, "b"), read(5, 6, "a")],
        [exchange(0, NEVER, "x", "a", done=None), read(1, 2, "a")],
    ],
)
def test_what_cannot_have_happened_is_found(history):
    assert explain(history) is None


def played(dice: random.Random, count: int) -> list[Operation]:
    """A history of a true register: each operation happens at one moment between its begin and its end."""
    held: Value = None
    history = []
    for n in range(count):
        moment = float(n)
        begin, end = moment - dice.uniform(0, 3), moment + dice.uniform(0, 3)
        match dice.randrange(4):
            case 0:
                history.append(read(begin, end, held))
            case 1:
                held = f"v{n}"
                history.append(write(begin, end, held))
            case 2:
                history.append(exchange(begin, end, held, f"v{n}"))
                held = f"v{n}"
            case _:
                history.append(exchange(begin, end, "other", f"v{n}", done=False))
    return history


def test_long_histories_of_a_true_register_are_explained_and_one_stale_read_is_found(dice):
    for _ in range(20):
        history = played(dice, 300)
        assert explain(history) is not None
        written = [one for one in history if one.kind == "write"]
        old = written[len(written) // 2]
        assert explain([*history, read(400, 401, old.value)]) is None


def test_a_search_beyond_its_bound_says_so():
    history = [write(0, NEVER, f"v{n}") for n in range(30)] + [read(1, 2, "none")]
    with pytest.raises(Undecided):
        explain(history, bound=1000)
