"""What a running machine was started with: what differs from it waits for a cold start."""

from __future__ import annotations

import pathlib

from bocage.model import vm as model

COLD = ("cpus", "memory", "disks", "cds", "nics", "ports", "hardware")  # what a running machine was built with


def note(runtime: pathlib.Path, machine: model.VM) -> None:
    """Keep what the machine is started with, for as long as it can run."""
    runtime.mkdir(parents=True, exist_ok=True)
    beside = runtime / ".started.json.part"
    beside.write_text(machine.spec.model_dump_json())
    beside.rename(runtime / "started.json")


def note_plugged(runtime: pathlib.Path, machine: model.VM, disk: str, *, there: bool = True) -> None:
    """A disk of the running machine came, or went."""
    started = read(runtime)
    if started is None:
        return
    disks = [one for one in started.disks if one.name != disk]
    disks += [one for one in machine.spec.disks if one.name == disk and there]
    boot = started.boot.model_copy(update={"order": tuple(one for one in started.boot.order if one != disk or there)})
    spec = started.model_copy(update={"disks": tuple(disks), "boot": boot})
    note(runtime, machine.model_copy(update={"spec": spec}))


def read(runtime: pathlib.Path) -> model.VMSpec | None:
    """The spec that the running machine was started with."""
    try:
        return model.VMSpec.model_validate_json((runtime / "started.json").read_bytes())
    except (OSError, ValueError):
        return None
