"""Examples of request bodies, for the API's documentation."""

from __future__ import annotations

from typing import Any

from fastapi.openapi.models import Example


def _example(summary: str, value: Any) -> Example:
    return Example(summary=summary, value=value)


VM_CREATE = {
    "tiny": _example("From an image, started at once", {"name": "hello", "image": "tiny", "start": True}),
    "exact": _example(
        "Exactly this much",
        {
            "name": "web1",
            "image": "debian",
            "cpus": {"cores": 2},
            "memory": "2G",
            "disk": "20G",
            "nics": [{"network": "default", "publish": [{"host_port": 2222, "guest_port": 22}]}],
            "seed": {"user": "admin", "ssh_keys": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIExample admin@example"]},
            "start": True,
        },
    ),
    "installation": _example(
        "A blank disk and CDs to install from",
        {"name": "win", "cds": ["windows", "drivers"], "disk": "80G", "memory": "4G", "firmware": "uefi"},
    ),
}
VM_PATCH = {
    "memory": _example("More memory", {"memory": "1G"}),
    "share": _example(
        "Another share of the host, taken at once",
        {"share": {"cpu": {"weight": 300, "cap": 0.5}, "nics": {"inward": "10M"}}},
    ),
    "dynamic": _example("Memory that follows what its guest needs", {"memory": {"minimum": "512M", "maximum": "4G"}}),
    "protect": _example("Keep it from being deleted", {"protected": True, "tags": ["production"]}),
}
DOCUMENT = {
    "edited": _example(
        "As `GET` gave it, edited",
        {"api": "bocage/1", "kind": "VM", "metadata": {"name": "web1", "revision": 42}, "spec": {"memory": "1G"}},
    ),
}
STORAGE_PATCH = {
    "overcommit": _example("Let VMs start that could fill it together", {"overcommit": True}),
    "reserve": _example("Keep back more of it, and say why", {"reserve_percent": 10, "notes": "databases grow here"}),
}
IMAGE_ADD = {
    "url": _example(
        "From an address, with what its publisher says of it",
        {"name": "debian", "url": "https://example.org/debian-12.qcow2", "sha256": "0" * 64},
    ),
    "upload": _example("From an upload", {"name": "old", "upload": "5f0c9f1e-6f0a-4c53", "file_name": "old.vmdk"}),
}
PLAN_WORLD = {
    "hosts": [{"name": name, "memory": "64G", "cpus": 16, "storages": ["array"]} for name in ("host1", "host2")],
    "vms": [
        {"name": name, "memory": "4G", "vcpus": 2, "host": "host1", "storages": ["array"], "apart": ["web"]}
        for name in ("web1", "web2")
    ],
}
PLAN_PLACE = {
    "there": _example("Where one would be, were it nowhere", {"vm": "web1"}),
    "new": _example("One that is not there yet", {"new": {"name": "web2", "memory": "4G", "vcpus": 2}}),
    "replayed": _example("In a world that was kept", {"vm": "web2", "world": PLAN_WORLD}),
}
PLAN_REBALANCE = {
    "now": _example("The present hosts, ten moves at most, and any of them may die", {"moves": 10, "survive": 1}),
    "replayed": _example("A world that was kept", {"world": PLAN_WORLD}),
}
