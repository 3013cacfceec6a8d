"""A storage whose disks are slices of a LUN: a real array (tgt) on the loopback, real QEMU with its own initiator."""

from __future__ import annotations

import os
import pathlib
import shutil
import signal
from collections.abc import Iterator

import pytest

from bocage.model import base, ground, lun, vm, work
from bocage.node.place import slicing
from bocage.storage import slices
from bocage.store import secrets
from tests import array as arrays
from tests.daemon import host as daemons
from tests.node import test_shared_storage as of_several
from tests.node.house import BLANK, House
from tests.node.test_shared_storage import LAST, Pair, give
from tests.node.test_snapshots import TWO, counts
from tests.node.test_wishes import problem

MIB = 1 << 20

pair = of_several.pair  # the fixture

pytestmark = pytest.mark.skipif(
    not shutil.which("tgtd") or os.geteuid() != 0, reason="tgt is not installed, or this is not root"
)


@pytest.fixture
def array() -> Iterator[arrays.Array]:
    with arrays.running(256 * MIB, user=arrays.USER) as made:
        yield made


async def storage_on(house: House, array: arrays.Array) -> ground.Storage:
    """The storage `san` on that array's LUN."""
    place = {"portal": array.portal, "target": arrays.TARGET, "lun": arrays.LUN, "user": arrays.USER}
    asked, about = lun.LunRequest.model_validate({**place, "password": arrays.PASSWORD}), base.Metadata(name="san")
    sealed = await slicing.sealed(house.node.ground, about.uid, asked)
    spec = ground.StorageSpec(kind="iscsi", path=str(house.homes.path / "san"), lun=sealed)
    await house.resources.create(made := ground.Storage(metadata=about, spec=spec))
    ended = await house.ask("storage.create", made)
    assert ended.status.state is work.TaskState.DONE, problem(ended)
    return await house.resources.find(ground.Storage, None, "san")


def map_of(array: arrays.Array) -> slices.Map:
    with array.disk.open("rb") as disk:
        found = slices.newest(disk.read(slices.FIRST))
    assert found
    return found


@pytest.mark.guest
@pytest.mark.slow
async def test_a_vm_lives_on_slices_of_a_lun(house: House, array: arrays.Array, tiny_image: pathlib.Path) -> None:
    san = await storage_on(house, array)
    assert (san.status.state, san.status.total_bytes) == ("ready", 256 * MIB)
    assert arrays.PASSWORD not in (san.spec.model_dump_json(), house.homes.database.read_bytes().decode("latin-1"))
    await house.add_image(tiny_image)
    with array.disk.open("r+b") as disk:  # what somebody else has had there before
        disk.seek(slices.FIRST)
        disk.write(b"\xff" * (100 * MIB))

    made = await house.create(storage="san", start=True, **TWO)
    await house.says(made, "^tiny: ready")
    blank = "cmp -s /dev/vdb /dev/zero; cmp /dev/vdb /dev/zero 2>&1 | grep -c EOF"
    assert await house.says(made, "^blank-", send=f"echo blank-$({blank})") == "blank-1"
    await counts(house, made)
    assert array.initiators == {f"{slicing.INITIATOR}:{house.node.ground.uid}"}
    seen = await house.read(made)
    assert seen.status.isolation is not None
    assert [one.type for one in seen.status.isolation.missing] == ["isolation-reaches-lun"]
    assert seen.status.pid is not None
    line = pathlib.Path(f"/proc/{seen.status.pid}/cmdline").read_bytes().decode()
    assert arrays.PASSWORD not in line

    volumes = await house.volumes()
    status = (await house.resources.get(ground.Storage, None, san.uid)).status
    told = map_of(array)
    assert {uid: one.slice for uid, one in told.entries.items()} == status.slices
    assert {one.name for one in told.entries.values()} == set(volumes)
    assert told.storage == san.uid
    for action, params in (("vm.save", {}), ("vm.move", {"storage": "x"}), ("vm.disk-detach", {"disk": "disk1"})):
        assert problem(await house.ask(action, made, **params)) == "lun-holds-disks-alone"
    await house.until(lambda: house.read(made), lambda one: one.spec.power is vm.Power.RUNNING)

    os.kill(seen.status.pid, signal.SIGKILL)
    again = await house.until(
        lambda: house.read(made), lambda one: one.status.pid not in (None, seen.status.pid) and one.status.restarts > 0
    )
    assert again.status.state in (vm.State.RUNNING, vm.State.STARTING)
    await house.says(made, "^tiny: ready")
    last = await house.says(made, "^last-", send=LAST)
    assert int(last.removeprefix("last-")) > 5

    assert (await house.ask("vm.kill", made)).status.state is work.TaskState.DONE
    assert (await house.ask("vm.delete", made)).status.state is work.TaskState.DONE
    actor = house.node.crew.of(made.uid)
    assert actor is not None
    actor.expire()
    await house.until(house.volumes, lambda found: not found)
    other = await house.create("other", storage="san", **BLANK)
    after = map_of(array)
    assert {one.name for one in after.entries.values()} == set(await house.volumes())
    assert next(iter(after.entries.values())).slice.offset == slices.FIRST
    assert after.generation > told.generation
    assert (await house.read(other)).status.ready


