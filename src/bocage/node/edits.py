"""How a VM differs from what the store says: edits by hand, and what it was built of that runs or is saved."""

from __future__ import annotations

import json
import logging
import pathlib
from collections.abc import Iterator
from typing import Any

from bocage import errors, files
from bocage.model import vm as model
from bocage.node.directory import Directory, Error, Held, parse
from bocage.words import N_

log = logging.getLogger(__name__)


class NotEdited(Error, errors.Conflict):
    """There is no hand edit to take."""

    type = "vm-yaml-not-edited"
    text = N_("{path} was not edited by hand")
    path: str


def edited(place: Directory) -> Held:
    """The definition that a person edited; raises NotEdited, Unreadable."""
    found = place.hand_edit()
    if found is None:
        raise NotEdited(path=str(place.definition))
    path, content = found
    return parse(content, path)


def differences(place: Directory, machine: model.VM) -> list[dict[str, Any]]:
    """Where a hand edit differs from the store: path, what the store says, what the edit says. Raises Unreadable."""
    found = place.hand_edit()
    if found is None:
        return []
    theirs = parse(found[1], found[0]).vm
    keep: Any = {"metadata": {"name", "title", "notes", "tags", "protected"}, "spec": True}
    return list(
        _differ("", machine.model_dump(mode="json", include=keep), theirs.model_dump(mode="json", include=keep))
    )


def _differ(path: str, ours: Any, theirs: Any) -> Iterator[dict[str, Any]]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in dict.fromkeys([*ours, *theirs]):
            yield from _differ(f"{path}.{key}" if path else key, ours.get(key), theirs.get(key))
    elif _are_named(ours) and _are_named(theirs):
        mine, other_ones = ({one["name"]: one for one in some} for some in (ours, theirs))
        for name in dict.fromkeys([*mine, *other_ones]):
            yield from _differ(f"{path}[{name}]", mine.get(name), other_ones.get(name))
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from _differ(f"{path}[{index}]", one, other)
    elif ours != theirs:
        yield {"path": path, "is": ours, "edited": theirs}


def _are_named(some: Any) -> bool:
    """Whether these are devices, which are told apart by their names and not by their place."""
    return isinstance(some, list) and all(isinstance(one, dict) and "name" in one for one in some)


_COLD = ("cpus", "memory", "disks", "cds", "nics", "hardware")  # what a running machine was built with


def note_started(runtime: pathlib.Path, machine: model.VM) -> None:
    """Keep what the machine is started with, for as long as it can run."""
    runtime.mkdir(parents=True, exist_ok=True)
    beside = runtime / ".started.json.part"
    beside.write_text(machine.spec.model_dump_json())
    beside.rename(runtime / "started.json")


def note_plugged(runtime: pathlib.Path, machine: model.VM, disk: str, *, there: bool = True) -> None:
    """A disk of the running machine came, or went."""
    started = started_with(runtime)
    if started is None:
        return
    disks = [one for one in started.disks if one.name != disk]
    disks += [one for one in machine.spec.disks if one.name == disk and there]
    boot = started.boot.model_copy(update={"order": tuple(one for one in started.boot.order if one != disk or there)})
    spec = started.model_copy(update={"disks": tuple(disks), "boot": boot})
    note_started(runtime, machine.model_copy(update={"spec": spec}))


def started_with(runtime: pathlib.Path) -> model.VMSpec | None:
    """The spec that the running machine was started with."""
    try:
        return model.VMSpec.model_validate_json((runtime / "started.json").read_bytes())
    except (OSError, ValueError):
        return None


def note_saved(place: Directory, spec: model.VMSpec, generation: int) -> None:
    """Keep, durably, what the machine was built of whose memory is about to be saved."""
    held = {"generation": generation, "spec": spec.model_dump(mode="json")}
    files.write_durably(place.saved_definition, json.dumps(held), mode=0o600)


def as_saved(place: Directory, machine: model.VM) -> model.VM:
    """The machine that the saved memory fits, of the generation that it had: only what lies in its trays is today's.

    Without a word on how it was saved it is taken as it is now, and QEMU refuses memory that does not fit.
    """
    try:
        held = json.loads(place.saved_definition.read_bytes())
        spec, generation = model.VMSpec.model_validate(held["spec"]), int(held["generation"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("VM %s: nothing tells how it was saved: %s", machine.uid, error)
        return machine
    images = {cd.name: cd.image for cd in machine.spec.cds}
    built = {name: getattr(spec, name) for name in _COLD}
    built["cds"] = tuple(cd.model_copy(update={"image": images.get(cd.name)}) for cd in spec.cds)
    built["boot"] = spec.boot.model_copy(update={"once": None})  # that was its first start
    return machine.model_copy(
        update={
            "spec": machine.spec.model_copy(update=built),
            "metadata": machine.metadata.model_copy(update={"generation": generation}),
        }
    )


def pending(started: model.VMSpec, machine: model.VM) -> list[dict[str, Any]]:
    """What of the spec waits for a cold start: path, what runs, what is wanted."""
    running, wanted = (spec.model_dump(mode="json", include=set(_COLD)) for spec in (started, machine.spec))
    return [
        {"path": one["path"], "running": one["is"], "wanted": one["edited"]}
        for one in _differ("", running, wanted)
        if not one["path"].endswith(".image")
    ]
