"""What is promised of a host while its guests give and take."""

from __future__ import annotations

import types
from typing import Any, cast

import pytest

from bocage.model import memory, vm
from bocage.model.units import MiB, Size
from bocage.node.ground import Ground
from bocage.node.place import admission
from tests.planner import things


def fixed(size: int, uid: str = things.MACHINE) -> vm.VM:
    return things.machine(uid=uid, memory=Size(size * MiB))


def dynamic(least: int, most: int) -> vm.VM:
    made = memory.DynamicMemory(startup=Size(least * MiB), minimum=Size(least * MiB))
    return things.machine(memory=Size(most * MiB), dynamic_memory=made)


class Lent:
    """A host that lends 1000 MiB."""

    uid = "host"

    def __init__(self) -> None:
        self.resources = types.SimpleNamespace(get=self._get)

    async def _get(self, *_: object) -> Any:
        return things.host(spec={"memory_for_vms": Size(1000 * MiB)})


async def test_what_a_guest_was_asked_to_give_is_promised_to_nobody_before_it_gave():
    held = admission.Admission(cast(Ground, Lent()))
    was, now, other = fixed(800), dynamic(100, 800), fixed(600, uid="5f0c9f1e-6f0a-4c53-9c1e-0d1f5a3f7c99")
    await held.claim(was, was.spec)
    await held.claim(was, now.spec)  # about to become dynamic: it still has all
    held.note(was.uid, now.spec)
    with pytest.raises(admission.NotAdmitted):
        await held.claim(other, other.spec)
    held.keep(was.uid, lambda before: before - 300 * MiB)
    assert (await held.shown()).memory == 500 * MiB
    with pytest.raises(admission.NotAdmitted):
        await held.claim(other, other.spec)
    held.keep(was.uid, lambda _: 50 * MiB)
    await held.claim(other, other.spec)
    assert (await held.shown()).memory == 700 * MiB
    with pytest.raises(admission.NotAdmitted):  # and back it does not get what was given away
        await held.claim(was, was.spec)
    held.note(was.uid, None)
    assert (await held.shown()).memory == 600 * MiB


async def test_of_a_guest_that_is_found_again_nothing_is_promised_until_it_has_told():
    held = admission.Admission(cast(Ground, Lent()))
    found = dynamic(100, 800)
    held.find(found.uid, found.spec)
    held.note(found.uid, found.spec)
    assert (await held.shown()).memory == 800 * MiB
    held.keep(found.uid, lambda _: 150 * MiB)
    assert (await held.shown()).memory == 150 * MiB
