"""What a VM may not have that keeps a replica."""

import pytest

from bocage.model import board, vm
from bocage.planner import replicas
from tests.planner import things

KEPT = vm.Replica(host="5f0c9f1e-6f0a-4c53-9c1e-0d1f5a3f7c99", storage="7f0c9f1e-6f0a-4c53-9c1e-0d1f5a3f7c90")


def with_spec(machine: vm.VM, **fields: object) -> vm.VM:
    return machine.model_copy(update={"spec": machine.spec.model_copy(update=fields)})


def test_it_gets_no_disk_and_nothing_that_its_replica_would_lack():
    machine = things.machine(disks=[{"name": "disk0", "volume": "6e0c9f1e-6f0a-4c53-9c1e-0d1f5a3f7c91", "serial": "1"}])
    kept = with_spec(machine, replica=KEPT)
    more = with_spec(kept, disks=())
    tpm = with_spec(kept, hardware=kept.spec.hardware.model_copy(update={"tpm": board.Tpm.CRB}))
    assert kept.spec.disks
    with pytest.raises(replicas.NotMeanwhile):
        replicas.check_change(kept, more)
    with pytest.raises(replicas.Carries):
        replicas.check_change(kept, tpm)
    replicas.check_change(kept, with_spec(kept, notes="web"))
    replicas.check_change(kept, with_spec(more, replica=None))
    replicas.check_change(machine, kept)
