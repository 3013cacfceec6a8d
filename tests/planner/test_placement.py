"""Where a VM is to be, and what is said of every host."""

import tracemalloc

from hypothesis import given, settings
from hypothesis import strategies as some

from bocage import words
from bocage.model import plan
from bocage.planner import moves, occupancy, placement
from tests.planner import worlds
from tests.planner.worlds import host, vm, world


def refused(asked: plan.PlanVM, *parts: plan.PlanHost | plan.PlanVM, survive: int = 0) -> dict[str, list[str]]:
    """The types of all reasons by host."""
    placed = placement.place(asked, world(*parts, survive=survive))
    return {one.host: [reason.type for reason in one.reasons] for one in placed.verdicts}


def test_the_host_that_is_left_best_balanced_gets_it_and_every_host_has_its_answer():
    placed = placement.place(vm("new"), world(host("host1"), host("host2"), vm("old", 2, "host1")))
    assert placed.host == "host2"
    assert placed.because.type == "placed-best"
    assert [one.host for one in placed.verdicts] == ["host2", "host1"]
    assert placed.verdicts[0].memory_left == 7 * worlds.GiB
    assert "2 hosts" in placed.because.text


def test_equal_hosts_are_taken_in_the_order_of_their_names():
    assert placement.place(vm("new"), world(host("host2"), host("host1"))).host == "host1"


def test_each_wish_that_a_host_does_not_fulfil_is_said():
    poor = host("host1", 1, state="draining", storages=(), machines=("pc-q35-7.2",), cpu_models=("qemu64",), tpm=False)
    poor = poor.model_copy(update={"firmware": ("bios",)})
    board = plan.PlanBoard(machine="pc-q35-9.0", cpu_model="EPYC", firmware="uefi", tpm=True)
    asked = vm("new", 2, networks=("office",), host_tags=("ssd",), hardware=board)
    assert refused(asked, poor)["host1"] == [
        "host-takes-no-vms",
        "host-lacks-storage",
        "host-lacks-network",
        "host-lacks-tag",
        "host-lacks-machine",
        "host-lacks-cpu",
        "host-lacks-firmware",
        "host-lacks-tpm",
        "admission-no-memory",
    ]
    placed = placement.place(asked, world(poor))
    assert (placed.host, placed.because.type) == (None, "placed-nowhere")
    assert all(words.say(reason.message) for reason in placed.verdicts[0].reasons)


def test_what_stays_apart_and_what_stays_together_is_said_with_whom():
    there = (
        host("host1"),
        host("host2"),
        vm("web1", 1, "host1", apart=("web",)),
        vm("db1", 1, "host2", together=("db",)),
    )
    assert refused(vm("web2", apart=("web",)), *there) == {"host1": ["host-has-what-stays-apart"], "host2": []}
    assert refused(vm("app", together=("db",)), *there) == {"host1": ["host-lacks-what-stays-together"], "host2": []}
    placed = placement.place(vm("web2", apart=("web",)), world(*there))
    assert placed.verdicts[1].reasons[0].text == "web1 is on host1, and VMs of the group web stand apart"


def test_local_disks_and_replicas_need_room_on_two_hosts():
    big = (host("host1", disk="10G"), host("host2", disk="10G"), host("host3", disk="2G"))
    placed = placement.place(vm("new", disk="4G", replicated=True), world(*big))
    assert (placed.host, placed.replica) == ("host1", "host2")
    assert refused(vm("new", disk="4G", replicated=True), *big)["host3"] == ["host-lacks-disk"]
    assert refused(vm("new", disk="4G", replicated=True), *big[1:])["host2"] == ["host-without-replica-host"]


def test_a_new_vm_with_a_replica_that_is_to_see_its_hosts_cpu_may_be_on_one_of_any_kind():
    kinds = (host("host1", cpu_kind="intel"), host("host2", cpu_kind="intel"), host("host3", cpu_kind="amd"))
    asked = vm("new", replicated=True, hardware=plan.PlanBoard(cpu_model="host"))
    assert refused(asked, *kinds) == {"host1": [], "host2": [], "host3": []}


