"""Templates: what is made from one holds what it held, costs nothing, and keeps it from going."""

from __future__ import annotations

from typing import Any

import pytest

from bocage.model import base, ground, requests, template, vm, work
from bocage.planner import templates
from tests.node.house import House
from tests.node.test_snapshots import booted, counted, counts, done, files_of, reads, whole, writes
from tests.node.test_wishes import problem


async def seal(house: House, made: vm.VM, name: str, snapshot: str | None = None) -> work.Task:
    kept = await house.kept(made)
    known = {one.name: one for one in (await house.resources.list(template.Template)).items}
    uid = known[name].uid if name in known else base.new_uid()
    asked = requests.TemplateCreate(name=name, vm=made.name, snapshot=snapshot)
    return await house.ask(
        "template.create",
        base.Ref(kind="template", uid=uid, project="default", name=name),
        request=asked.model_dump(mode="json"),
        vm=made.uid,
        snapshot=kept[snapshot].uid if snapshot else None,
    )


async def of_template(house: House, name: str, label: str, **more: Any) -> vm.VM:
    """A VM made from it."""
    title, number = templates.parse(label)
    held = await house.resources.find(template.Template, "default", title)
    facts = await house.facts()
    asked = requests.VMCreate.model_validate({"name": name, "template": label, **more})
    made = templates.define(
        asked, held, templates.version(held, number), facts.host, project="default", macs=facts.macs
    )
    return await house.enter(made)


@pytest.mark.guest
async def test_what_is_made_from_a_version_holds_what_that_held_and_the_template_stays_while_it_does(tiny_house: House):
    made = await booted(tiny_house, disks=[{"size": "1G"}])
    await writes(tiny_house, made, "first", "vdb")
    done(await tiny_house.keep(made, "running"))
    done(await seal(tiny_house, made, "web", "running"))
    assert problem(await seal(tiny_house, made, "web")) == "copy-while-running"
    await writes(tiny_house, made, "second", "vdb")
    done(await tiny_house.ask("vm.kill", made))
    done(await seal(tiny_house, made, "web"))
    held = await tiny_house.resources.find(template.Template, "default", "web")
    assert [one.number for one in held.spec.versions] == [1, 2]
    old = await of_template(tiny_house, "old", "web@1", start=True)
    new = await of_template(tiny_house, "new", "web", memory="160M")
    assert new.spec.memory == 160 << 20
    await tiny_house.says(old, "^tiny: ready")
    assert await reads(tiny_house, old, "vdb") == "first"
    [_, volume] = await tiny_house.node.preparation.disks.of(new)
    assert volume.spec.linked
    path = await tiny_house.node.preparation.disks.path(volume)
    assert path.stat().st_blocks * 512 < 1 << 20, "it holds nothing of its own"
    done(await tiny_house.ask("vm.start", new))
    await tiny_house.says(new, "^tiny: ready")
    assert await reads(tiny_house, new, "vdb") == "second"
    identities = {one.spec.hardware.smbios.uuid for one in (made, old, new)}
    generations = {one.spec.hardware.generation_id for one in (made, old, new)}
    assert len(identities) == len(generations) == 3
    assert problem(await tiny_house.ask("template.delete", held)) == "template-in-use"
    images = (await tiny_house.resources.list(ground.Image)).items
    sealed = next(one for one in images if one.spec.origin.startswith("template:"))
    assert problem(await tiny_house.ask("image.delete", sealed)) == "image-in-use"
    await counts(tiny_house, old)
    done(await tiny_house.keep(old, "before"))
    done(await tiny_house.ask("vm.flatten", old))  # while it runs, with a snapshot above
    await counted(tiny_house, old)
    done(await tiny_house.ask("vm.kill", new))
    done(await tiny_house.ask("vm.flatten", new))
    done(await tiny_house.ask("template.delete", held, version=1))
    for one in (old, new):
        done(await tiny_house.ask("vm.kill", one))
        await whole(tiny_house, one)
        assert not any(volume.spec.linked for volume in await tiny_house.node.preparation.disks.of(one))
    done(await tiny_house.ask("template.delete", held))
    images = (await tiny_house.resources.list(ground.Image)).items
    assert [one.name for one in images] == ["tiny"]
    stored = {path.suffix for path in (tiny_house.homes.local_storage / "images").iterdir()}
    assert stored <= {".raw", ".yaml"}
    for one, word in ((old, "first"), (new, "second")):
        done(await tiny_house.ask("vm.start", one))
        await tiny_house.becomes(one, vm.State.RUNNING)
        await tiny_house.says(one, "^tiny: ready")
        assert await reads(tiny_house, one, "vdb") == word
    done(await tiny_house.forget(made, "running"))
    assert await files_of(tiny_house, made) == {"disk0.qcow2", "disk1.qcow2"}
