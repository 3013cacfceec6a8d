"""Malformed input: a clear problem, nothing changed, never a fault of our own."""

import json
from typing import Any

import pytest

from bocage.model import vm
from tests.api.conftest import VMS, create, problem

JSON = {"content-type": "application/json"}


def _vm(**fields: Any) -> bytes:
    return json.dumps({"name": "web1", "image": "tiny", **fields}).encode()


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        (b"{", 422, "body-malformed"),
        (b"nonsense", 422, "body-malformed"),
        (b'{"name": "web1"}}', 422, "body-malformed"),
        (b'{"name": "\xff\xfe"}', 422, "body-malformed"),
        (b'{"name": "\\ud800"}', 422, "body-malformed"),
        (b"\xef\xbb\xbf{}", 422, "body-malformed"),
        (b"\x00\x01\x02", 422, "body-malformed"),
        (b'{"name": "a", "memory": NaN}', 422, "body-malformed"),
        (b'{"name": "a", "memory": Infinity}', 422, "body-malformed"),
        (b"[" * 100_000, 422, "body-malformed"),
        (b'{"a":' * 5_000 + b"1" + b"}" * 5_000, 422, "body-malformed"),
        (b'{"name": "a", "memory": ' + b"9" * 10_000 + b"}", 422, "body-malformed"),
        (b"[]", 422, "invalid-fields"),
        (b"null", 422, "invalid-fields"),
        (b'"web1"', 422, "invalid-fields"),
        (b"", 422, "invalid-fields"),
        (b"{}", 422, "invalid-fields"),
        (_vm(name="a" * 10_000_000), 413, "body-too-large"),
        (_vm(name="a" * 1_000_000), 422, "invalid-fields"),
        (_vm(surplus=1), 422, "invalid-fields"),
        (_vm(name="../etc/passwd"), 422, "invalid-fields"),
        (_vm(name="/absolute"), 422, "invalid-fields"),
        (_vm(name="Web1"), 422, "invalid-fields"),
        (_vm(name="web1\n"), 422, "invalid-fields"),
        (_vm(name="-web"), 422, "invalid-fields"),
        (_vm(name="wéb"), 422, "invalid-fields"),
        (_vm(name=None), 422, "invalid-fields"),
        (_vm(memory=536870912), 422, "invalid-fields"),
        (_vm(memory="512"), 422, "invalid-fields"),
        (_vm(memory="-1G"), 422, "invalid-fields"),
        (_vm(memory="0B"), 422, "invalid-fields"),
        (_vm(memory="99999999P"), 422, "invalid-fields"),
        (_vm(memory="1.0000001G"), 422, "invalid-fields"),
        (_vm(memory=True), 422, "invalid-fields"),
        (_vm(disk="1B"), 422, "disk-smaller-than-image"),
        (_vm(disk="100T"), 422, "invalid-fields"),
        (_vm(cpus={"cores": 0}), 422, "invalid-fields"),
        (_vm(cpus={"cores": -1}), 422, "invalid-fields"),
        (_vm(cpus={"cores": 2**63}), 422, "invalid-fields"),
        (_vm(cpus={"cores": 1.5}), 422, "invalid-fields"),
        (_vm(cpus={"sockets": 64, "cores": 255}), 422, "invalid-fields"),
        (_vm(stop={"within": 2**70}), 422, "invalid-fields"),
        (_vm(nics=[{}] * 17), 422, "invalid-fields"),
        (_vm(nics=[{"mac": "01:00:00:00:00:00"}]), 422, "invalid-fields"),
        (_vm(nics=[{"mac": "52:54:00:00:00:01"}] * 2), 422, "invalid-fields"),
        (_vm(nics=[{"publish": [{"host_port": 65536, "guest_port": 1}]}]), 422, "invalid-fields"),
        (_vm(disks=[{}]), 422, "invalid-fields"),
        (_vm(disks=[{"size": "1G", "volume": "a"}]), 422, "invalid-fields"),
        (_vm(disks=[{"size": "1G", "bus": "ide"}]), 422, "no-such-bus"),
        (_vm(disks=[{"size": "1G", "serial": "a"}] * 2), 422, "invalid-fields"),
        (_vm(boot=["disk7"]), 422, "invalid-fields"),
        (_vm(image="windows"), 422, "image-is-a-cd"),
        (_vm(cds=["tiny"]), 422, "image-is-no-cd"),
        (_vm(smbios={"uuid": "x"}), 422, "invalid-fields"),
        (_vm(seed={"ssh_keys": ["not a key\nroot: x"]}), 422, "invalid-fields"),
        (_vm(seed={"password": "a\nb"}), 422, "guest-password-invalid"),
        (_vm(machine="vax"), 422, "invalid-fields"),
        (_vm(cpu_model="qemu64,+evil -device x"), 422, "invalid-fields"),
        (_vm(title="a\u0000b"), 422, "invalid-fields"),
        (_vm(tags=["a b"]), 422, "invalid-fields"),
        (_vm(tags=["a"] * 65), 422, "invalid-fields"),
    ],
)
async def test_a_body_that_makes_no_sense_is_refused_and_changes_nothing(client, world, body, status, kind):
    before = await world.kept.store.revision()
    problem(await client.post(VMS, content=body, headers=JSON), status, kind)
    assert await world.kept.store.revision() == before