def test_a_host_is_refused_when_the_cluster_would_no_more_survive_the_death_of_one():
    full = (host("host1", 4), host("host2", 4), vm("old", 3, "host1"))
    assert refused(vm("new", 1), *full, survive=1) == {"host1": [], "host2": []}
    found = refused(vm("new", 2), *full, survive=1)
    assert found == {"host1": ["admission-no-memory"], "host2": ["host-breaks-survival"]}
    placed = placement.place(vm("new", 2), world(*full, survive=1))
    said = [reason.text for one in placed.verdicts for reason in one.reasons if reason.type == "host-breaks-survival"]
    assert said == [
        "with it on host2, old could not start again if host1 died: "
        "it needs 3G, and no host that may have it has that left then: 1G are missing"
    ]


def test_without_hosts_that_is_the_reason():
    assert placement.place(vm("new"), world()).because.type == "no-hosts"


@settings(max_examples=100, deadline=None)
@given(worlds.worlds(), some.integers(1, 4), some.sampled_from([(), ("a",)]), some.sampled_from([(), ("t",)]))
def test_the_chosen_host_has_room_and_breaks_nothing_and_each_refused_one_is_explained(of, memory, apart, together):
    asked = vm("new", memory, apart=apart, together=together)
    placed = placement.place(asked, of)
    assert placement.place(asked, of) == placed
    assert sorted(one.host for one in placed.verdicts) == sorted(one.name for one in of.hosts)
    assert (placed.host is None) == all(one.reasons for one in placed.verdicts)
    assert all(words.say(reason.message) for one in placed.verdicts for reason in one.reasons)
    for verdict in placed.verdicts:
        there = next(one for one in of.hosts if one.name == verdict.host)
        then = of.model_copy(update={"vms": (*of.vms, asked.model_copy(update={"host": there.name}))})
        broken = {pair for pair in worlds.groups_broken(then) if asked.key in pair}
        lonely = any("together" in pair for pair in broken) and not any(
            one.host == there.name and "t" in one.together for one in of.vms
        )
        wrong = not worlds.may_stand(asked, there) or lonely or any("apart" in pair for pair in broken)
        if not verdict.reasons:
            assert not wrong
            assert worlds.room(then, there)
            assert abs(worlds.score(then) - (verdict.score or 0.0)) < 1e-6
        elif [reason.type for reason in verdict.reasons] == ["host-breaks-replicas"]:
            assert worlds.unready(then) > worlds.unready(of)
        elif [reason.type for reason in verdict.reasons] == ["host-breaks-survival"]:
            assert worlds.room(then, there)
            assert not worlds.survived(then)
        else:
            assert wrong or not worlds.room(then, there)


@settings(max_examples=40, deadline=None)
@given(worlds.worlds(), some.randoms(use_true_random=False))
def test_the_order_in_which_hosts_and_vms_are_told_does_not_matter(of, random):
    hosts, vms = list(of.hosts), list(of.vms)
    random.shuffle(hosts)
    random.shuffle(vms)
    mixed = of.model_copy(update={"hosts": tuple(hosts), "vms": tuple(vms)})
    assert placement.place(vm("new"), mixed).host == placement.place(vm("new"), of).host


def test_what_a_large_group_costs_does_not_grow_with_its_square():
    def held(count: int) -> int:
        of = world(host("host1", 8000), *(vm(f"vm{n}", 1, "host1", apart=("web",)) for n in range(count)))
        there = occupancy.Occupancy(of)
        tracemalloc.start()
        state = moves.State(there)
        taken = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert state.held is there
        return taken

    assert held(600) < 6 * held(150)  # 16 times as much, were it the square


def test_who_could_not_start_again_is_one_that_could_before():
    there = (host("host1", 10), host("host2"), vm("big", 9, "host1"), vm("small", 1, "host1"))
    placed = placement.place(vm("new", 8), world(*there, survive=1))
    reason = next(one for one in placed.verdicts if one.host == "host2").reasons[0]
    assert (reason.type, reason.params["vm"]) == ("host-breaks-survival", "small")


def test_a_host_without_memory_is_one_that_has_no_room():
    there = (host("host1"), host("host2"), host("empty", 0), vm("old", 1, "host1", replica="host2"))
    placed = placement.place(vm("new"), world(*there))
    assert [one.host for one in placed.verdicts if one.reasons] == ["empty"]
