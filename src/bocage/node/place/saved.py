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
from bocage.planner.adaptation import Built, First

log = logging.getLogger(__name__)


def note(path: pathlib.Path, built: Built, generation: int) -> None:
    """Keep, durably, what the machine was built of whose memory is about to be saved."""
    held = {"generation": generation, **started.dump(built)}
    files.write_durably(path, json.dumps(held), mode=0o600)


def read(path: pathlib.Path) -> tuple[Built, int]:
    """What `note` kept. Raises OSError, ValueError, KeyError, TypeError."""
    held = json.loads(path.read_bytes())
    return started.load(held), int(held["generation"])


def link(source: pathlib.Path, to: pathlib.Path) -> None:
    """Give a file that nobody ever writes again another name too, durably."""
    to.parent.mkdir(mode=0o700, exist_ok=True)
    to.unlink(missing_ok=True)
    os.link(source, to, follow_symlinks=False)
    files.sync_directory(to.parent)


def built(runtime: pathlib.Path, machine: model.VM) -> Built:
    """What a machine that runs is made of, whose memory is about to be saved."""
    return started.read_whole(runtime) or Built(machine.spec, First.of(machine.spec))


def first(place: Directory) -> First | None:
    """What the saved machine began with; None where nothing tells."""
    try:
        return read(place.saved_definition)[0].first
    except (OSError, ValueError, KeyError, TypeError):
        return None


def as_it_was(place: Directory, machine: model.VM) -> model.VM:
    """The machine that the saved memory fits, of the generation that it had: only what lies in its trays is today's.

    Without a word on how it was saved it is taken as it is now, and QEMU refuses memory that does not fit.
    """
    try:
        kept, generation = read(place.saved_definition)
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("VM %s: nothing tells how it was saved: %s", machine.uid, error)
        return machine
    spec, images = kept.spec, {cd.name: cd.image for cd in machine.spec.cds}
    built = {name: getattr(spec, name) for name in started.COLD}
    built["cds"] = tuple(cd.model_copy(update={"image": images.get(cd.name)}) for cd in spec.cds)
    built["boot"] = spec.boot.model_copy(update={"once": None})  # that was its first start
    return machine.model_copy(
        update={
            "spec": machine.spec.model_copy(update=built),
            "metadata": machine.metadata.model_copy(update={"generation": generation}),
        }
    )
