"""A board that moves to a newer machine type: killed in the middle, and refused by the rehearsal."""

from __future__ import annotations

import pytest

from bocage.engine.qemu import processes
from tests.daemon.host import Document, Host

pytestmark = [pytest.mark.guest, pytest.mark.fault, pytest.mark.slow]
OLD = "pc-i440fx-2.4"


def old_vm(host: Host, **hardware: str) -> Document:
    """A stopped VM with an old board."""
    host.create("old", machine="pc", nics=[])
    document = host.vm("old")
    document["spec"]["hardware"] |= {"machine": OLD, **hardware}
    return host.api.vms.replace("old", {key: document[key] for key in ("metadata", "spec")})


def copies(host: Host, uid: str) -> list[processes.Found]:
    """What runs of a rehearsal."""
    return processes.find(host.homes.vm_runtime(f"{uid}-new"))


def test_a_daemon_killed_in_the_rehearsal_carries_on_and_leaves_no_copy(tiny_host: Host):
    host = tiny_host
    uid = old_vm(host)["metadata"]["uid"]
    task = host.api.vms.upgrade_hardware("old")
    host.until(lambda: (host.homes.vm_runtime(f"{uid}-new") / "io/qmp").exists(), bool)  # it runs
    host.kill()
    assert copies(host, uid)
    host.start()
    assert host.vm("old")["spec"]["hardware"]["machine"] == OLD
    host.done(task)
    assert (
        host.vm("old")["spec"]["hardware"]["machine"] == host.api.hosts.list()["items"][0]["status"]["machines"]["pc"]
    )
    assert copies(host, uid) == []
    assert host.half_made() == []
    assert not host.homes.vm_runtime(f"{uid}-new").exists()
    host.done(host.api.vms.start("old"))
    host.api.vms.expect("old", "^tiny: ready", timeout=60.0)
    host.done(host.api.vms.act("old", "kill"))


def test_a_board_on_which_the_copy_does_not_start_is_not_taken(tiny_host: Host):
    uid = old_vm(tiny_host, cpu_model="no-such-cpu")["metadata"]["uid"]
    ended = tiny_host.ended(tiny_host.api.vms.upgrade_hardware("old"))
    assert ended["status"]["problem"]["type"] == "hardware-rehearsal-failed"
    assert "no-such-cpu" in ended["status"]["problem"]["params"]["reason"]
    assert tiny_host.vm("old")["spec"]["hardware"]["machine"] == OLD
    assert copies(tiny_host, uid) == []
    assert tiny_host.half_made() == []
