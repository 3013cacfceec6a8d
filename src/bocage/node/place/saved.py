"""What a saved VM was built of: its memory fits that machine and no other."""

from __future__ import annotations

import json
import logging
import os
import pathlib

from bocage import files
from bocage.model import vm as model
from bocage.node import started
from bocage.node.place.directory import Directory

log = logging.getLogger(__name__)


def note(path: pathlib.Path, spec: model.VMSpec, generation: int) -> None:
    """Keep, durably, what the machine was built of whose memory is about to be saved."""
    held = {"generation": generation, "spec": spec.model_dump(mode="json")}
    files.write_durably(path, json.dumps(held), mode=0o600)


def read(path: pathlib.Path) -> tuple[model.VMSpec, int]:
    """What `note` kept: spec and generation. Raises OSError, ValueError, KeyError, TypeError."""
    held = json.loads(path.read_bytes())
    return model.VMSpec.model_validate(held["spec"]), int(held["generation"])


def link(source: pathlib.Path, to: pathlib.Path) -> None:
    """Give a file that nobody ever writes again another name too, durably."""
    to.parent.mkdir(mode=0o700, exist_ok=True)
    to.unlink(missing_ok=True)
    os.link(source, to, follow_symlinks=False)
    files.sync_directory(to.parent)


def as_it_was(place: Directory, machine: model.VM) -> model.VM:
    """The machine that the saved memory fits, of the generation that it had: only what lies in its trays is today's.

    Without a word on how it was saved it is taken as it is now, and QEMU refuses memory that does not fit.
    """
    try:
        spec, generation = read(place.saved_definition)
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
