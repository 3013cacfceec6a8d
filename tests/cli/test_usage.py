"""`vm top`, `vm stats`, `vm isolation`, and what a host does."""

import json
from typing import Any

import pytest

from bocage.cli import chart, people
from bocage.model import sample
from tests.cli.conftest import Bocage
from tests.fake_api import FakeApi, listed, metadata, problem

TOP = "/projects/default/top"
STATS = "/projects/default/vms/web1/stats"
HOST = {
    "cpus": 8,
    "memory_total": 8 << 30,
    "memory_used": 2 << 30,
    "pressure": {"cpu": {"some_10": 0.125, "some_60": 0.0, "full_10": 0.0, "full_60": 0.0}},
    "given": {"memory": 3 << 30, "memory_room": 8 << 30, "vcpus": 5, "vcpus_room": 32, "cpus_reserved": 1.5},
    "ksm": {"on": True, "saved": 3 << 20},
    "now": {"cpu": 1.5, "disk_read_bytes": 4096.0},
}


def use(name: str, memory: int = 100 << 20, **now: float | None) -> dict[str, Any]:
    return {"name": name, "uid": name, "memory": memory, "disks": {}, "nics": {}, "now": now}


def test_the_hungriest_comes_first_and_the_host_stands_above(api: FakeApi, bocage: Bocage):
    api.on("GET", TOP, {"host": HOST, "vms": [use("idle", cpu=0.01), use("busy", cpu=1.2, wait=0.5), use("new")]})
    ended = bocage("vm", "top", "--once")
    lines = ended.out.splitlines()
    assert lines[0] == "Host: CPU 1.50 of 8, memory 2G of 8G"
    assert lines[1] == "Waiting in the last 10 s: cpu 12.5 %"
    assert lines[3].split()[:4] == ["NAME", "CPU", "WAIT", "MEMORY"]
    assert [line.split()[0] for line in lines[4:]] == ["busy", "idle", "new", "3"]
    assert lines[4].split()[1:4] == ["1.20", "0.50", "100M"]
    assert lines[6].split()[1:4] == ["-", "-", "100M"]  # nothing is made up
    assert lines[7].split()[:4] == ["3", "VMs", "300M", "4K"]
    assert max(map(len, lines)) <= 80


def test_it_can_be_sorted_by_any_column(api: FakeApi, bocage: Bocage):
    vms = [
        use("a", cpu=3.0, net_sent_bytes=1.0),
        use("b", cpu=2.0, net_sent_bytes=2.0, net_received_bytes=5.0),
        use("c", cpu=1.0, memory_guest=9.0),
    ]
    api.on("GET", TOP, {"host": HOST, "vms": vms})
    for sort, first in (("cpu", "a"), ("net", "b"), ("guest", "c"), ("name", "a")):
        ended = bocage("vm", "top", "--sort", sort)  # no terminal: once
        assert ended.out.splitlines()[4].split()[0] == first
    assert bocage("vm", "top", "--sort", "luck").code == 2


def test_without_a_running_vm_the_host_alone_is_shown(api: FakeApi, bocage: Bocage):
    api.on("GET", TOP, {"host": HOST, "vms": []})
    ended = bocage("vm", "top")
    assert ended.out.splitlines()[-1] == "no VM runs"
    assert json.loads(bocage("vm", "top", "--json").out)["host"]["cpus"] == 8


def history(**courses: list[float | None]) -> dict[str, Any]:
    known = {name: {"average": values, "peak": values} for name, values in courses.items()}
    unknown = {"average": [None] * 3, "peak": [None] * 3}
    return {
        "start": "2026-01-02T03:04:05Z",
        "step": 1200,
        "courses": {name: known.get(name, unknown) for name in sample.METRICS},
    }


def test_a_course_is_told_by_its_last_its_average_and_its_peak(api: FakeApi, bocage: Bocage):
    api.on("GET", STATS, history(cpu=[0.0, None, 2.0], disk_write_latency=[0.0015, 0.0005, 0.001]))
    ended = bocage("vm", "stats", "web1", "--since", "1d")
    head, cpu, latency = ended.out.splitlines()
    assert head.split() == ["LAST", "AVERAGE", "PEAK", "COURSE"]
    assert cpu.split()[:4] == ["CPU", "2.00", "1.00", "2.00"]
    assert cpu.endswith("▁ █")
    assert latency.split()[:5] == ["write", "latency", "1.0ms", "1.0ms", "1.5ms"]
    assert "a column is 20 min" in ended.err
    assert "span=86400" in api.asked[0].path


