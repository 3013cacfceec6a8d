import itertools
import time
import uuid

from bocage.model import base


def test_what_happens_within_one_millisecond_keeps_its_order():
    made = []
    for _ in range(200):
        made.append(base.timed_uid())
        time.sleep(2e-6)
    assert all(one < other for one, other in itertools.pairwise(made))
    assert {uuid.UUID(one).version for one in made} == {7}


def test_the_time_stands_in_an_identity_that_sorts_by_it():
    before = time.time_ns() // 1_000_000
    made = uuid.UUID(base.timed_uid()).int >> 80
    assert before <= made <= time.time_ns() // 1_000_000
