"""How a VM differs from what the store says: edits by hand, and changes that wait for a cold start."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bocage import errors
from bocage.model import vm as model
from bocage.node import started
from bocage.node.place.directory import Directory, Error, Held, by_people, parse
from bocage.words import N_


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
    return list(_differ("", by_people(machine), by_people(theirs)))


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


def device_of(path: str) -> str:
    """The device or field that a path of a difference leads into: `nics[nic0]`, `cpus`, `hardware.max_cpus`."""
    first, _, rest = path.partition(".")
    if first == "share":
        return f"share.{rest.partition('.')[0]}"
    return path if first == "hardware" and "." not in rest else first


def pending(built: model.VMSpec, machine: model.VM) -> list[dict[str, Any]]:
    """What of the spec waits for a cold start: path, what runs, what is wanted.

    A rescue system's machine is another one, and its end comes before any start of the VM's own.
    """
    if machine.spec.rescue:
        return []
    looked_at: dict[str, Any] = {**dict.fromkeys((*started.COLD, *started.HELD), True), "boot": {"order": True}}
    running, wanted = (spec.model_dump(mode="json", include=looked_at) for spec in (built, machine.spec))
    return [
        {"path": one["path"], "running": one["is"], "wanted": one["edited"]} for one in _differ("", running, wanted)
    ]
