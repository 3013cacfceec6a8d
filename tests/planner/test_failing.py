"""Where VMs go whose host has died: together, large ones too, and with the reason where there is none."""

from bocage.model import plan
from bocage.planner import failing


def host(name: str, **fields) -> plan.PlanHost:
    return plan.PlanHost.model_validate({"name": name, "memory": "10G", "cpus": 8, "storages": ["array"], **fields})


def vm(name: str, at: str | None = "host1", **fields) -> plan.PlanVM:
    return plan.PlanVM.model_validate({"name": name, "memory": "1G", "host": at, "storages": ["array"], **fields})


def world(*vms: plan.PlanVM, **hosts) -> plan.World:
    dead = host("host1", state="silent", storages=["array", "local"])
    return plan.World(hosts=(dead, host("host2", **hosts), host("host3")), vms=vms)


def test_all_find_room_together_where_one_by_one_they_would_not():
    held = [vm("a", memory="4G"), vm("b", memory="6G"), vm("c", memory="4G"), vm("d", memory="6G")]
    found = failing.homes(world(*held), ["a", "b", "c", "d"])
    assert found.nowhere == {}
    assert {found.where["a"], found.where["b"]} <= {"host2", "host3"}
    for name in ("host2", "host3"):
        assert sum(int(one.memory) for one in held if found.where[one.key] == name) <= 10 << 30


def test_what_others_have_is_not_given_again():
    found = failing.homes(world(vm("a", memory="6G"), vm("on2", "host2", memory="6G")), ["a"])
    assert found.where == {"a": "host3"}


def test_one_that_nobody_has_is_given_like_the_others():
    assert failing.homes(world(vm("a", None)), ["a"]).where["a"] in ("host2", "host3")


def test_those_that_are_off_take_no_room_and_are_spread():
    vms = [vm(f"off{n}", running=False, memory="9G") for n in range(4)]
    found = failing.homes(world(*vms), [one.key for one in vms])
    assert sorted(found.where.values()) == ["host2", "host2", "host3", "host3"]


def test_the_reason_names_who_alone_could_have_it_or_what_is_lacking():
    vms = [vm("alone", storages=["local"]), vm("huge", memory="64G"), vm("off", storages=["local"], running=False)]
    tagged = vm("tagged", host_tags=["ssd"])
    found = failing.homes(world(*vms, tagged), ["alone", "huge", "off", "tagged"])
    assert found.where == {}
    types = {name: reason.type for name, reason in found.nowhere.items()}
    assert types["alone"] == types["off"] == "survive-unreached"
    assert found.nowhere["alone"].params == {"hosts": "host1"}
    assert types["huge"] == "survive-no-room"
    assert types["tagged"] == "host-lacks-tag"


def test_groups_that_stand_apart_do_so_then():
    vms = [vm("a", apart=["web"]), vm("b", apart=["web"]), vm("c", apart=["web"])]
    found = failing.homes(world(*vms), ["a", "b", "c"])
    assert sorted(found.where.values()) == ["host2", "host3"]
    assert [reason.type for reason in found.nowhere.values()] == ["survive-kept-apart"]


def test_a_host_that_is_not_ready_gets_none():
    found = failing.homes(world(vm("a"), vm("off", running=False), state="draining"), ["a", "off"])
    assert set(found.where.values()) == {"host3"}
