"""Memory that a guest takes and gives back while it runs: one virtio-mem device, as large as the room for it.

The guest plugs as much of it as is asked for (virtio specification 1.2, section 5.15).
"""

from __future__ import annotations

import asyncio

from bocage.engine.qemu import devices, link
from bocage.model import vm as model
from bocage.planner.adaptation import MEMORY_BLOCK

BACKEND = "board.added"
DEVICE = "board.memory"
_STILL = 3.0  # seconds without a further block after which the guest has done what it can
_PAUSE = 0.1


def room(spec: model.VMSpec, first: int) -> int:
    """Bytes that can be added to a machine that starts with `first`; 0 where it has no device for it."""
    largest = spec.hardware.max_memory or 0
    return max(0, (largest - first) // MEMORY_BLOCK * MEMORY_BLOCK) if "memory" in spec.hardware.devices else 0


def device(spec: model.VMSpec, first: int) -> devices.Device:
    """The device, asking for what the spec has beyond `first`."""
    place = devices.place(spec.hardware.devices["memory"])
    asked = max(0, int(spec.memory) - first) // MEMORY_BLOCK * MEMORY_BLOCK
    return {
        "driver": "virtio-mem-pci",
        "id": DEVICE,
        **place,
        "memdev": BACKEND,
        "block-size": MEMORY_BLOCK,
        "requested-size": asked,
    }


async def resize(at: link.Link, added: int) -> int:
    """Ask the guest to have so many bytes of it, and wait while it still plugs or unplugs; how many it has then.

    Raises qmp.CommandFailed, of the kind DeviceNotFound where there is no such device.
    """
    wanted = added // MEMORY_BLOCK * MEMORY_BLOCK
    await at.execute("qom-set", {"path": DEVICE, "property": "requested-size", "value": wanted})
    present, moved = await size(at), asyncio.get_running_loop().time()
    while present != wanted and asyncio.get_running_loop().time() < moved + _STILL:
        await asyncio.sleep(_PAUSE)
        before, present = present, await size(at)
        if present != before:
            moved = asyncio.get_running_loop().time()
    return present


async def size(at: link.Link) -> int:
    """How many bytes of it the guest has."""
    return int(await at.execute("qom-get", {"path": DEVICE, "property": "size"}))
