"""What a VM's directory says: `vm.yaml`, edits by hand, and the script for the day when Bocage is gone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import stat
import subprocess

import pytest

from bocage.engine.qemu import machine
from bocage.model import vm, work
from bocage.node.life import actor
from bocage.node.place import directory, edits
from bocage.store import resources
from tests.node.house import BLANK, House


async def says(house: House, made: vm.VM, text: str) -> directory.Held:
    """What `vm.yaml` holds once it has this text."""
    place = house.place(made)
    await house.until(lambda: asyncio.to_thread(place.definition.read_text), lambda content: text in content)
    return place.read()


async def edit(house: House, made: vm.VM, wrong: str, right: str) -> None:
    path = house.place(made).definition
    content = await asyncio.to_thread(path.read_text)
    assert wrong in content
    await asyncio.to_thread(path.write_text, content.replace(wrong, right))


async def test_the_definition_is_complete_and_follows_every_change(house: House):
    made = await house.create(tags=["web"], notes="é ✓ ok", **BLANK)
    held = await says(house, made, "digest")
    assert (held.vm.metadata.tags, held.vm.metadata.notes, held.vm.spec) == (("web",), "é ✓ ok", made.spec)
    assert held.owner == vm.Owner(host=house.node.ground.uid, generation=1)
    assert [volume.uid for volume in held.volumes] == [disk.volume for disk in made.spec.disks]
    assert stat.S_IMODE(house.place(made).definition.stat().st_mode) == 0o600
    await house.ask("vm.disk-grow", made, disk="disk0", size="3M")
    assert (await says(house, made, "size: 3M")).volumes[0].spec.size == 3 << 20
    transaction = resources.Transaction()
    transaction.rename(await house.read(made), "renamed")
    await house.resources.commit(transaction)
    await says(house, made, "name: renamed")
    link = house.homes.by_name / "default"
    await house.until(lambda: asyncio.to_thread(os.listdir, link), lambda names: names == ["renamed"])
    assert (link / "renamed").resolve() == house.place(made).path


async def test_an_edit_by_hand_is_shown_and_kept_aside_when_the_store_changes_first(house: House):
    made = await house.create(**BLANK)
    place = house.place(made)
    await says(house, made, "digest")
    assert edits.differences(place, made) == []
    with pytest.raises(edits.NotEdited):
        edits.edited(place)
    await edit(house, made, "memory: 32M", "memory: 64M")
    assert edits.differences(place, made) == [{"path": "spec.memory", "is": "32M", "edited": "64M"}]
    assert edits.edited(place).vm.spec.memory == 64 << 20
    await house.resources.change(
        vm.VM, "default", made.uid, lambda one: resources.with_metadata(one, title="changed meanwhile")
    )
    await says(house, made, "changed meanwhile")
    assert b"memory: 64M" in place.edited_aside.read_bytes()
    assert edits.edited(place).vm.spec.memory == 64 << 20  # and can still be taken
    await house.resources.change(
        vm.VM, "default", made.uid, lambda one: one.model_copy(update={"spec": edits.edited(place).vm.spec})
    )
    await says(house, made, "memory: 64M")
    assert place.edited_aside.exists()  # its title is another one still
    title = edits.edited(place).vm.metadata.title
    await house.resources.change(vm.VM, "default", made.uid, lambda one: resources.with_metadata(one, title=title))
    await house.until(lambda: asyncio.to_thread(place.edited_aside.exists), lambda there: not there)
    assert place.hand_edit() is None


async def test_what_nobody_waits_for_takes_its_turn_and_holds_up_nobody(house: House, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(actor, "_LONGEST_TURN", 600.0)
    patient, hurried = await house.create("patient", **BLANK), await house.create("hurried", **BLANK)
    for one in (patient, hurried):
        await says(house, one, "digest")
    async with house.node.ground.unhurried:
        for one in (patient, hurried):
            await house.resources.change(
                vm.VM, "default", one.uid, lambda now: resources.with_metadata(now, notes="a word")
            )
        assert (await house.ask("vm.start", hurried)).status.state is work.TaskState.DONE
        await says(house, hurried, "a word")
        assert "a word" not in house.place(patient).definition.read_text()
    await says(house, patient, "a word")


async def test_the_definition_lies_on_the_disk_before_the_vcpus_run(house: House, monkeypatch: pytest.MonkeyPatch):
    made = await house.create(**BLANK)
    place = house.place(made)
    place.definition.unlink()
    seen: list[bool] = []
    go_on = machine.QemuMachine.resume

    async def looked(self: machine.QemuMachine) -> None:
        held = place.read()
        seen.append(held.vm.spec.power is vm.Power.RUNNING and held.owner is not None)
        await go_on(self)

    monkeypatch.setattr(machine.QemuMachine, "resume", looked)
    assert (await house.ask("vm.start", made)).status.state is work.TaskState.DONE
    assert seen == [True]


async def test_a_script_to_start_it_by_hand_lies_beside_it_from_the_beginning(house: House):
    made = await house.create(**BLANK)
    script = house.place(made).by_hand
    await house.until(lambda: asyncio.to_thread(script.exists), bool)
    assert stat.S_IMODE(script.stat().st_mode) == 0o700
    assert re.search(r"^exec qemu-system-x86_64 ", script.read_text(), re.MULTILINE)
    assert "-m 32M" in script.read_text()
    await house.resources.change(vm.VM, "default", made.uid, _bigger)
    await house.until(lambda: asyncio.to_thread(script.read_text), lambda text: "-m 48M" in text)


def _bigger(one: vm.VM) -> vm.VM:
    return resources.with_spec(one, memory="48M")


@pytest.mark.guest
@pytest.mark.fault
async def test_started_by_hand_while_bocage_is_gone_it_runs_and_is_taken_care_of_afterwards(tiny_house: House):
    made = await tiny_house.create(image="tiny", memory="128M", disk="64M", nics=[])
    place = tiny_house.place(made)
    await tiny_house.until(lambda: asyncio.to_thread(place.by_hand.exists), bool)
    await tiny_house.close()
    place.serial_log.write_text("tiny: ready in an earlier life\n")
    by_hand = await asyncio.to_thread(
        lambda: subprocess.Popen([place.by_hand], start_new_session=True, stdin=subprocess.DEVNULL)
    )
    try:
        assert await tiny_house.says(made, "^tiny: ready cpus")
        again = await House(tiny_house.homes).open()
        try:
            found = await again.becomes(made, vm.State.RUNNING)
            assert (found.status.pid, found.spec.power) == (by_hand.pid, vm.Power.RUNNING)
            assert "vm-started-by-hand" in await again.events()
            assert "cpus" in await again.says(made, "^tiny: ready")
            assert await again.says(made, "^typed$", send="echo ty''ped")
            assert (await again.ask("vm.stop", found)).status.state is work.TaskState.DONE
            assert (await again.read(made)).status.state is vm.State.STOPPED
            assert (await again.ask("vm.start", made)).status.state is work.TaskState.DONE
        finally:
            await again.close()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(by_hand.pid, 9)
        await asyncio.to_thread(by_hand.wait)


async def test_what_is_made_and_has_to_wait_for_its_start_has_its_definition(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(house.node.preparation.in_use, "is_copied", lambda _: True)
    entering = asyncio.create_task(house.create(start=True, **BLANK))

    async def waits() -> vm.VM | None:
        return next(iter((await house.resources.list(vm.VM)).items), None)

    made = await house.until(waits, lambda one: bool(one and one.status.reason))
    assert made is not None
    await house.until(lambda: asyncio.to_thread(house.place(made).definition.exists), bool)
    assert (await house.read(made)).status.pid is None
    monkeypatch.undo()
    await entering
