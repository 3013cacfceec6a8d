"""What a running machine is made of: what differs from it waits for a cold start."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from bocage import files
from bocage.model import vm as model
from bocage.model.units import Size
from bocage.planner.adaptation import Built, First

# What a running machine was built with.
COLD = ("cpus", "memory", "dynamic_memory", "disks", "cds", "nics", "ports", "hardware")
ARRIVES, DEPARTS = "arrives", "departs"
HELD = ("share", "usb")  # what it is held to, beside the limits of its devices, and what comes once it runs


def note(runtime: pathlib.Path, built: Built) -> None:
    """Keep what the machine is made of, for as long as it can run."""
    runtime.mkdir(parents=True, exist_ok=True)
    beside = runtime / ".started.json.part"
    beside.write_text(json.dumps(dump(built)))
    beside.rename(runtime / "started.json")


def begin(runtime: pathlib.Path, built: Built) -> None:
    """A new process is about to be made so; what an earlier one may have had is gone with it."""
    _coming(runtime).unlink(missing_ok=True)
    note(runtime, built)


def change(runtime: pathlib.Path, **fields: object) -> None:
    """The running machine is made of other things now. Nothing is kept where nothing was."""
    if built := read_whole(runtime):
        note(runtime, dataclasses.replace(built, spec=built.spec.model_copy(update=fields)))


def note_plugged(runtime: pathlib.Path, machine: model.VM, disk: str, *, there: bool = True) -> None:
    """A disk of the running machine came, or went."""
    started = read(runtime)
    if started is None:
        return
    disks = [one for one in started.disks if one.name != disk]
    disks += [one for one in machine.spec.disks if one.name == disk and there]
    boot = started.boot if there else started.boot.without(disk)
    change(runtime, disks=tuple(disks), boot=boot)
    _note_coming(runtime, [one for one in coming(runtime) if one.name != disk])


def note_coming(runtime: pathlib.Path, disk: model.Disk, *, comes: bool = True) -> None:
    """A disk is about to be plugged in: until it is noted as plugged, or as not coming, it may be there or not."""
    _note_coming(runtime, [*(one for one in coming(runtime) if one.volume != disk.volume), *([disk] if comes else [])])


def coming(runtime: pathlib.Path) -> list[model.Disk]:
    """The disks that the running machine may have, and that are no part of what it is noted to be made of."""
    try:
        return [model.Disk.model_validate(one) for one in json.loads(_coming(runtime).read_bytes())]
    except (OSError, ValueError):
        return []


def held(runtime: pathlib.Path) -> model.VMSpec | None:
    """The spec of the running machine, with every disk that it may have."""
    if (started := read(runtime)) is None:
        return None
    volumes = {one.volume for one in started.disks}
    more = (one for one in coming(runtime) if one.volume not in volumes)
    return started.model_copy(update={"disks": (*started.disks, *more)})


def with_left(runtime: pathlib.Path, built: model.VMSpec, wanted: model.VMSpec) -> model.VMSpec:
    """The running machine with the disks that may have come to it and that nobody wants any more: they are to go."""
    names = {one.name for one in (*built.disks, *wanted.disks)}
    left = (one for one in coming(runtime) if one.name not in names)
    return built.model_copy(update={"disks": (*built.disks, *left)})


def _note_coming(runtime: pathlib.Path, disks: list[model.Disk]) -> None:
    if not disks:
        _coming(runtime).unlink(missing_ok=True)
        return
    beside = runtime / ".coming.json.part"
    beside.write_text(json.dumps([one.model_dump(mode="json") for one in disks]))
    beside.rename(_coming(runtime))


def _coming(runtime: pathlib.Path) -> pathlib.Path:
    return runtime / "coming.json"


def read(runtime: pathlib.Path) -> model.VMSpec | None:
    """The spec of the running machine as it is made now."""
    built = read_whole(runtime)
    return built.spec if built else None


def read_whole(runtime: pathlib.Path) -> Built | None:
    """What the running machine is made of."""
    try:
        held = json.loads((runtime / "started.json").read_bytes())
        return load(held if "spec" in held else {"spec": held})  # the spec alone, where an earlier version wrote it
    except (OSError, ValueError, KeyError, TypeError):
        return None


def note_passage(runtime: pathlib.Path, name: str, held: Mapping[str, Any] | None) -> None:
    """Keep, durably, how a VM comes here (`arrives`) or leaves (`departs`); None: it does not any more."""
    path = runtime / f"{name}.json"
    if held is not None:
        files.write_durably(path, json.dumps(held), mode=0o600)
    elif path.exists():
        path.unlink()
        files.sync_directory(runtime)


def passage(runtime: pathlib.Path, name: str) -> dict[str, Any] | None:
    """What `note_passage` kept."""
    try:
        held = json.loads((runtime / f"{name}.json").read_bytes())
    except (OSError, ValueError):
        return None
    return held if isinstance(held, dict) else None


def waits_here(runtime: pathlib.Path) -> bool:
    """Whether what runs of it was begun to take the memory of one that runs elsewhere, and has not done so yet."""
    return passage(runtime, ARRIVES) is not None


def dump(built: Built) -> dict[str, Any]:
    """As JSON holds it."""
    first: dict[str, Any] = {"cpus": built.first.cpus.model_dump(), "memory": int(built.first.memory)}
    first |= {name: getattr(built.first, name) for name in ("deflates", "slots", "dimms")}
    return {"spec": built.spec.model_dump(mode="json"), "first": first}


def load(held: Mapping[str, Any]) -> Built:
    """What `dump` gave; without `first`, it began with what it is. Raises ValueError, KeyError and TypeError."""
    spec, first = model.VMSpec.model_validate(held["spec"]), held.get("first")
    if first is None:
        return Built(spec, First(spec.cpus, spec.memory))
    cpus = model.Cpus.model_validate(first["cpus"])
    slots, dimms = int(first.get("slots", 0)), tuple(map(int, first.get("dimms", ())))
    return Built(
        spec, First(cpus, Size(first["memory"]), deflates=bool(first.get("deflates")), slots=slots, dimms=dimms)
    )
