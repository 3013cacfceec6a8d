"""A VM that an earlier release started runs on under this one: the earlier code really runs, in a daemon of its own."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.daemon import host as hosts
from tests.releases import older

pytestmark = [
    pytest.mark.guest,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="the earlier releases are run as they were tried"),
]
# What a release is that does not get its database to its own version.
BROKEN = """
import sys
from bocage.store import schema
def fails(connection):
    connection.execute("CREATE TABLE half_made (it TEXT)")
    connection.execute("INSERT INTO nowhere VALUES (1)")
schema.MIGRATIONS = (*schema.MIGRATIONS, fails)
sys.argv = ["bocage", "daemon", "run"]
from bocage import cli
sys.exit(cli.main())
"""


@pytest.fixture(params=older.COMMITS)
def host(request: pytest.FixtureRequest, tmp_path: pathlib.Path, tiny_image: pathlib.Path) -> Iterator[hosts.Host]:
    """A home of an earlier release, whose daemon runs."""
    code = older.unpack(request.param, tmp_path)
    with hosts.host() as made:
        made.environment["PYTHONPATH"] = str(code)
        made.start()
        made.add_tiny(tiny_image)
        yield made


def identity(host: hosts.Host) -> tuple[int, str]:
    """The pid of the only QEMU and when it began: another process never has both."""
    (found,) = host.qemus()
    assert host.vm("kept")["status"]["pid"] == found.identity.pid
    return found.identity.pid, pathlib.Path(f"/proc/{found.identity.pid}/stat").read_text().split()[21]


def test_its_vm_runs_on_through_a_failed_migration_and_under_this_release(host: hosts.Host):
    host.create("kept", start=True)
    host.api.vms.expect("kept", "^tiny: ready", timeout=60.0)
    host.api.vms.expect("kept", "^marked", send="touch /tmp/left-here; echo mar''ked", timeout=60.0)
    before = identity(host)
    assert host.stop() == 0

    earlier = host.environment.pop("PYTHONPATH")
    broken = subprocess.run(
        [sys.executable, "-c", BROKEN], env=host.environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert broken.returncode not in (0, None)
    assert "nowhere" in broken.stderr + host.log()
    assert list(host.path.glob("*.bak"))
    host.environment["PYTHONPATH"] = earlier
    host.start()
    assert identity(host) == before
    assert host.stop() == 0

    del host.environment["PYTHONPATH"]
    host.start()
    assert host.vm("kept")["status"]["state"] == "running"
    assert identity(host) == before
    host.api.vms.expect("kept", "^left-here$", send="ls /tmp", timeout=60.0)
    # It is this release's own VM from now on: changed while it runs, stopped, started.
    host.done(host.api.vms.attach("kept", {"size": "4M"}))
    assert identity(host) == before
    host.done(host.api.vms.stop("kept"))
    host.done(host.api.vms.start("kept"))
    host.api.vms.expect("kept", "^tiny: ready", timeout=60.0)
    assert identity(host) != before
