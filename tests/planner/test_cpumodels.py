"""Which CPU a VM is given."""

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bocage.model import ground, requests
from bocage.planner import cpumodels, definition
from tests.planner import things
from tests.planner.test_definition import FACTS, define

INTEL = ("Cascadelake-Server-v3", "Skylake-Server-v3", "Haswell-v4", "Westmere-v1", "Conroe-v1", "qemu64-v1")
AMD = ("EPYC-Milan-v1", "EPYC-v1", "Opteron_G2-v1", "kvm64-v1")
KINDS = st.sampled_from([("tcg", "intel"), ("tcg", "amd"), ("kvm", "intel"), ("kvm", "amd")])


@st.composite
def statuses(draw: st.DrawFn) -> ground.HostStatus:
    accelerator, maker = draw(KINDS)
    models = draw(st.frozensets(st.sampled_from([*INTEL, *AMD, "pentium-v1"])))
    best = cpumodels.best(models, maker=maker if accelerator == "kvm" else "") or ""
    return ground.HostStatus(
        accelerator=accelerator, cpu_maker=maker, cpu_models=tuple(sorted(models)), cpu_model=best or "pentium-v1"
    )


def kvm(*models: str, maker: str = "intel") -> ground.HostStatus:
    best = cpumodels.best(models, maker=maker) or ""
    return ground.HostStatus(accelerator="kvm", cpu_maker=maker, cpu_models=models, cpu_model=best)


def test_the_baseline_is_the_newest_that_every_host_of_a_maker_runs():
    old, new = kvm("Westmere-v1", "Haswell-v4", "qemu64-v1"), kvm(*INTEL)
    amd, emulating = kvm(*AMD, maker="amd"), ground.HostStatus(accelerator="tcg", cpu_models=("Conroe-v1",))
    assert cpumodels.baseline(new, [new]) == "Cascadelake-Server-v3"
    assert cpumodels.baseline(new, [new, old, amd, emulating, ground.HostStatus()]) == "Haswell-v4"
    assert cpumodels.baseline(amd, [new, old, amd]) == "EPYC-Milan-v1"
    assert cpumodels.baseline(new, [new, kvm("Opteron_G2-v1")]) == "Cascadelake-Server-v3"  # nothing in common


@given(statuses(), st.lists(statuses(), max_size=5))
def test_a_baseline_runs_on_all_hosts_of_the_kind_and_none_that_does_is_newer(host, others):
    chosen = cpumodels.baseline(host, others)
    maker = host.cpu_maker if host.accelerator == "kvm" else ""
    alike = [host, *(one for one in others if one.cpu_models and (one.accelerator, maker) == (host.accelerator, maker))]
    if maker:
        alike = [one for one in alike if one.cpu_maker == maker]
    common = set.intersection(*(set(one.cpu_models) for one in alike))
    candidates = (*AMD[:-1], "qemu64-v1", "kvm64-v1") if maker == "amd" else (*INTEL, "kvm64-v1")
    expected = [name for name in candidates if name in common]
    assert chosen == (expected[0] if expected else host.cpu_model)


@given(statuses(), st.lists(statuses(), max_size=4))
def test_the_order_of_hosts_and_naming_one_twice_change_nothing(host, others):
    chosen = {cpumodels.baseline(host, order) for order in itertools.permutations(others)}
    assert chosen == {cpumodels.baseline(host, [host, *others, *others])}


@given(statuses(), st.lists(statuses(), max_size=4), statuses())
def test_another_host_never_brings_a_newer_model(host, others, another):
    names = [*INTEL[:-1], *AMD[:-1], "qemu64-v1", "kvm64-v1"]
    before, after = cpumodels.baseline(host, others), cpumodels.baseline(host, [*others, another])
    if before in names and after in names and after != host.cpu_model:  # where they have something in common
        assert names.index(after) >= names.index(before)


def test_a_new_vm_gets_the_baseline_of_all_hosts_and_the_real_cpu_only_where_there_is_kvm():
    machines = {"machines": FACTS.host.status.machines}
    here = FACTS.host.model_copy(update={"status": kvm(*INTEL).model_copy(update=machines)})
    there = things.host(status=kvm("Westmere-v1", "Conroe-v1"))
    facts = dataclasses.replace(FACTS, host=here, hosts=[here, there])
    assert define(facts, image="tiny").vm.spec.hardware.cpu_model == "Westmere-v1"
    assert define(facts, image="tiny", cpu_model="Haswell-v4").vm.spec.hardware.cpu_model == "Haswell-v4"
    own = define(facts, image="tiny", cpu_model="host").vm
    assert own.spec.hardware.cpu_model == "host"
    patch = requests.VMPatch(cpu_model="baseline")
    changed = definition.change(own, patch, host=here, hosts=[here, there])
    assert changed.spec.hardware == own.spec.hardware.model_copy(update={"cpu_model": "Westmere-v1"})
    emulating = dataclasses.replace(
        facts, host=here.model_copy(update={"status": here.status.model_copy(update={"accelerator": "tcg"})})
    )
    with pytest.raises(cpumodels.NeedsKvm):
        define(emulating, image="tiny", cpu_model="host")
