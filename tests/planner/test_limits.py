import pytest

from bocage import errors
from bocage.planner import limits
from tests.planner import things

HOST = things.host(status={"memory_bytes": 24 << 30})


def test_more_memory_than_the_host_has_is_refused_with_the_field_and_what_it_has():
    limits.check(things.machine(memory="24G").spec, HOST)
    with pytest.raises(errors.InvalidFields) as refused:
        limits.check(things.machine(memory="4T").spec, HOST, path="spec")
    [fault] = refused.value.faults
    assert fault == {
        "path": "spec.memory",
        "wrong": "4T is more memory than the host has",
        "right": "less than the 24G of host1, which needs some for itself",
    }


def test_a_vm_from_a_larger_host_is_changed_in_all_else():
    large = things.machine(memory="4T").spec
    limits.check(large, HOST, present=large)
    limits.check(large, None)
    limits.check(large, things.host())  # nobody has looked yet


def test_a_tag_that_the_only_host_lacks_is_refused_when_it_is_asked_for():
    asked = things.machine(placement={"host_tags": ["ssd", "gpu"]}).spec
    tagged = things.host(metadata={"uid": things.HOST, "name": "host1", "tags": ["ssd"]})
    with pytest.raises(errors.InvalidFields) as refused:
        limits.check(asked, tagged, path="spec")
    [fault] = refused.value.faults
    assert (fault["path"], fault["wrong"]) == (
        "spec.placement.host_tags",
        "host1 has no tag gpu, and no other host reaches the VM's storage",
    )
    limits.check(asked, tagged, present=asked)
    limits.check(asked, None)
