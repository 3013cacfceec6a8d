from bocage import words
from bocage.planner import capacity
from tests.planner import things

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


def test_disks_that_could_outgrow_their_storage_are_warned_of_before_a_start_is_refused() -> None:
    status = {"state": "ready", "total_bytes": 100 * GIB, "free_bytes": 30 * GIB, "allocated_bytes": 20 * GIB}
    storage = things.storage(status=status)
    assert capacity.forewarn(storage, 45 * GIB) is None
    warning = capacity.forewarn(storage, 45 * GIB + 1)
    assert warning
    assert "could grow to 45G together, and it has room for 45G" in words.say(warning)
    allowed = storage.model_copy(update={"spec": storage.spec.model_copy(update={"overcommit": True})})
    assert capacity.forewarn(allowed, 900 * GIB) is None
    assert capacity.forewarn(things.storage(), 900 * GIB) is None, "it was not measured yet"
