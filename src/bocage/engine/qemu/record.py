"""What is kept about a VM's process in its two directories, so that a later daemon knows it again."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from bocage import files
from bocage.engine.qemu import comports, processes
from bocage.model import board as boards
from bocage.model import vm as model

_LIMIT = 1 << 20  # bytes
_PLAIN = ("uid", "name", "generation", "paused", "arrives", "cgroup", "accelerator", "version")


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """One start of one VM. Written before the program runs, outside of what it can write."""

    uid: str  # the VM's
    name: str
    identity: processes.Identity  # of QEMU itself
    generation: int
    directory: pathlib.Path
    isolation: model.Isolation
    paused: bool  # it was started to stand still
    arrives: bool = False  # it was started to take the memory of one that ran elsewhere
    cgroup: str = ""
    helpers: Mapping[str, processes.Identity] = dataclasses.field(default_factory=dict)  # by the NIC that they carry
    tpm: processes.Identity | None = None  # of its swtpm
    ports: Mapping[str, comports.Served] = dataclasses.field(default_factory=dict)  # by the port that they serve
    serial_start: int = 0  # offset in the serial line's log at the start
    accelerator: str = ""
    memory_bound: int | None = None  # bytes that its group may have; None: no bound
    version: str = ""  # QEMU's, known when it has answered


def write(path: pathlib.Path, record: Record) -> None:
    """Keep it durably. Raises OSError."""
    fields = {
        **{name: getattr(record, name) for name in _PLAIN},
        "identity": str(record.identity),
        "directory": str(record.directory),
        "isolation": record.isolation.model_dump(mode="json"),
        "helpers": {nic: str(helper) for nic, helper in record.helpers.items()},
        "tpm": str(record.tpm) if record.tpm else None,
        "ports": {
            name: {"port": one.port.model_dump(mode="json"), "process": str(one.process)}
            for name, one in record.ports.items()
        },
        "serial_start": record.serial_start,
        "memory_bound": record.memory_bound,
    }
    files.write_durably(path, json.dumps(fields, indent=1) + "\n", mode=0o600)


def read(path: pathlib.Path) -> Record | None:
    """What was kept; None when there is nothing, or nothing that can be understood."""
    try:
        with path.open("rb") as file:
            held = json.loads(file.read(_LIMIT))
        return Record(
            uid=str(held["uid"]),
            name=str(held["name"]),
            identity=processes.Identity.parse(held["identity"]),
            generation=int(held["generation"]),
            directory=pathlib.Path(held["directory"]),
            isolation=model.Isolation.model_validate(held["isolation"]),
            paused=bool(held["paused"]),
            arrives=bool(held.get("arrives")),
            cgroup=str(held["cgroup"]),
            helpers={nic: processes.Identity.parse(helper) for nic, helper in dict(held["helpers"]).items()},
            tpm=processes.Identity.parse(held["tpm"]) if held.get("tpm") else None,
            ports={
                name: comports.Served(_port(name, one), processes.Identity.parse(one["process"]))
                for name, one in dict(held.get("ports") or {}).items()
            },
            serial_start=int(held["serial_start"]),
            accelerator=str(held["accelerator"]),
            memory_bound=int(held["memory_bound"]) if held.get("memory_bound") else None,
            version=str(held["version"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _port(name: str, held: Mapping[str, Any]) -> boards.GuestPort:
    """A port that is served; an earlier version served those of RFC 2217 alone, and kept their address."""
    kept = {"name": name, "number": 2, "to": "listen", "address": held.get("address"), "rfc2217": True}
    return boards.GuestPort.model_validate(held.get("port", kept))
