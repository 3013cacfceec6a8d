"""From counters to rates."""

from __future__ import annotations

from bocage.model import sample
from bocage.planner import rates


def test_the_increase_is_by_the_second_and_a_clock_that_stands_or_a_counter_that_falls_gives_none():
    assert rates.each_second(1.0, 3.0, 4.0) == 0.5
    assert rates.each_second(1.0, 3.0, 0.0) is None
    assert rates.each_second(3.0, 1.0, 4.0) is None


def test_disks_are_summed_one_that_came_counts_whole_and_one_that_went_takes_nothing_away():
    before = {"disk0": sample.DiskUse(reads=100, read_bytes=1000, read_seconds=1.0), "gone": sample.DiskUse(reads=999)}
    after = {
        "disk0": sample.DiskUse(reads=110, read_bytes=2000, read_seconds=1.5),
        "disk1": sample.DiskUse(reads=10, read_bytes=500, read_seconds=0.5),
    }
    found = rates.disks(before, after, 10.0)
    assert found["disk_reads"] == 2.0
    assert found["disk_read_bytes"] == 150.0
    assert found["disk_read_latency"] == 1.0 / 20
    assert found["disk_write_latency"] is None  # there was no write


def test_a_disk_that_was_taken_out_and_put_in_again_counts_from_nothing():
    found = rates.disks({"disk0": sample.DiskUse(writes=100)}, {"disk0": sample.DiskUse(writes=4)}, 2.0)
    assert found["disk_writes"] == 2.0


def test_without_any_counted_nic_there_is_no_rate():
    assert rates.nics({}, {}, 5.0) == {}
    found = rates.nics({"nic0": sample.NicUse()}, {"nic0": sample.NicUse(received_bytes=50)}, 5.0)
    assert (found["net_received_bytes"], found["net_sent_bytes"]) == (10.0, 0.0)


def test_sums_leave_out_what_nobody_counts_and_weigh_latencies_by_operations():
    busy = {"cpu": 1.0, "disk_reads": 3.0, "disk_read_latency": 0.1}
    idle = {"cpu": 0.5, "disk_reads": 1.0, "disk_read_latency": 0.5, "net_sent_bytes": None}
    found = rates.total([busy, idle, {}])
    assert found["cpu"] == 1.5
    assert found["disk_read_latency"] == (3 * 0.1 + 0.5) / 4
    assert found["net_sent_bytes"] is None
    assert found["disk_write_latency"] is None
