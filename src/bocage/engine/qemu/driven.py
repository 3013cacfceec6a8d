"""Whether a guest drives a virtio disk: what QEMU knows of it, which needs nobody in the guest."""

from __future__ import annotations

from bocage.engine.qemu import link, qmp

_READY = "VIRTIO_CONFIG_S_DRIVER_OK"
_OF_SYSTEMS = "VIRTIO_RING_F_EVENT_IDX"
"""Linux's and Windows's drivers take this feature; firmware, which drives a disk too to boot from it, does not."""


async def by_guest(at: link.Link, disk: str) -> bool | None:
    """Whether a driver of the guest's system has made the disk ready; None when this QEMU (before 7.2) cannot say."""
    try:
        asked = {"path": f"/machine/peripheral/{disk}/virtio-backend"}
        told = await at.execute("x-query-virtio-status", asked)
    except qmp.CommandFailed as error:
        return None if error.kind == "CommandNotFound" else False
    ready, taken = told["status"].get("statuses", ()), told["guest-features"].get("transports", ())
    return _has(ready, _READY) and _has(taken, _OF_SYSTEMS)


def _has(told: list[str], name: str) -> bool:
    return any(one.partition(":")[0] == name for one in told)
