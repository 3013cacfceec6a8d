"""After a change of a running VM: waits until it was carried out, and tells what became of it."""

from __future__ import annotations

import time

from bocage.cli import output, people, table
from bocage.cli.vm import look
from bocage.client import rest

_BOUND = 120.0  # seconds that a guest may take to give way
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 0.5


def out(api: rest.Client, vm: rest.Document) -> rest.Document:
    """The VM when its host has carried the change out as far as that goes; at once when it is off."""
    wanted, pause = vm["metadata"]["generation"], _FIRST_PAUSE
    deadline = time.monotonic() + _BOUND
    while vm["status"]["state"] in look.BUILT and vm["status"].get("observed_generation", 0) < wanted:
        if time.monotonic() > deadline:
            break
        time.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE)
        vm = api.vms.get(vm["metadata"]["uid"])
    return vm


def told(api: rest.Client, vm: rest.Document, said: str, *, json: bool) -> None:
    """Wait, and tell of it: `said`, and what became of each change; or the VM as JSON."""
    vm = out(api, vm)
    if json:
        output.document(vm)
    else:
        output.line(said)
        tell(vm)


def tell(vm: rest.Document) -> None:
    """Say of each change what became of it."""
    if vm["status"]["state"] not in look.BUILT:
        return
    for one in vm["status"].get("outcomes") or ():
        said = f"{one['path']}: {people.saying(one['saying'])}"
        if one["how"] == "done":
            output.line(said)
            continue
        output.complain(table.paragraph(said, lead=""))
        if hint := people.hint(one["saying"]):
            output.complain(table.paragraph(hint, lead="  → "))
