"""Dynamic memory for people: what was asked for, and what a VM has now and why."""

from __future__ import annotations

from typing import Any

from bocage.cli import people
from bocage.client import problems, rest


def told(spec: dict[str, Any]) -> str:
    """What a VM is to have."""
    dynamic = spec.get("dynamic_memory")
    if not dynamic:
        return str(spec["memory"])
    between = f"{dynamic['minimum']} to {spec['memory']} as its guest needs, {dynamic['startup']} at the start"
    return f"{between}; buffer {dynamic['buffer']} %, weight {dynamic['weight']}"


def of(api: rest.Client, vm: rest.Document) -> list[tuple[str, object]]:
    """What it has now; nothing where its memory is fixed, it does not run, or its node does not answer."""
    if not vm["spec"].get("dynamic_memory") or not vm["status"].get("pid"):
        return []
    try:
        running = api.top()["vms"]
    except problems.Error:
        return []
    for one in running:
        if one["uid"] == vm["metadata"]["uid"] and (now := one.get("dynamic")):
            needs = f"; its guest needs {people.size(now['needs'])}" if now.get("needs") is not None else ""
            return [
                ("has now", people.size(now["has"]) + needs),
                ("because", people.saying(now["why"])),
                ("what helps", people.hint(now["why"])),
            ]
    return []
