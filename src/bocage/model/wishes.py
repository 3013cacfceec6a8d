"""Which hosts a VM may be on, and with whom."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from bocage.model.base import Part, Tag

Group = Annotated[
    str,
    StringConstraints(pattern=r"^[\w.:/=-]{1,63}$"),
    Field(description="A group of VMs, by any name that they share.", examples=["web"]),
]
Groups = Annotated[tuple[Group, ...], Field(max_length=16)]


class Placement(Part):
    """A host that does not fit is refused when a VM is placed; one that has it goes on having it."""

    together: Groups = ()
    """Those of one such group are on one host."""
    apart: Groups = ()
    """Those of one such group are on different hosts."""
    host_tags: Annotated[tuple[Tag, ...], Field(max_length=16)] = ()
    """Its host has all of these."""
