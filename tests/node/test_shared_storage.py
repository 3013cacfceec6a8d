"""A storage that two hosts reach: two hosts in one process, over one store and one directory."""

from __future__ import annotations

import os
import pathlib
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from bocage import home
from bocage.model import base, firewall, ground, vm, work
from bocage.node.jobs import storages
from bocage.planner import snapshot
from bocage.storage import directory
from bocage.store import resources
from tests.node import uefi
from tests.node.house import BLANK, House
from tests.node.test_snapshots import TWO, counts
from tests.node.test_wishes import problem

Pair = tuple[House, House]
LAST = (
    "n=0; while [ \"$(dd if=/dev/vdb skip=$((n+1)) count=1 2>/dev/null | head -n 1 | tr -d '\\0')\" = $((n+1)) ]; "
    "do n=$((n+1)); done; echo last-$n"
)
"""How far the numbers go that the guest wrote one after the other."""


@pytest.fixture
async def pair(house: House, other_homes: home.Home, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pair]:
    """Two hosts of one cluster."""
    monkeypatch.setattr(socket, "gethostname", lambda: "second")
    second = await House(other_homes, beside=house).open()
    try:
        yield house, second
    finally:
        await second.close()


@pytest.fixture
async def array(pair: Pair) -> ground.Storage:
    """The storage that both reach."""
    first, second = pair
    made = await first.storage("array", first.homes.path / "array", kind="shared")
    return await second.until(
        lambda: second.resources.get(ground.Storage, None, made.uid), lambda one: len(one.status.hosts) == 2
    )


