"""A disk's chain of files as QEMU's block nodes: every one named, none left for QEMU to guess from a header.

The nodes of disk `disk0` are `disk0.0` (what the guest sees) with the file `disk0.0.file`, then
`disk0.1` and so on for what it rests on. A file that came with a snapshot, `disk0-5f0c9f1e.qcow2`, is the node
`disk0.5f0c9f1e` wherever it stands, so that a chain that grows and shrinks while it is used keeps its names. When it
was carried to another storage while it ran, the mark of that move stands behind: `disk0.0_3f9a`, `disk0.0_3f9a.file`.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Sequence
from typing import Any

from bocage.engine import block
from bocage.model import vm as model

Node = dict[str, Any]

_DIRECT = frozenset({model.Cache.NONE, model.Cache.DIRECTSYNC})
_MARKED = re.compile(r"(.+)-([0-9a-f]{8})")
_WRITE_CACHE = frozenset({model.Cache.NONE, model.Cache.WRITEBACK, model.Cache.UNSAFE})


def nodes(
    name: str,
    files: Sequence[block.File],
    *,
    cache: model.Cache,
    discard: bool,
    opened: Sequence[str] = (),
    moved: str = "",
) -> list[Node]:
    """The nodes of a chain in the order in which they can be added: the lowest file first.

    `opened` are the paths under which QEMU finds the files, where these are others; `moved` is the mark of the move
    that carries them, four hexadecimal digits.
    """
    behind = f"_{moved}" if moved else ""
    names = [f"{node_of(name, file.path, depth)}{behind}" for depth, file in enumerate(files)]
    added: list[Node] = []
    for depth in reversed(range(len(files))):
        told = discard if depth == 0 else None
        path = opened[depth] if opened else str(files[depth].path)
        # what lies below is read only, but where it is this VM's own, snapshots are merged into it
        fixed = depth > 0 and not files[depth].own
        added.append(_below(names[depth], files[depth], path, _shared(cache, told, read_only=fixed)))
        shared = _shared(cache, told, read_only=depth > 0)
        layer: Node = {"driver": files[depth].format, "node-name": names[depth], **shared}
        layer["file"] = f"{names[depth]}.file"
        if files[depth].format != "raw":
            layer["backing"] = names[depth + 1] if depth + 1 < len(files) else None
        added.append(layer)
    return added


def overlay(name: str, path: pathlib.Path, opened: str, *, cache: model.Cache, discard: bool) -> list[Node]:
    """The nodes of a new file in which a running disk is to go on; it is given what it rests on by QEMU itself."""
    node, shared = node_of(name, path), _shared(cache, discard, read_only=False)
    layer = {"driver": "qcow2", "node-name": node, **shared, "file": f"{node}.file", "backing": None}
    return [_file(node, opened, shared), layer]


def read_only(name: str, path: str) -> list[Node]:
    """The nodes of an image that nobody writes: a CD, a seed."""
    shared = {"read-only": True}
    top = node_name(name, 0)
    below = {"driver": "file", "node-name": f"{top}.file", "filename": path, **shared}
    return [below, {"driver": "raw", "node-name": top, "file": f"{top}.file", **shared}]


def node_of(name: str, path: pathlib.Path, depth: int = 0) -> str:
    """The node of a file of a disk's chain; `depth` is where it stands when the chain is opened."""
    mark = _MARKED.fullmatch(path.stem)
    return f"{name}.{mark[2]}" if mark and mark[1] == name else node_name(name, depth)


def node_name(name: str, depth: int = 0) -> str:
    """The node at a depth of a disk's chain; 0 is what the guest sees."""
    return f"{name}.{depth}"


def names(added: Sequence[Node]) -> list[str]:
    """The names of nodes in the order in which they can be taken away again."""
    return [str(node["node-name"]) for node in reversed(added)]


def write_cache(cache: model.Cache) -> str:
    """Whether the guest sees a disk with a write cache that it must flush: `on` or `off`."""
    return "on" if cache in _WRITE_CACHE else "off"


def _shared(cache: model.Cache, discard: bool | None, *, read_only: bool) -> Node:
    flags = {"direct": cache in _DIRECT, "no-flush": cache is model.Cache.UNSAFE}
    shared: Node = {"read-only": read_only, "cache": flags}
    if discard is not None:
        shared["discard"] = "unmap" if discard else "ignore"
    return shared


def _below(name: str, file: block.File, path: str, shared: Node) -> Node:
    if (piece := file.piece) is None:
        return _file(name, path, shared)
    part: Node = {"driver": "raw", "node-name": f"{name}.file", "offset": piece.offset, "size": piece.size}
    return {**part, **shared, "file": dict(piece.node)}


def _file(name: str, path: str, shared: Node) -> Node:
    return {"driver": "file", "node-name": f"{name}.file", "filename": path, **shared}
