"""What a running machine boots from when its guest next restarts."""

from __future__ import annotations

import contextlib

from bocage.engine.qemu import devices, link, qmp
from bocage.model import vm as model

_NEVER = -1


async def order(at: link.Link, spec: model.VMSpec) -> None:
    """Have the boot indexes be those of a machine's order. Can be cut off anywhere and done again.

    Two devices cannot have one index, so all are taken away first. Floppies have theirs for good from their controller.
    """
    wanted = devices.standing_order(spec)
    drives = [cd.name for cd in spec.cds if cd.bus is not model.Bus.FLOPPY]
    names = [*(disk.name for disk in spec.disks), *drives, *(nic.name for nic in spec.nics)]
    for index in (dict.fromkeys(names, _NEVER), {name: wanted[name] for name in names if name in wanted}):
        for name, value in index.items():
            place = {"path": f"/machine/peripheral/{name}", "property": "bootindex", "value": value}
            with contextlib.suppress(qmp.CommandFailed):  # it waits for a cold start itself
                await at.execute("qom-set", place)
