"""Which VM has which of the host's USB devices, and the handing over."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Iterable, Sequence

from bocage import errors, words
from bocage.engine import base as engine
from bocage.engine import usb as host_usb
from bocage.model import base, board, vm
from bocage.node import clock, tasks
from bocage.node.notes import Note
from bocage.planner import usb
from bocage.words import N_

_TRY_AGAIN = 30.0  # seconds before a device that could not be handed over is tried again


class UsbWaits(Note):
    type = "usb-waits"
    text = N_("no USB device {device} is free on this host; it gets it as soon as there is one")
    hint = N_("'bocage host usb' lists what is plugged in; one whose disk the host has mounted is not free")
    device: str


class UsbRefused(Note):
    type = "usb-refused"
    text = N_("the USB device {device} ({node}) could not be handed over: {reason}")
    hint = N_("it is tried again twice a minute; unplugging it and plugging it in again often helps")
    device: str
    node: str
    reason: str


class Usb:
    """Who has which of a host's USB devices."""

    def __init__(self) -> None:
        self.known = False
        """Whether it is known what each VM has; until then nobody is given anything that may be another's."""
        self._held: dict[str, str] = {}  # VMs by node
        self._refused: dict[tuple[str, str], tuple[str, float, words.Message]] = {}  # by VM and name: node, when, why
        self._one_at_a_time: dict[str, asyncio.Lock] = collections.defaultdict(asyncio.Lock)  # by VM

    def holder(self, node: str) -> str | None:
        """The VM that has the device."""
        return self._held.get(node)

    def forget(self, uid: str) -> None:
        """A VM has ended, and its devices are free."""
        self._held = {node: by for node, by in self._held.items() if by != uid}
        self._refused = {key: one for key, one in self._refused.items() if key[0] != uid}
        self._one_at_a_time.pop(uid, None)

    async def know(self, uid: str, running: engine.Machine) -> dict[str, str]:
        """Learn what a machine has: by name, the node."""
        has = await running.plugs.plugged()
        self._hold(uid, has.values())
        return has

    def turn(self, uid: str) -> asyncio.Lock:
        """Held by whoever settles what a VM has."""
        return self._one_at_a_time[uid]

    async def settle(
        self, uid: str, running: engine.Machine, wanted: Sequence[board.UsbDevice]
    ) -> tuple[vm.UsbStatus, ...]:
        """Give a machine what it is to have and take from it what it is not; how each stands then.

        Raises engine.NotRunning, errors.TimedOut.
        """
        present = await asyncio.to_thread(host_usb.look) if wanted else []
        has = await self.know(uid, running)
        if not self.known:
            present = [one for one in present if one.node in has.values()]
        taken = [node for node, by in self._held.items() if by != uid]
        chosen = usb.choose(wanted, present, has, taken)
        self._hold(uid, (*chosen.values(), *has.values()))  # before anything is waited for
        for name, node in has.items():
            if not node or chosen.get(name) != node:
                await running.plugs.unplug(name)
        refused: dict[str, words.Message] = {}
        for one in wanted:
            node = chosen.get(one.name, "")
            if node and has.get(one.name) != node and (why := await self._plug(uid, running, one, node)):
                refused[one.name] = why
        self._hold(uid, [node for name, node in chosen.items() if name not in refused])
        return tuple(_standing(one, chosen.get(one.name, ""), refused.get(one.name)) for one in wanted)

    def _hold(self, uid: str, nodes: Iterable[str]) -> None:
        others = {node: by for node, by in self._held.items() if by != uid}
        self._held = {node: uid for node in nodes if node} | others

    async def _plug(self, uid: str, running: engine.Machine, one: board.UsbDevice, node: str) -> words.Message | None:
        """Why it could not be plugged in, if so."""
        earlier = self._refused.get((uid, one.name))
        if earlier and earlier[0] == node and clock.boottime() - earlier[1] < _TRY_AGAIN:
            return earlier[2]
        try:
            await running.plugs.plug(one.name, one.unit, node)
        except engine.NotRunning:
            raise
        except (errors.Problem, OSError) as error:
            problem = error if isinstance(error, errors.Problem) else tasks.from_os(error)
            refused = UsbRefused(device=describe(one), node=node, reason=words.say(problem))
            self._refused[uid, one.name] = node, clock.boottime(), refused
            return refused
        self._refused.pop((uid, one.name), None)
        return None


def _standing(one: board.UsbDevice, node: str, refused: words.Message | None) -> vm.UsbStatus:
    why = refused or (None if node else UsbWaits(device=describe(one)))
    if why is None:
        return vm.UsbStatus(name=one.name, node=node)
    return vm.UsbStatus(name=one.name, reason=base.Saying.of(why))


def describe(one: board.UsbDevice) -> str:
    """A device in the words by which it is found."""
    serial = f"serial {one.serial}" if one.serial else ""
    return " ".join(filter(None, (one.id, serial, f"at port {one.port}" if one.port else "")))