async def test_each_host_says_how_it_finds_it(
    pair: Pair, array: ground.Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = pair
    here, there = first.node.ground.uid, second.node.ground.uid
    assert {uid: one.state for uid, one in array.status.hosts.items()} == {here: "ready", there: "ready"}
    assert array.spec.host is None
    assert array.status.total_bytes > array.status.free_bytes > 0

    opened = directory.open

    def not_mounted(root: pathlib.Path, uid: str | None = None, host: str = "") -> Any:
        if host == there:
            raise directory.Gone(path=str(root))
        return opened(root, uid, host)

    monkeypatch.setattr(directory, "open", not_mounted)
    await storages.measure(second.node.shop, array)
    seen = await first.resources.get(ground.Storage, None, array.uid)
    assert seen.status.state == "ready"
    assert seen.reached_by(here)
    assert not seen.reached_by(there)
    told = seen.status.hosts[there].reason
    assert told is not None
    assert told.type == "storage-gone"
    assert seen.status.free_bytes == array.status.free_bytes  # as the one that reaches it has told
    world = snapshot.world((await first.resources.list(ground.Host)).items, [seen])
    assert sorted("array" in one.storages for one in world.hosts) == [False, True]

    monkeypatch.setattr(directory, "open", opened)
    os.rename(array.spec.path, f"{array.spec.path}-aside")
    os.mkdir(array.spec.path)
    for one in pair:
        await storages.measure(one.node.shop, seen)
    seen = await first.resources.get(ground.Storage, None, array.uid)
    assert seen.status.state == "unavailable"
    assert {one.state for one in seen.status.hosts.values()} == {"unavailable"}
    assert os.listdir(array.spec.path) == []  # an empty mount point is not taken for it


async def test_one_of_them_tells_how_full_it_is(pair: Pair, array: ground.Storage) -> None:
    uids = sorted(array.status.hosts)
    now = time.time()
    for moment in (now, now + storages._TURN, now + 2 * storages._TURN):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(time, "time", lambda moment=moment: moment)
            assert [storages._is_turn_of(uid, array) for uid in uids].count(True) == 1
    gone = array.model_copy(
        update={"status": array.status.model_copy(update={"hosts": {uids[0]: array.status.hosts[uids[0]]}})}
    )
    assert storages._is_turn_of(uids[0], gone)
    assert not storages._is_turn_of(uids[1], gone)


async def test_an_image_that_one_host_took_in_is_there_for_the_other(
    pair: Pair, array: ground.Storage, tmp_path: pathlib.Path
) -> None:
    first, second = pair
    path = tmp_path / "disk.raw"
    path.write_bytes(os.urandom(1 << 20))
    subject = base.Ref(kind="image", uid=base.new_uid(), project="default", name="disk")
    ended = await first.ask("image.add", subject, name="disk", path=str(path), storage=array.uid)
    assert ended.status.state is work.TaskState.DONE, ended.status.problem
    image = await second.resources.find(ground.Image, "default", "disk")
    found = second.node.ground.library(array).path(image.spec.sha256)
    assert found.read_bytes() == path.read_bytes()


async def test_what_the_other_host_is_making_is_not_swept(pair: Pair, array: ground.Storage) -> None:
    first, second = pair
    root = pathlib.Path(array.spec.path)
    making = root / "volumes" / ".disk.qcow2.0123.part"
    making.write_bytes(b"half")
    upload = first.node.ground.library(array).intake.path("add-0123")
    upload.write_bytes(b"half")
    await storages.reopen(second.node.shop, array)
    assert making.exists()
    assert upload.exists()
    old = time.time() - 2 * directory._LEFT_BY_OTHERS
    os.utime(making, (old, old))
    await storages.reopen(second.node.shop, array)
    assert not making.exists()
    assert upload.exists()


async def test_no_room_is_promised_twice(pair: Pair, array: ground.Storage) -> None:
    first, second = pair
    free = array.status.free_bytes
    part = {**BLANK, "disk": f"{free * 6 // 10 >> 20}M"}
    one = await first.create("one", storage="array", **part)
    two = await first.create("two", storage="array", **part)
    transaction_owner = vm.Owner(host=second.node.ground.uid, generation=2)
    await give(first, two, transaction_owner)
    assert (await first.ask("vm.start", one)).status.state is work.TaskState.DONE
    refused = await second.ask("vm.start", two)
    assert problem(refused) == "storage-would-not-fit"
    assert (await first.ask("vm.kill", one)).status.state is work.TaskState.DONE
    assert (await second.ask("vm.start", two)).status.state is work.TaskState.DONE


async def give(house: House, machine: vm.VM, owner: vm.Owner) -> None:
    """Write an owner record by hand."""
    _, revision = await house.resources.owner(machine)
    transaction = resources.Transaction()
    transaction.set_owner(machine, owner, expected=revision)
    await house.resources.commit(transaction)


async def take(pair: Pair, machine: vm.VM) -> vm.VM:
    """The first host died; the leader gave the VM to the second, where it runs."""
    first, second = pair
    await first.die()
    present = await second.read(machine)
    assert present.status.host == first.node.ground.uid
    owner = vm.Owner(host=second.node.ground.uid, generation=(present.status.owner_generation or 0) + 1)
    await give(second, machine, owner)
    return await second.until(
        lambda: second.read(machine),
        lambda one: one.status.state is vm.State.RUNNING and one.status.pid not in (None, present.status.pid),
    )


async def on_first(pair: Pair, array: ground.Storage, **request: Any) -> vm.VM:
    """A VM that runs on the first host."""
    first, second = pair
    lacks = array.status.model_copy(
        update={
            "hosts": {
                **array.status.hosts,
                second.node.ground.uid: ground.Reach(state="unavailable"),
            }
        }
    )
    await first.resources.change_status(ground.Storage, None, array.uid, lambda _: lacks)
    return await first.create(storage="array", start=True, **request)


@pytest.mark.guest
async def test_what_ran_on_a_host_that_died_runs_on_another_with_all_that_it_had_written(
    pair: Pair, array: ground.Storage, tiny_image: pathlib.Path
) -> None:
    first, second = pair
    await first.add_image(tiny_image)
    made = await on_first(pair, array, **TWO)
    await first.says(made, "^tiny: ready")
    await counts(first, made)
    directory = pathlib.Path(array.spec.path) / "vms" / made.uid
    before = os.stat(directory / "serial.log").st_uid
    (directory / "disks" / ".disk9.qcow2.0123.part").write_bytes(b"half")

    there = await take(pair, made)
    assert there.status.last_end is not None
    assert there.status.last_end.reason.type == "vm-taken-over"
    assert there.status.restarts == 0
    assert not list(directory.rglob("*.part"))
    await second.says(made, "^tiny: ready")
    last = await second.says(made, "^last-", send=LAST)
    assert int(last.removeprefix("last-")) > 5
    if os.geteuid() == 0:  # each home has users of its own
        assert os.stat(directory / "serial.log").st_uid != before
        assert {os.stat(one).st_uid for one in (directory / "disks").iterdir()} == {
            os.stat(directory / "serial.log").st_uid
        }
    definition = (directory / "vm.yaml").read_text()
    assert f"host: {second.node.ground.uid}" in definition
    assert (second.homes.by_name / "default" / made.name).resolve() == directory

    # and back, with its memory, to where an older run of it has left files
    await second.says(made, "^kept", send="echo heron > /tmp/bird; echo kept")
    assert (await second.ask("vm.save", made)).status.state is work.TaskState.DONE
    again = await House(first.homes, beside=first).open()
    try:
        await second.die()
        owner = vm.Owner(host=again.node.ground.uid, generation=(there.status.owner_generation or 0) + 1)
        await give(again, made, owner)
        assert (await again.ask("vm.start", made)).status.state is work.TaskState.DONE
        assert await again.says(made, "^bird-", send="echo bird-$(cat /tmp/bird)") == "bird-heron"
        assert await again.says(made, "^last-", send=LAST) == last
    finally:
        await again.close()


@pytest.mark.guest
@pytest.mark.slow
async def test_firmware_variables_and_the_tpm_are_where_it_runs_next(
    pair: Pair, array: ground.Storage, packages_cache: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    first, second = pair
    await first.add_image(await uefi.image(tmp_path / "uefi.img", cache=packages_cache), "uefi")
    made = await on_first(
        pair, array, image="uefi", memory="256M", disk="64M", nics=[], firmware="uefi", board={"tpm": "crb"}
    )
    await first.says(made, "^tiny: ready")
    assert await first.says(made, "^variable-", send=f"{uefi.MOUNT}; {uefi.READ_VARIABLE}") == "variable-"
    assert await first.says(made, "^tpm-", send=uefi.READ_TPM) == "tpm-"
    assert await first.says(made, "^variable-", send=f"{uefi.WRITE_VARIABLE}; {uefi.READ_VARIABLE}") == "variable-heron"
    assert await first.says(made, "^tpm-", send=f"{uefi.WRITE_TPM}; {uefi.READ_TPM}") == uefi.KEPT

    await take(pair, made)
    await second.says(made, "^tiny: ready")
    assert await second.says(made, "^variable-", send=f"{uefi.MOUNT}; {uefi.READ_VARIABLE}") == "variable-heron"
    assert await second.says(made, "^tpm-", send=uefi.READ_TPM) == uefi.KEPT


async def test_a_copy_is_made_where_its_source_may_write(pair: Pair, array: ground.Storage) -> None:
    first, second = pair
    one = await first.create("one", storage="array", **BLANK)
    await give(first, one, vm.Owner(host=second.node.ground.uid, generation=2))
    for name in ("two", "three", "four"):  # else the leader spreads them
        copy, ended = await first.clone(one, name)
        assert ended.status.state is work.TaskState.DONE, ended.status.problem
        assert (await first.read(copy)).status.host == second.node.ground.uid


async def test_rules_that_one_host_was_asked_to_put_in_force_are_so_on_all(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = pair
    told: list[str] = []

    async def refence(project: str | None, group: str) -> None:
        told.append(group)

    monkeypatch.setattr(second.node.wires, "refence", refence)
    group = firewall.FirewallGroup(
        metadata=base.Metadata(name="web", project="default"), spec=firewall.FirewallGroupSpec()
    )
    await first.resources.create(group)
    assert (await first.ask("firewall-group.change", group)).status.state is work.TaskState.DONE
    await second.until(second.resources.store.revision, lambda _: told == ["web"])


async def test_another_storage_that_is_mounted_in_its_place_is_not_taken_for_it(house: House) -> None:
    array = await house.storage("array", kind="shared")
    made = await house.create(storage="array", **BLANK)
    os.rename(array.spec.path, f"{array.spec.path}-aside")
    directory.create(pathlib.Path(array.spec.path), base.new_uid())
    assert problem(await house.ask("vm.start", made)) == "storage-another"
    assert os.listdir(f"{array.spec.path}/vms") == []