@pytest.mark.parametrize(
    "kind", ["text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", ""]
)
async def test_what_is_said_to_be_no_json_is_refused(client, kind):
    problem(await client.post(VMS, content=_vm(), headers={"content-type": kind}), 415, "body-not-json")


async def test_json_by_another_name_is_taken(client):
    answer = await client.post(
        VMS, content=_vm(), headers={"content-type": "application/merge-patch+json; charset=utf-8"}
    )
    assert answer.status_code == 202


@pytest.mark.parametrize(
    ("name", "statuses"),
    [
        ("..%2F..%2Fetc%2Fpasswd", {404}),
        ("%2e%2e", {404}),
        ("%00", {404}),
        ("%ff%fe", {404}),
        ("a%0d%0aSet-Cookie:x", {404}),
        ("%F0%9F%92%A9", {404}),
        ("x" * 4000, {404}),
        ("-", {404}),
        ("'; DROP TABLE kv; --", {404}),
        ("%25s{name}", {404}),
    ],
)
async def test_names_that_are_tricks_find_nothing(client, name, statuses):
    for method, path in (("GET", ""), ("PATCH", ""), ("POST", "/start"), ("GET", "/why"), ("DELETE", "")):
        answer = await client.request(method, f"{VMS}/{name}{path}", json={} if method in ("PATCH", "POST") else None)
        assert answer.status_code in statuses, (method, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
    for path in (f"/tasks/{name}", f"/storage/{name}", f"/projects/{name}/vms", f"/projects/default/images/{name}"):
        assert (await client.get(path)).status_code in statuses
    assert (await client.post(f"/alarms/{name}/acknowledge")).status_code in statuses


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=-1", "limit=1001", "limit=99999999999999999999", "limit=NaN", "limit=x", "trash=perhaps"],
)
async def test_queries_that_make_no_sense_name_their_field(client, query):
    said = problem(await client.get(f"{VMS}?{query}"), 422, "invalid-fields")
    assert said["faults"][0]["path"] == "?" + query.partition("=")[0]


async def test_every_fault_of_a_document_is_told_with_its_path_and_what_would_be_right(client):
    body = {"name": "Web", "image": "tiny", "memory": "512", "cpus": {"cores": 0}, "surplus": 1}
    said = problem(await client.post(VMS, json=body), 422, "invalid-fields")
    faults = {fault["path"]: fault for fault in said["faults"]}
    assert faults.keys() == {"name", "memory", "cpus.cores", "surplus"}
    assert all(fault["wrong"] and fault["right"] for fault in faults.values())
    assert "512M" in faults["memory"]["right"]
    assert "≥ 1" in faults["cpus.cores"]["right"]


async def test_a_password_is_not_repeated_in_a_refusal(client):
    answer = await client.post(VMS, json={"name": "a", "image": "tiny", "seed": {"password": ["hunter2"]}})
    problem(answer, 422, "invalid-fields")
    assert "hunter2" not in answer.text


async def test_a_wrong_method_says_which_are_right(client):
    answer = await client.delete("/hosts")
    problem(answer, 405, "no-such-method")
    assert "GET" in answer.headers["allow"]


async def test_a_document_with_an_odd_spec_is_told_where(client, world):
    await create(client)
    document = (await client.get(f"{VMS}/web1")).json()
    for spec, path in (
        ({**document["spec"], "memory": "1"}, "spec.memory"),
        ({**document["spec"], "storage": world.host.uid}, "spec.storage"),
        ({**document["spec"], "hardware": None}, "spec.hardware"),
        ({**document["spec"], "memory": "17M", "boot": {"order": ["nope"]}}, "spec.boot"),
        ({}, "spec.storage"),
    ):
        answer = await client.put(f"{VMS}/web1", json={"metadata": document["metadata"], "spec": spec})
        said = problem(answer, 422, "invalid-fields")
        assert said["faults"][0]["path"] == path
    for metadata, path in (
        ({**document["metadata"], "name": "other"}, "metadata.name"),
        ({**document["metadata"], "uid": world.host.uid}, "metadata.uid"),
        ({**document["metadata"], "title": "\x00"}, "metadata.title"),
    ):
        answer = await client.put(f"{VMS}/web1", json={"metadata": metadata, "spec": document["spec"]})
        assert problem(answer, 422, "invalid-fields")["faults"][0]["path"] == path
    moved = json.loads(json.dumps(document))
    moved["spec"]["nics"][0]["address"] = moved["spec"]["disks"][0]["address"]
    answer = await client.put(f"{VMS}/web1", json={"metadata": moved["metadata"], "spec": moved["spec"]})
    problem(answer, 422, "device-place-occupied")
    assert (await world.kept.find(vm.VM, "default", "web1")).metadata.generation == 1