def test_a_vm_that_did_not_run_has_no_course(api: FakeApi, bocage: Bocage):
    api.on("GET", STATS, history())
    ended = bocage("vm", "stats", "web1")
    assert (ended.code, ended.out) == (0, "")
    assert "did not run" in ended.err
    assert json.loads(bocage("vm", "stats", "web1", "--json").out)["step"] == 1200


@pytest.mark.parametrize("since", ["1", "d", "1x", "5s", "99y", "-1h", "1.5h"])
def test_a_span_that_is_none_is_refused_with_what_is_right(api: FakeApi, bocage: Bocage, since: str):
    ended = bocage("vm", "stats", "web1", f"--since={since}")
    assert ended.code == 2
    assert "--since" in ended.err
    assert api.asked == []


@pytest.mark.parametrize(
    ("values", "drawn"),
    [([], ""), ([None, None], "  "), ([0.0, 0.0], "▁▁"), ([0.0, 0.5, 1.0, None], "▁▅█ "), ([3.0], "█")],
)
def test_a_line_goes_from_nothing_to_the_largest(values: list[float | None], drawn: str):
    assert chart.line(values) == drawn


@pytest.mark.parametrize(
    ("metric", "value", "said"),
    [
        ("cpu", 0.123, "0.12"),
        ("memory", 3.5 * (1 << 30), "3.5G"),
        ("net_sent_bytes", 0.4, "0B"),
        ("disk_reads", 1234.5, "1234"),
        ("disk_reads", 0.25, "0.2"),
        ("disk_read_latency", 0.00002, "20us"),
        ("disk_read_latency", 2.0, "2.0s"),
        ("wait", None, "-"),
    ],
)
def test_values_have_their_units(metric: str, value: float | None, said: str):
    assert people.measure(metric, value) == said


def test_a_host_shows_its_pressure_and_what_merging_gains(api: FakeApi, bocage: Bocage):
    host = {"metadata": metadata("vm1"), "spec": {}, "status": {"cpus": 8, "memory_bytes": 8 << 30}}
    api.on("GET", "/hosts", listed(host))
    api.on("GET", "/hosts/vm1/use", HOST)
    facts = bocage("host", "show").out
    assert "1.50 CPUs, 2G of memory" in facts
    assert "cpu 12.5 % of the last 10 s" in facts
    assert "merged, not those of VMs; saves 3M" in facts
    assert "3G of 8G of memory, 5G left" in facts
    assert "5 vCPUs of 32, 27 left" in facts
    assert "1.5 CPUs reserved, 6.5 left" in facts
    api.on("GET", "/hosts/vm1/use", problem(503, "node-away", "this host's node does not answer"))
    ended = bocage("host", "show")
    assert (ended.code, "waiting" in ended.out) == (0, False)


def held(**more: Any) -> dict[str, Any]:
    return {
        "pid": 4711,
        "uid": 1000,
        "gid": 1000,
        "groups": [],
        "capabilities": {"effective": [], "bounding": []},
        "new_privileges": False,
        "seccomp": "filter",
        "threads": 4,
        "threads_unfiltered": 0,
        "own_namespaces": ["mnt", "net"],
        "shared_namespaces": ["pid"],
        "mounts": [{"path": "/usr", "kind": "ext4", "source": "/dev/sda1:/usr", "writable": False}],
        "opened": [{"descriptor": 9, "what": "socket:[1] unix /run/qmp", "writable": True}],
        "interfaces": ["lo"],
        "groups_of_control": ["memory:/bocage/x"],
        "gaps": [],
        **more,
    }


def test_isolation_tells_what_holds_a_process_and_what_does_not(api: FakeApi, bocage: Bocage):
    path = "/projects/default/vms/web1/isolation"
    api.on("GET", path, held())
    out = bocage("vm", "isolation", "web1").out
    for said in ("uid 1000", "none, and none can be gained", "files, network", "4 of 4 threads", "/usr", "/run/qmp"):
        assert said in out
    assert out.split("gaps")[1].split()[0] == "none"
    assert "/usr" not in bocage("vm", "isolation", "web1", "--brief").out
    gap = {"type": "x", "params": {}, "text": "it runs as root", "hint": "stop it"}
    api.on("GET", path, held(gaps=[gap], capabilities={"effective": ["sys_admin"]}))
    out = bocage("vm", "isolation", "web1", "--brief").out
    assert "it runs as root (stop it)" in out
    assert "effective: sys_admin" in out
