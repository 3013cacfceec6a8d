"""Real daemons on addresses of loopback, each a machine of its own name, with real etcd.

One of them becomes a cluster while its VM runs, two join.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import os
import pathlib
import signal
import ssl
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from bocage import home as homes
from bocage.engine.qemu import processes
from bocage.membership import admission, invitation, joining, place
from bocage.model import base
from bocage.store import contract, sqlite
from bocage.store.etcd import engine
from tests.daemon import host as hosts

pytestmark = [
    pytest.mark.slow,
    pytest.mark.guest,
    pytest.mark.skipif(os.geteuid() != 0, reason="machines of other names are made by root"),
]
NET = f"127.{64 + os.getpid() % 128}.{os.getpid() // 128 % 256}"


@dataclasses.dataclass
class Ground:
    machines: list[hosts.Host]
    before: dict[str, Any]
    """What was seen of the first host as it was by itself."""

    @property
    def first(self) -> hosts.Host:
        return self.machines[0]

    def members(self) -> list[hosts.Document]:
        return list(self.first.api.cluster.show()["members"])


@pytest.fixture(scope="module")
def cluster(tiny_image: pathlib.Path) -> Iterator[Ground]:
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(hosts.host(f"h{n}")) for n in (1, 2, 3)]
        for one in made:
            one.start()
        first = made[0]
        first.add_tiny(tiny_image)
        first.create("web1", start=True)
        first.becomes("web1", "running")
        made[1].add_tiny(tiny_image)
        token = first.api.tokens.create({"name": "laptop"})["token"]
        before = {"qemu": qemu(first), "token": token, "vm": first.vm("web1")}
        said(first.run("cluster", "init", "--address", f"{NET}.1"))
        for number, one in enumerate(made[1:], 2):
            said(one.run("cluster", "join", word(first), "--address", f"{NET}.{number}"))
        yield Ground(made, before)


def said(run: Any) -> str:
    assert run.returncode == 0, (run.stdout, run.stderr)
    return str(run.stdout)


def word(host: hosts.Host) -> str:
    return said(host.run("cluster", "invite")).strip()


def qemu(host: hosts.Host) -> list[processes.Identity]:
    return [one.identity for one in host.qemus()]


def at(home: homes.Home) -> place.Place:
    found = place.read(home)
    assert found
    return found


def etcd(host: hosts.Host) -> processes.Identity:
    (found,) = [one for one in processes.find(host.homes.etcd) if one.arguments[0] == "etcd"]
    return found.identity


def test_a_vm_runs_on_in_the_same_process_and_its_console_speaks(cluster):
    assert cluster.before["qemu"]
    assert qemu(cluster.first) == cluster.before["qemu"]
    now = cluster.first.vm("web1")
    assert (now["metadata"]["uid"], now["status"]["state"]) == (cluster.before["vm"]["metadata"]["uid"], "running")
    assert cluster.first.api.vms.expect("web1", "^alive-3$", send="echo alive-$((1+2))", timeout=60)


async def entries(store: contract.Store, *, at: int | None = None) -> dict[str, bytes]:
    return {entry.key: entry.value for entry in (await store.list("", at=at)).entries}


async def test_etcd_began_with_just_what_the_database_held(cluster, tmp_path):
    home = cluster.first.homes
    assert not home.database.exists()
    for rest in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            (tmp_path / f"bocage.db{rest}").write_bytes(pathlib.Path(f"{home.former_database}{rest}").read_bytes())
    held = await sqlite.open(tmp_path / "bocage.db")
    before = await entries(held)
    await held.close()
    store = await engine.open(at(home).access(home), client="test")
    try:
        page = await store.list("/bocage/p1/cluster")
        begun = await entries(store, at=page.entries[0].created)
    finally:
        await store.close()
    assert begun.pop("/bocage/p1/cluster")
    assert begun == before
    assert any("/vm/" in key for key in before)


def test_hosts_know_each_other_and_have_their_own_storage(cluster):
    shown = [one.api.cluster.show() for one in cluster.machines]
    assert [[host["address"] for host in sorted(one["hosts"], key=lambda host: host["name"])] for one in shown] == [
        [f"{NET}.1", f"{NET}.2", f"{NET}.3"]
    ] * 3
    assert len({one["incarnation"] for one in shown}) == 1
    storages = {one["metadata"]["name"]: one["status"]["state"] for one in cluster.first.api.storage.list()["items"]}
    assert storages == {"local": "ready", "local-h2": "ready", "local-h3": "ready"}
    assert [one["metadata"]["name"] for one in cluster.first.api.networks.list()["items"]] == ["default"]
    images = cluster.first.api.images.list()["items"]
    assert {(one["metadata"]["name"], one["status"]["state"]) for one in images} == {
        ("tiny", "ready"),
        ("tiny-h2", "ready"),
    }
    assert cluster.machines[2].vm("web1")["status"]["state"] == "running"


def test_three_members_vote(cluster):
    members = cluster.members()
    assert [(one["votes"], one["answers"]) for one in members] == [(True, True)] * 3
    assert sum(one["leads"] for one in members) == 1
    for one in cluster.machines:  # each asks its own first, and knows the others
        one.until(lambda one=one: at(one.homes).clients, lambda known: len(known) == 3)
        assert at(one.homes).clients[0] == f"https://{at(one.homes).address}:2379"


def test_a_member_that_is_killed_holds_nothing_up_and_comes_back(cluster):
    for one in cluster.machines:
        before = etcd(one)
        processes.send(before, signal.SIGKILL)
        storage = cluster.machines[1].api.storage.change("local-h2", {"title": f"without {one.homes.path.name}"})
        assert cluster.machines[2].api.storage.get("local-h2")["metadata"]["title"] == storage["metadata"]["title"]
        after = one.until(lambda one=one: [found.identity for found in processes.find(one.homes.etcd)], bool)
        assert after != [before]
        one.until(cluster.members, lambda members: all(member["answers"] for member in members))


def test_a_daemon_that_is_killed_finds_its_member_again(cluster):
    second = cluster.machines[1]
    member = etcd(second)
    second.kill()
    assert etcd(second) == member
    second.start()
    assert etcd(second) == member
    assert second.api.cluster.show()["address"] == f"{NET}.2"


def stranger(path: pathlib.Path) -> homes.Home:
    made = homes.Home(path, path / "run")
    made.cluster.mkdir(parents=True)
    return made


async def ask(home: homes.Home, text: str, name: str = "h9", uid: str = "") -> place.Place:
    return await joining.join(
        home, invitation.Word.parse(text), uid=uid or str(uuid.uuid4()), name=name, address=f"{NET}.9"
    )


async def test_a_word_lets_one_host_in_and_no_second(cluster, tmp_path):
    text = await asyncio.to_thread(word, cluster.first)
    with pytest.raises(admission.NameTaken):
        await ask(stranger(tmp_path / "a"), text, name="h2")
    uid = str(uuid.uuid4())
    let_in = await ask(stranger(tmp_path / "b"), text, uid=uid)
    with pytest.raises(invitation.NotGood):
        await ask(stranger(tmp_path / "c"), text, name="h8")
    store = await engine.open(let_in.access(stranger_at(tmp_path / "b")), client="test")  # its papers are good
    for part in ("spec", "status"):
        await store.apply(deletes=[f"/bocage/1/host/{uid}/{part}", "/bocage/1/name/host/h9"])
    await store.close()


def stranger_at(path: pathlib.Path) -> homes.Home:
    return homes.Home(path, path / "run")


async def test_a_word_with_another_secret_another_authority_or_too_old_lets_nobody_in(cluster, tmp_path, monkeypatch):
    good = invitation.Word.parse(await asyncio.to_thread(word, cluster.first))
    home = stranger(tmp_path / "a")
    with pytest.raises(invitation.NotGood):
        await ask(home, str(dataclasses.replace(good, secret="AAAAAAAAAAAAAAAAAAAAAA")))
    with pytest.raises(joining.OtherAuthority):
        await ask(home, str(dataclasses.replace(good, fingerprint=bytes(32))))
    store = await engine.open(at(cluster.first.homes).access(cluster.first.homes), client="test")
    try:
        assert (await invitation.look_up(store, good.secret)).key
        later = base.now() + invitation.GOOD_FOR + datetime.timedelta(seconds=1)
        monkeypatch.setattr(base, "now", lambda: later)
        with pytest.raises(invitation.NotGood):
            await invitation.look_up(store, good.secret)
    finally:
        await store.close()
    assert not list(home.cluster.iterdir())


async def test_a_stranger_without_a_certificate_is_told_nothing_by_a_host(cluster):
    import httpx

    async with httpx.AsyncClient(verify=False, base_url=f"https://{NET}.1:8481", trust_env=False) as client:
        assert (await client.get("/ca")).content == cluster.first.homes.authority.read_bytes()
        for path in ("/use", "/doctor", "/vms/x/log"):
            assert (await client.get(path)).status_code == 403
        with pytest.raises((httpx.TransportError, ssl.SSLError)):
            await client.get(f"https://{NET}.1:2379/v3/kv/range")
    known = place.certificates(cluster.machines[1].homes).context()
    async with httpx.AsyncClient(verify=known, base_url=f"https://{NET}.1:8481", trust_env=False) as client:
        assert (await client.get("/use")).status_code == 200


def test_a_host_in_a_cluster_makes_no_other_and_one_with_vms_joins_none(cluster):
    again = cluster.first.run("cluster", "init")
    assert again.returncode == 4
    assert "part of a cluster already" in again.stderr
    with hosts.host("h7") as other:
        other.start()
        other.done(other.api.vms.create({"name": "own", "memory": "128M", "disks": []}))
        refused = other.run("cluster", "join", word(cluster.first), "--address", f"{NET}.7")
        assert refused.returncode == 4
        assert "own" in refused.stderr
        assert not other.homes.cluster.exists()
        assert other.vm("own")


def test_two_hosts_and_a_witness_stand_the_loss_of_the_first():
    with contextlib.ExitStack() as stack:
        names = ("w1", "w2", "w3")
        first, second, witness = [stack.enter_context(hosts.host(name)) for name in names]
        for one in (first, second, witness):
            one.start()
        said(first.run("cluster", "init", "--address", f"{NET}.11"))
        lonely = second.run("cluster", "join", word(first), "--address", f"{NET}.12")
        assert "--witness" in lonely.stderr
        assert [one["votes"] for one in sorted(first.api.cluster.show()["members"], key=lambda one: one["host"])] == [
            True,
            False,
        ]
        joined = witness.run("cluster", "join", word(first), "--address", f"{NET}.13", "--witness")
        assert "witness of a cluster of 2" in said(joined)
        found = witness.api.cluster.show()
        assert {(one["host"], one["votes"], one["witness"]) for one in found["members"]} == {
            ("w1", True, False),
            ("w2", True, False),
            ("w3", True, True),
        }
        assert {one["name"] for one in found["hosts"]} == {"w1", "w2"}
        assert not witness.homes.authority_key.exists()
        assert witness.run("cluster", "invite").returncode == 4
        hosts.clear(first)
        blank = {"memory": "32M", "disk": "1M", "nics": [], "storage": "local-w2", "start": True}
        for name in ("later", "last"):
            second.done(second.api.vms.create({"name": name, **blank}))
        assert second.api.storage.change("local-w2", {"title": "alone"})["metadata"]["title"] == "alone"

        hosts.clear(witness)  # the majority is gone
        listed = second.run("vm", "list", within=20)
        assert "later" in listed.stdout, listed
        assert "has been silent" in listed.stderr
        assert "later" in said(second.run("vm", "show", "later", within=20))
        assert second.run("vm", "log", "later", within=20).returncode == 0
        for verb in (("stop", "later", "--within", "1", "--kill"), ("kill", "last")):
            said(second.run("vm", *verb, within=30))
        assert not second.qemus()
