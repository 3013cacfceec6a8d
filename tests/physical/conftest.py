"""A host that may have a BMC, and the box that its password is sealed in."""

from __future__ import annotations

import pathlib

import pytest

from bocage.model import base, ground, power
from bocage.store import secrets


@pytest.fixture
def box(tmp_path: pathlib.Path) -> secrets.Box:
    return secrets.Box.open(tmp_path / "secret.key")


def host(name: str = "host1", *, smbios_uuid: str = "", bmc: power.Bmc | None = None) -> ground.Host:
    return ground.Host(
        metadata=base.Metadata(name=name, uid="5f0c9f1e-6f0a-4c53-9c1e-0d1f5a3f7c11"),
        spec=ground.HostSpec(bmc=bmc),
        status=ground.HostStatus(smbios_uuid=smbios_uuid),
    )
