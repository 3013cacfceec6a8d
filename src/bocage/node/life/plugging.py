"""Has running VMs have the USB devices of their host that are theirs, whenever these are plugged in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bocage import errors
from bocage.engine import base as engine
from bocage.model import base, vm
from bocage.node import notes
from bocage.node.life.standing import Standing
from bocage.node.place import usb


async def settle(standing: Standing, known: usb.Usb, running: engine.Machine) -> tuple[vm.UsbStatus, ...]:
    """Have a machine have what is its, and show and tell what came and went."""
    async with known.turn(standing.uid):
        machine, wanted = await standing.read(), standing.usb or ()
        if running.plugs.pulled:
            return machine.status.usb
        try:
            shown = await known.settle(machine.uid, running, wanted)
        except errors.TimedOut as error:  # the rounds try again
            shown = tuple(vm.UsbStatus(name=one.name, reason=base.Saying.of(error)) for one in wanted)
        if shown != machine.status.usb and standing.machine is running:
            await standing.show(usb=shown)
            await _tell(standing, machine, shown, {one.name: usb.describe(one) for one in wanted})
        return shown


async def _tell(standing: Standing, machine: vm.VM, shown: Iterable[vm.UsbStatus], devices: Mapping[str, str]) -> None:
    before = {one.name: one.node for one in machine.status.usb}
    for one in shown:
        had = before.get(one.name, "")
        if one.node and one.node != had:
            await standing.tell(machine, notes.UsbCame(name=machine.name, device=devices[one.name], node=one.node))
        elif had and not one.node:
            lost = notes.UsbWent(name=machine.name, device=devices[one.name])
            await standing.tell(machine, lost, base.Severity.WARNING)