@pytest.mark.guest
@pytest.mark.slow
async def test_what_ran_on_a_host_that_died_runs_on_another(
    pair: Pair, array: arrays.Array, tiny_image: pathlib.Path
) -> None:
    first, second = pair
    there = second.node.ground.uid
    secrets.Box.open(first.homes.secret_key)
    shutil.copy(first.homes.secret_key, second.homes.secret_key)  # as a host gets it that joins
    made = await storage_on(first, array)
    san = await second.until(
        lambda: second.resources.get(ground.Storage, None, made.uid), lambda one: len(one.status.hosts) == 2
    )
    assert san.reached_by(there)
    lacks = san.status.model_copy(update={"hosts": {**san.status.hosts, there: ground.Reach(state="unavailable")}})
    await first.resources.change_status(ground.Storage, None, san.uid, lambda _: lacks)
    await first.add_image(tiny_image)
    ran = await first.create(storage="san", start=True, **TWO)
    await first.says(ran, "^tiny: ready")
    await counts(first, ran)

    await first.die()
    shutil.rmtree(pathlib.Path(san.spec.path, "vms", ran.uid))  # each host has its own, and this one has none
    before = await second.read(ran)
    await give(second, ran, vm.Owner(host=there, generation=before.status.owner_generation + 1))
    after = await second.until(
        lambda: second.read(ran),
        lambda one: one.status.state is vm.State.RUNNING and one.status.pid not in (None, before.status.pid),
    )
    assert after.status.last_end is not None
    assert after.status.last_end.reason.type == "vm-taken-over"
    await second.says(ran, "^tiny: ready")
    last = await second.says(ran, "^last-", send=LAST)
    assert int(last.removeprefix("last-")) > 5
    assert f"{slicing.INITIATOR}:{there}" in array.initiators
    assert f"host: {there}" in pathlib.Path(san.spec.path, "vms", ran.uid, "vm.yaml").read_text()


@pytest.mark.slow
def test_what_an_array_refuses_or_holds_already_is_said(array: arrays.Array) -> None:
    there = ("--portal", array.portal, "--target", arrays.TARGET, "--lun", str(arrays.LUN), "--user", arrays.USER)
    san = ("storage", "create", "san", "--kind", "iscsi", *there)
    with daemons.host() as one:
        one.start()
        assert "Authentication failure" in one.run(*san, stdin="another-word\n").stderr
        with array.disk.open("r+b") as disk:
            disk.write(b"somebody's data")
        assert "is not empty" in one.run(*san, stdin=f"{arrays.PASSWORD}\n").stderr
        assert [found["metadata"]["name"] for found in one.api.storage.list()["items"]] == ["local"]
        with array.disk.open("r+b") as disk:
            disk.write(bytes(4096))
        made = one.run(*san, stdin=f"{arrays.PASSWORD}\n")
        assert made.returncode == 0, made.stderr
        assert arrays.PASSWORD.encode() not in (one.path / "bocage.db").read_bytes()
        shown = one.api.storage.get("san")
        assert shown["spec"]["lun"]["password"] == ""
        assert f"{arrays.LUN} of {arrays.TARGET} at {array.portal}" in " ".join(
            one.run("storage", "show", "san").stdout.split()
        )
        assert (
            "the storage san lies on that LUN"
            in one.run("storage", "create", "san2", "--kind", "iscsi", *there, stdin=f"{arrays.PASSWORD}\n").stderr
        )
        refused = one.run("volume", "create", "data", "--size", "1M", "--storage", "san")
        assert "no image and no volume lies there by itself" in refused.stderr
        uefi = one.run(
            "vm", "create", "box", "--disk", "1M", "--memory", "32M", "--storage", "san", "--firmware", "uefi"
        )
        assert "no VM with UEFI lies there" in uefi.stderr
        assert one.run("storage", "delete", "san").returncode == 0
        with array.disk.open("rb") as disk:
            assert disk.read(slices.FIRST) == bytes(slices.FIRST)  # the next one may have it
        assert one.run(*san, stdin=f"{arrays.PASSWORD}\n").returncode == 0
        array.process.kill()
        array.process.wait()
        gone = one.until(lambda: one.api.storage.get("san")["status"], lambda now: now["state"] == "unavailable")
        assert gone["reason"]["type"] == "lun-unreachable"
