"""A daemon that is killed while it becomes a cluster: it is by itself as before, or a cluster, and its VM runs on."""

from __future__ import annotations

import contextlib
import os
import pathlib
import random
import subprocess
import threading
import time

import pytest

from bocage.engine.qemu import processes
from tests.daemon import host as hosts

pytestmark = [pytest.mark.slow, pytest.mark.fault, pytest.mark.guest]
ADDRESS = f"127.{64 + os.getpid() % 128}.{os.getpid() // 128 % 256}.1"


@pytest.mark.parametrize("reached", ["cluster/ca.crt", "cluster/etcd/member", "cluster/cluster.json"])
def test_it_is_one_or_the_other(reached: str, tiny_image: pathlib.Path, dice: random.Random) -> None:
    with hosts.host() as host:
        host.start()
        host.add_tiny(tiny_image)
        host.create("web1", start=True)
        host.becomes("web1", "running")
        before = host.vm("web1")["metadata"]["uid"], [one.identity for one in host.qemus()]
        asking = threading.Thread(target=lambda: _ask(host))
        asking.start()
        while not (host.path / reached).exists():
            assert asking.is_alive()
        time.sleep(dice.choice([0.0, 0.02, 0.1, 0.3]))
        host.kill()
        asking.join()
        host.start()
        in_one = (host.path / "cluster/cluster.json").exists()
        assert (host.api.cluster.show()["incarnation"] is not None) == in_one
        assert (host.vm("web1")["metadata"]["uid"], [one.identity for one in host.qemus()]) == before
        host.done(host.api.vms.stop("web1", kill=True))
        members = [one for one in processes.find(host.homes.etcd) if one.arguments[0] == "etcd"]
        assert len(members) == in_one
        assert host.homes.database.exists() != in_one
        if not in_one:
            assert not host.homes.cluster.exists()
            assert _ask(host).returncode == 0
            assert host.api.cluster.show()["members"]
            assert host.vm("web1")["status"]["state"] == "stopped"


def _ask(host: hosts.Host) -> subprocess.CompletedProcess[str]:
    with contextlib.suppress(subprocess.TimeoutExpired):
        return host.run("cluster", "init", "--address", ADDRESS, within=40)
    return subprocess.CompletedProcess([], 1, "", "")
