import datetime

import pytest

from bocage.cli import people

NOW = datetime.datetime(2026, 5, 1, 12, 0, 0, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("then", "said"),
    [
        ("2026-05-01T12:00:00Z", "now"),
        ("2026-05-01T11:59:55Z", "5 s ago"),
        ("2026-05-01T11:59:20Z", "40 s ago"),
        ("2026-05-01T11:50:00Z", "10 min ago"),
        ("2026-05-01T02:00:00Z", "10 h ago"),
        ("2026-04-20T12:00:00Z", "11 d ago"),
        ("2026-05-01T15:00:00Z", "in 3 h"),
        ("2020-01-01T12:00:00Z", "2020-01-01"),
        (None, "-"),
    ],
)
def test_times_are_told_as_people_tell_them(then, said):
    assert people.ago(then, now=NOW) == said


def test_sizes_are_as_the_api_says_them_or_in_the_largest_unit():
    assert [people.size(one) for one in ("512M", 1536 << 20, 0, None)] == ["512M", "1.5G", "0B", "-"]


def test_a_saying_is_shown_in_the_words_of_the_api_and_else_by_its_type():
    assert people.saying({"type": "x", "params": {}, "text": "it is so"}) == "it is so"
    assert people.saying({"type": "of-the-future", "params": {"n": 3}}) == "of-the-future: n=3"
    assert people.saying(None) == ""


def test_vcpus_are_one_number_unless_they_have_a_shape():
    assert people.cpus({"sockets": 1, "cores": 4, "threads": 1}) == "4"
    assert people.cpus({"sockets": 2, "cores": 2, "threads": 2}) == "8 (sockets=2, cores=2, threads=2)"
