"""What a saved VM was built of: its memory fits that machine and no other."""

from __future__ import annotations

import json
import logging

from bocage import files
from bocage.model import vm as model
from bocage.node import started
from bocage.node.place.directory import Directory

log = logging.getLogger(__name__)


def note(place: Directory, spec: model.VMSpec, generation: int) -> None:
    """Keep, durably, what the machine was built of whose memory is about to be saved."""
    held = {"generation": generation, "spec": spec.model_dump(mode="json")}
    files.write_durably(place.saved_definition, json.dumps(held), mode=0o600)


def as_it_was(place: Directory, machine: model.VM) -> model.VM:
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
    built = {name: getattr(spec, name) for name in started.COLD}
    built["cds"] = tuple(cd.model_copy(update={"image": images.get(cd.name)}) for cd in spec.cds)
    built["boot"] = spec.boot.model_copy(update={"once": None})  # that was its first start
    return machine.model_copy(
        update={
            "spec": machine.spec.model_copy(update=built),
            "metadata": machine.metadata.model_copy(update={"generation": generation}),
        }
    )
