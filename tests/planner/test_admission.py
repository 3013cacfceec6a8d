"""Whether a host has room for one VM more."""

from hypothesis import given, settings
from hypothesis import strategies as some

from bocage import words
from bocage.planner import admission
from bocage.planner.admission import Capacity, Demand

GiB = 1 << 30
HOST = Capacity(memory=8 * GiB, cpus=4)
demands = some.builds(
    Demand,
    memory=some.integers(1, 16 * GiB),
    vcpus=some.integers(1, 16),
    reserved=some.integers(0, 16).map(lambda quarters: quarters / 4),
)
capacities = some.builds(
    Capacity,
    memory=some.integers(GiB, 16 * GiB),
    cpus=some.integers(1, 16),
    memory_overcommit=some.sampled_from([0.5, 1.0, 1.5, 4.0]),
    cpu_overcommit=some.sampled_from([None, 1.0, 2.5, 8.0]),
)


@settings(deadline=None)
@given(capacities, some.lists(demands, max_size=30))
def test_whoever_comes_one_after_the_other_never_has_more_together_than_there_is(capacity, asking):
    taken: list[Demand] = []
    for one in asking:
        if admission.admit("host", capacity, admission.total(taken), one) is None:
            taken.append(one)
    together = admission.total(taken)
    assert together.memory <= capacity.memory * capacity.memory_overcommit
    assert together.reserved <= capacity.cpus
    assert capacity.cpu_overcommit is None or together.vcpus <= capacity.cpus * capacity.cpu_overcommit


@settings(deadline=None)
@given(capacities, demands, demands)
def test_one_that_runs_may_always_stay_as_it_is_or_have_less(capacity, others, present):
    less = Demand(present.memory // 2, max(present.vcpus // 2, 1), present.reserved / 2)
    assert admission.admit("host", capacity, others, present, present=present) is None
    assert admission.admit("host", capacity, others, less, present=present) is None


@settings(deadline=None)
@given(capacities, demands, demands)
def test_what_is_refused_is_refused_with_numbers_that_are_right_and_with_what_would_help(capacity, others, asked):
    refusal = admission.admit("host", capacity, others, asked)
    if isinstance(refusal, admission.NoMemory):
        assert refusal.needed > refusal.left == max(refusal.room - refusal.given, 0)
        less = Demand(refusal.left, asked.vcpus, asked.reserved)
        assert not isinstance(admission.admit("host", capacity, others, less), admission.NoMemory)
    elif refusal is not None:
        assert float(refusal.needed) > float(refusal.left)
    if refusal is not None:
        assert "host" in words.say(refusal)
        assert words.advise(refusal)


def test_memory_is_given_once_and_vcpus_as_often_as_is_wanted_unless_people_say_otherwise():
    full = Demand(memory=8 * GiB, vcpus=400)
    assert admission.admit("host", HOST, full, Demand(memory=0, vcpus=100)) is None
    refused = admission.admit("host", HOST, full, Demand(memory=GiB, vcpus=1))
    assert refused
    assert words.say(refused) == (
        "1G of memory are asked for and 0B are left on host: its VMs may have 8G together, and 8G of it are given"
    )


def test_what_is_reserved_is_never_given_twice():
    most = Capacity(memory=8 * GiB, cpus=4, cpu_overcommit=100)
    assert admission.admit("host", most, Demand(reserved=3.5), Demand(reserved=0.5)) is None
    refused = admission.admit("host", most, Demand(reserved=3.5), Demand(reserved=1))
    assert isinstance(refused, admission.NoReserve)
    assert words.say(refused) == "1 CPUs are to be reserved and 0.5 are left on host: of its 4, 3.5 are reserved"
