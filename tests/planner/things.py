"""Whole resources for tests of decisions: the same each time, but for what a test says."""

from __future__ import annotations

from typing import Any

from bocage.model import base, ground, vm

HOST = "5f0c9f1e-6f0a-4c53-9c1e-0d1f5a3f7c11"
STORAGE = "5f0c9f1e-6f0a-4c53-9c1e-0d1f5a3f7c12"
MACHINE = "5f0c9f1e-6f0a-4c53-9c1e-0d1f5a3f7c13"


def host(**fields: Any) -> ground.Host:
    return ground.Host.model_validate({"metadata": {"uid": HOST, "name": "host1"}, "spec": {}, **fields})


def storage(*, uid: str = STORAGE, host: str = HOST, **fields: Any) -> ground.Storage:
    spec = {"host": host, "path": "/storage"}
    return ground.Storage.model_validate({"metadata": {"uid": uid, "name": "local"}, "spec": spec, **fields})


def machine(
    *,
    uid: str = MACHINE,
    name: str = "web",
    metadata: dict[str, Any] | None = None,
    status: vm.VMStatus | None = None,
    **spec: Any,
) -> vm.VM:
    board = {
        "machine": "pc-q35-7.2",
        "cpu_model": "qemu64",
        "smbios": {"uuid": uid, "serial": "1"},
        "devices": {},
    }
    return vm.VM(
        metadata=base.Metadata.model_validate({"uid": uid, "name": name, "project": "default", **(metadata or {})}),
        spec=vm.VMSpec.model_validate({"storage": STORAGE, "hardware": board, **spec}),
        status=status or vm.VMStatus(),
    )
