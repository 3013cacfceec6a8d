"""What is done in storage that others may write to, as it is counted."""

from bocage import under_way


def test_what_is_over_is_forgotten_without_anybody_asking() -> None:
    every = under_way.UnderWay()
    lasts = [True]
    for _ in range(10):
        every.note(lambda: lasts[0])
    for _ in range(10_000):
        every.note(lambda: False)
    assert len(every._begun) < 1000
    assert every.busy
    lasts[0] = False
    assert not every.busy
