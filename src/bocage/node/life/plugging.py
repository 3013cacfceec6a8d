"""Has running VMs have the USB devices of their host that are theirs, whenever these are plugged in."""

from __future__ import annotations

from bocage import errors
from bocage.engine import base as engine
from bocage.model import base, vm
from bocage.node import notes
from bocage.node.life.standing import Standing
from bocage.node.place import usb


async def settle(
    standing: Standing, known: usb.Usb, machine: vm.VM, running: engine.Machine
) -> tuple[vm.UsbStatus, ...]:
    """Have a machine have what is its, and show and tell what came and went."""
    if running.plugs.pulled:
        return machine.status.usb
    before = {one.name: one for one in machine.status.usb}
    wanted = standing.usb or ()
    try:
        shown = await known.settle(machine.uid, running, wanted)
    except errors.TimedOut as error:  # the rounds try again
        shown = tuple(vm.UsbStatus(name=one.name, reason=base.Saying.of(error)) for one in wanted)
    if shown != machine.status.usb and standing.machine is running:
        await standing.show(usb=shown)
        devices = {one.name: usb.describe(one) for one in wanted}
        for one in shown:
            had = before.get(one.name)
            if one.node and not (had and had.node == one.node):
                await standing.tell(machine, notes.UsbCame(name=machine.name, device=devices[one.name], node=one.node))
            elif had and had.node and not one.node:
                lost = notes.UsbWent(name=machine.name, device=devices[one.name])
                await standing.tell(machine, lost, base.Severity.WARNING)
    return shown
