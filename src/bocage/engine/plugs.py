"""What the node knows of the host's USB devices that one VM has."""

from __future__ import annotations

from typing import Protocol


class Plugs(Protocol):
    """Each call looks at what is there, and can be made again."""

    @property
    def pulled(self) -> bool:
        """Whether it is to have none just now, since its memory is being written."""
        ...

    async def plugged(self) -> dict[str, str]:
        """By name, the host's node that each has; empty for one that has lost its device."""
        ...

    async def plug(self, name: str, unit: int, node: str) -> None:
        """Plug a device of the host into a port of the guest's controller, in place of another of that name."""
        ...

    async def unplug(self, name: str) -> None:
        """Give a device back to the host; not an error when it is gone."""
        ...
