"""A template: a VM that was sealed, version by version, so that others are made from it at once."""

from __future__ import annotations

import datetime
from typing import Annotated, ClassVar

from pydantic import Field

from bocage.model.base import Part, Resource, Uid
from bocage.model.ground import Sha256
from bocage.model.units import Size
from bocage.model.vm import DeviceName, VMSpec


class TemplateDisk(Part):
    """What a disk held, as an image: those made from it are linked to that."""

    disk: DeviceName
    sha256: Sha256
    size: Size


class TemplateVersion(Part):
    """One sealed state. It never changes."""

    number: Annotated[int, Field(ge=1)]
    made: datetime.datetime
    machine: VMSpec
    disks: tuple[TemplateDisk, ...]


class TemplateSpec(Part):
    storage: Uid
    """Where its images lie, and so the VMs that are linked to them."""
    versions: Annotated[tuple[TemplateVersion, ...], Field(max_length=100)] = ()
    """The oldest first."""


class TemplateStatus(Part):
    pass


class Template(Resource[TemplateSpec, TemplateStatus]):
    kind: ClassVar[str] = "template"
    plural: ClassVar[str] = "templates"
    status: TemplateStatus = TemplateStatus()
