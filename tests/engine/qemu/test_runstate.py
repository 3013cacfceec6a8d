"""What a machine does, from what QEMU says."""

from typing import Any

import pytest

from bocage.engine.base import Run
from bocage.engine.qemu import runstate

Told = tuple[str, dict[str, Any]]

STOP: Told = ("STOP", {})
RESUME: Told = ("RESUME", {})
FULL = ("BLOCK_IO_ERROR", {"action": "stop", "nospace": True})
FAILED = ("BLOCK_IO_ERROR", {"action": "stop", "nospace": False})
REPORTED = ("BLOCK_IO_ERROR", {"action": "report", "nospace": False})
PANIC = ("GUEST_PANICKED", {"action": "pause"})


def after(*events: Told, run: Run = Run.RUNNING) -> runstate.Seen:
    seen = runstate.Seen(run)
    for name, data in events:
        seen = runstate.after(seen, name, data)
    return seen


@pytest.mark.parametrize(
    ("events", "run"),
    [
        ([STOP], Run.PAUSED),
        ([STOP, RESUME], Run.RUNNING),
        ([FULL], Run.RUNNING),
        ([FULL, STOP], Run.STORAGE_FULL),
        ([STOP, FULL], Run.STORAGE_FULL),
        ([FAILED, STOP], Run.STORAGE_FAILED),
        ([FAILED, FULL, STOP], Run.STORAGE_FAILED),
        ([FULL, FAILED, STOP], Run.STORAGE_FAILED),
        ([FULL, STOP, RESUME], Run.RUNNING),
        ([FULL, STOP, RESUME, STOP], Run.PAUSED),
        ([REPORTED, STOP], Run.PAUSED),
        ([PANIC, STOP], Run.PANICKED),
        ([STOP, PANIC], Run.PANICKED),
        ([("SHUTDOWN", {"guest": True, "reason": "guest-shutdown"}), STOP], Run.SHUT_DOWN),
        ([("SHUTDOWN", {"guest": True, "reason": "guest-shutdown"})], Run.SHUT_DOWN),
        ([("RTC_CHANGE", {"offset": 1})], Run.RUNNING),
    ],
)
def test_events_in_any_order_lead_to_the_truth(events, run):
    assert after(*events).run is run


def test_the_reason_of_a_shutdown_is_remembered():
    assert after(("SHUTDOWN", {"reason": "guest-shutdown"}), STOP).shutdown == "guest-shutdown"


@pytest.mark.parametrize(
    ("status", "blocks", "run"),
    [
        ("running", [], Run.RUNNING),
        ("paused", [], Run.PAUSED),
        ("prelaunch", [], Run.PAUSED),
        ("postmigrate", [], Run.PAUSED),
        ("guest-panicked", [], Run.PANICKED),
        ("internal-error", [], Run.PANICKED),
        ("shutdown", [], Run.SHUT_DOWN),
        ("io-error", [{"io-status": "ok"}, {"io-status": "nospace"}], Run.STORAGE_FULL),
        ("io-error", [{"io-status": "failed"}, {"io-status": "nospace"}], Run.STORAGE_FAILED),
        ("io-error", [{}], Run.STORAGE_FAILED),
    ],
)
def test_a_status_and_the_disks_say_the_same_as_the_events_did(status, blocks, run):
    assert runstate.of_status(status, blocks) is run


@pytest.mark.parametrize(
    ("status", "paused", "half"),
    [
        ("prelaunch", False, True),
        ("prelaunch", True, False),
        ("inmigrate", False, True),
        ("inmigrate", True, True),
        ("paused", True, False),
        ("running", False, False),
    ],
)
def test_a_machine_whose_start_was_cut_off_is_told_from_one_that_was_stopped(status, paused, half):
    assert runstate.half_started(status, paused=paused) is half
