"""What VMs and hosts use, and what Prometheus is told of it."""

import httpx
import pytest
from prometheus_client import parser

from bocage.model import sample
from tests.api.conftest import VMS, asking, create, problem


@pytest.fixture
async def uses(client, node, world) -> sample.Uses:
    await create(client)
    machine = (await client.get(f"{VMS}/web1")).json()["metadata"]["uid"]
    node.uses = sample.Uses(
        host=sample.HostUse(
            cpus=4,
            memory_total=1 << 30,
            memory_used=1 << 20,
            pressure={"cpu": sample.Pressure(some_10=0.25, some_60=0.1, full_10=0.0, full_60=0.0)},
            ksm=sample.Ksm(on=True, saved=4096),
            now={"cpu": 1.5},
        ),
        vms={
            machine: sample.Use(
                cpu_seconds=12.5,
                wait_seconds=0.5,
                memory=300 << 20,
                guest_memory=sample.GuestMemory(total=512 << 20, available=412 << 20),
                disks={"disk0": sample.DiskUse(reads=7, written_bytes=4096, write_seconds=0.25)},
                nics={"nic0": sample.NicUse(received_bytes=99)},
                now={"cpu": 0.75},
            ),
            "5f0c9f1e-6f0a-4c53-9c1e-0d1f5a3f7c99": sample.Use(),  # which was deleted in this moment
        },
    )
    return node.uses


async def test_the_running_vms_of_a_project_are_named_with_their_host(client, uses):
    told = (await client.get("/projects/default/top")).json()
    assert [(one["name"], one["now"]) for one in told["vms"]] == [("web1", {"cpu": 0.75})]
    assert told["host"]["now"] == {"cpu": 1.5}
    problem(await client.get("/projects/nowhere/top"), 404, "no-such-project")


async def test_a_hosts_use_is_its_nodes(client, uses, world):
    told = (await client.get(f"/hosts/{world.host.name}/use")).json()
    assert told["ksm"] == {"on": True, "saved": 4096}
    assert told["pressure"]["cpu"]["some_10"] == 0.25
    problem(await client.get("/hosts/nowhere/use"), 404, "not-found")


async def test_a_history_is_asked_by_uid_with_its_span(client, uses, node, world):
    node.asked.clear()
    told = (await client.get(f"{VMS}/web1/stats", params={"span": 86_400, "most": 60})).json()
    assert told["step"] == 60
    await client.get(f"/hosts/{world.host.name}/stats")
    assert [(uid != world.host.uid, query) for uid, query in node.asked] == [
        (True, {"span": "86400", "most": "60"}),
        (False, {"span": "3600", "most": "720"}),
    ]
    for wrong in ({"span": 1}, {"span": 10**9}, {"most": 0}, {"most": 10**6}, {"span": "x"}):
        problem(await client.get(f"{VMS}/web1/stats", params=wrong), 422, "invalid-fields")
    problem(await client.get(f"{VMS}/nowhere/stats"), 404, "not-found")


async def scraped(client: httpx.AsyncClient) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    answer = await client.get("http://bocage/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = parser.text_string_to_metric_families(answer.text)
    return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}


async def test_prometheus_is_told_the_counters_of_each_vm_by_name(client, uses):
    told = await scraped(client)
    web1 = {("project", "default"), ("vm", "web1")}
    assert told["bocage_vm_cpu_seconds_total", frozenset(web1)] == 12.5
    assert told["bocage_vm_cpu_wait_seconds_total", frozenset(web1)] == 0.5
    assert told["bocage_vm_memory_bytes", frozenset(web1)] == 300 << 20
    assert told["bocage_vm_guest_memory_used_bytes", frozenset(web1)] == 100 << 20
    assert told["bocage_vm_disk_reads_total", frozenset({*web1, ("disk", "disk0")})] == 7
    assert told["bocage_vm_disk_write_seconds_total", frozenset({*web1, ("disk", "disk0")})] == 0.25
    assert told["bocage_vm_nic_received_bytes_total", frozenset({*web1, ("nic", "nic0")})] == 99
    assert told["bocage_host_memory_used_bytes", frozenset()] == 1 << 20
    assert told["bocage_host_pressure_ratio", frozenset({("resource", "cpu"), ("kind", "some")})] == 0.25
    assert len({labels for name, labels in told if name == "bocage_vm_cpu_seconds_total"}) == 1


async def test_over_the_network_metrics_need_a_token(app, client, uses):
    token = (await client.post("/tokens", json={"name": "prometheus"})).json()["token"]
    async with asking(app, ("127.0.0.1", 4711)) as stranger:
        problem(await stranger.get("http://bocage/metrics"), 401, "token-needed")
        wrong = {"authorization": "Bearer bcg_" + "0" * 75}
        problem(await stranger.get("http://bocage/metrics", headers=wrong), 401, "token-unknown")
        answer = await stranger.get("http://bocage/metrics", headers={"authorization": f"Bearer {token}"})
        assert answer.status_code == 200


async def test_a_process_is_told_with_the_words_of_its_gaps(client, uses):
    told = (await client.get(f"{VMS}/web1/isolation")).json()
    assert told["gaps"][0]["text"] == "it runs as root"
