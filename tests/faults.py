"""The faults that must be survived, each in full count: what `script/soak` plays beside the rounds of `kill`.

The tests of a fault run a few of its rounds; here every point is tried (`BOCAGE_TEST_EVERY`), or it is played again
and again with other seeds.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import subprocess
import sys

TOP = pathlib.Path(__file__).parent.parent
_BOUND = 6 * 3600  # seconds of one test: some have hundreds of points


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """What happens, the tests that cause it, and how often they are played."""

    name: str
    tests: tuple[str, ...]
    times: int = 1
    only: str = ""  # pytest's -k


FAULTS = (
    Fault("killed at each point of what is done to a VM", ("tests/node/test_crash.py",)),
    Fault(
        "killed at each point of a rescue, a burned CD, the firewall, a template", ("tests/node/test_crash_beside.py",)
    ),
    Fault("killed at each point while a USB device comes or goes", ("tests/node/test_usb.py",), only="killed"),
    Fault("killed while a newer board is rehearsed", ("tests/daemon/test_upgrading.py",), times=5),
    Fault(
        "killed while a share, memory, a NIC are changed",
        ("tests/node",),
        times=5,
        only="daemon_that_ends or daemon_that_is_back",
    ),
    Fault("power cut during snapshot and commit", ("tests/node/test_power_cut.py",), times=20),
    Fault(
        "storage full in the midst of a merge, a flatten, a move",
        ("tests/node/test_full_while_merging.py", "tests/node/test_relocating.py"),
        times=10,
        only="full or fit",
    ),
    Fault("200 snapshots", ("tests/node/test_snapshots.py",), only="many"),
    Fault(
        "guest agent that lies, hangs, floods",
        ("tests/engine/qemu/test_agent.py", "tests/engine/qemu/test_inside.py", "tests/node/test_snapshots.py"),
        times=5,
        only="agent or megabyte or believed",
    ),
    Fault(
        "guest that refuses to give memory",
        ("tests/node/test_dynamic_memory.py", "tests/node/test_adapting.py"),
        times=5,
        only="gives_nothing or peak",
    ),
    Fault(
        "clock that jumps under schedules",
        ("tests/planner/test_retention.py", "tests/node/test_schedules.py", "tests/daemon/test_faults.py"),
        times=5,
        only="clock or hour or period",
    ),
    Fault(
        "hostile guest on the serial line",
        ("tests/engine/qemu/test_console.py", "tests/engine/qemu/test_boundedlog.py"),
        times=5,
    ),
    Fault(
        "etcd members killed, frozen, cut off; answers late",
        ("tests/store/test_model_etcd.py", "tests/store/test_etcd_history.py"),
        times=2,
    ),
    Fault("simulated clusters in trouble, and each rule broken once", ("tests/protocol/test_simulation.py",), times=5),
    Fault("swtpm killed", ("tests/daemon/test_old_systems.py",), times=10, only="killed_tpm"),
)


def play(fault: Fault, seed: str) -> bool:
    """Play it once; whether all of its tests passed."""
    line = [sys.executable, "-m", "pytest", "-o", f"timeout={_BOUND}", *fault.tests]
    line += ["-k", fault.only] if fault.only else []
    environment = {**os.environ, "BOCAGE_TEST_EVERY": "1", "BOCAGE_TEST_SEED": seed}
    return subprocess.run(line, cwd=TOP, env=environment, check=False).returncode == 0
