from bocage import words
from bocage.planner import capacity

GIB = 1 << 30
ROOM = capacity.Room(total=100 * GIB, free=30 * GIB, promised=10 * GIB, reserve=5 * GIB)


def test_what_fits_with_the_reserve_left_has_no_reason_against_it() -> None:
    assert capacity.fits("local", ROOM, capacity.Growth(now=5 * GIB, later=10 * GIB)) is None
    assert capacity.fits("local", ROOM, capacity.Growth()) is None


def test_what_is_written_at_once_may_not_break_into_the_reserve() -> None:
    assert capacity.fits("local", ROOM, capacity.Growth(now=25 * GIB)) is None
    reason = capacity.fits("local", ROOM, capacity.Growth(now=25 * GIB + 1))
    assert isinstance(reason, capacity.NoRoom)
    assert words.say(reason) == "storage local has 30G free and keeps 5G of it; 25G are needed"


def test_thin_disks_that_could_fill_the_storage_are_refused_unless_that_is_wanted() -> None:
    growth = capacity.Growth(later=15 * GIB + 1)
    assert isinstance(capacity.fits("local", ROOM, growth), capacity.CouldFill)
    assert capacity.fits("local", ROOM, growth, overcommit=True) is None
    assert capacity.fits("local", ROOM, capacity.Growth(later=15 * GIB)) is None


def test_overcommit_does_not_let_anything_be_written_into_the_reserve() -> None:
    full = capacity.Room(total=100 * GIB, free=4 * GIB, promised=0, reserve=5 * GIB)
    assert isinstance(capacity.fits("local", full, capacity.Growth(now=1), overcommit=True), capacity.NoRoom)


def test_a_vm_that_grows_no_more_may_start_on_an_overfull_storage() -> None:
    full = capacity.Room(total=100 * GIB, free=0, promised=50 * GIB, reserve=5 * GIB)
    assert capacity.fits("local", full, capacity.Growth()) is None


def test_the_reserve_is_a_part_of_the_storage_within_bounds() -> None:
    assert capacity.reserve(4 * GIB) == 4 * GIB // 10
    assert capacity.reserve(15 * GIB) == GIB
    assert capacity.reserve(200 * GIB) == 10 * GIB
    assert capacity.reserve(10_000 * GIB) == 64 * GIB
