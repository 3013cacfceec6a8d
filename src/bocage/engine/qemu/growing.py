"""vCPUs and memory that come to a running machine and go: as processors, through virtio-mem, as DIMMs."""

from __future__ import annotations

from bocage.engine import base
from bocage.engine.qemu import added_memory, dimms, link, qmp, vcpus


class Growing:
    """Those of one machine. Each call looks at what is there first, and can be made again."""

    def __init__(self, name: str, at: link.Link) -> None:
        self._name, self._at = name, at

    async def cpus(self) -> int:
        return await vcpus.present(self._at)

    async def plug_cpus(self, count: int) -> int:
        return await vcpus.plug(self._at, count)

    async def unplug_cpus(self, count: int) -> None:
        await vcpus.unplug(self._at, count)

    async def resize_memory(self, added: int) -> int:
        try:
            return await added_memory.resize(self._at, added)
        except qmp.CommandFailed as error:
            if error.kind == "DeviceNotFound":
                raise base.NoRoom(name=self._name) from error
            raise

    async def dimms(self) -> tuple[int, ...]:
        return await dimms.present(self._at)

    async def plug_dimm(self, number: int, size: int) -> bool:
        return await dimms.plug(self._at, number, size)
