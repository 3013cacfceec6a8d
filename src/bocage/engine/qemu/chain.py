"""A disk's chain of files as QEMU's block nodes: every one named, none left for QEMU to guess from a header.

The nodes of disk `disk0` are `disk0.0` (what the guest sees) with the file `disk0.0.file`, then
`disk0.1` and so on for what it rests on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bocage.engine import base
from bocage.model import vm as model

Node = dict[str, Any]

_DIRECT = frozenset({model.Cache.NONE, model.Cache.DIRECTSYNC})
_WRITE_CACHE = frozenset({model.Cache.NONE, model.Cache.WRITEBACK, model.Cache.UNSAFE})


def nodes(name: str, files: Sequence[base.File], *, cache: model.Cache, discard: bool) -> list[Node]:
    """The nodes of a chain in the order in which they can be added: the lowest file first."""
    flags = {"direct": cache in _DIRECT, "no-flush": cache is model.Cache.UNSAFE}
    added: list[Node] = []
    for depth in reversed(range(len(files))):
        shared: Node = {"read-only": depth > 0, "cache": flags}
        if depth == 0:
            shared["discard"] = "unmap" if discard else "ignore"
        added.append(_file(node_name(name, depth), files[depth], shared))
        layer: Node = {"driver": files[depth].format, "node-name": node_name(name, depth), **shared}
        layer["file"] = f"{node_name(name, depth)}.file"
        if files[depth].format != "raw":
            layer["backing"] = node_name(name, depth + 1) if depth + 1 < len(files) else None
        added.append(layer)
    return added


def read_only(name: str, path: str) -> list[Node]:
    """The nodes of an image that nobody writes: a CD, a seed."""
    shared = {"read-only": True}
    top = node_name(name, 0)
    below = {"driver": "file", "node-name": f"{top}.file", "filename": path, **shared}
    return [below, {"driver": "raw", "node-name": top, "file": f"{top}.file", **shared}]


def node_name(name: str, depth: int = 0) -> str:
    """The node at a depth of a disk's chain; 0 is what the guest sees."""
    return f"{name}.{depth}"


def names(added: Sequence[Node]) -> list[str]:
    """The names of nodes in the order in which they can be taken away again."""
    return [str(node["node-name"]) for node in reversed(added)]


def write_cache(cache: model.Cache) -> str:
    """Whether the guest sees a disk with a write cache that it must flush: `on` or `off`."""
    return "on" if cache in _WRITE_CACHE else "off"


def _file(name: str, file: base.File, shared: Node) -> Node:
    return {"driver": "file", "node-name": f"{name}.file", "filename": str(file.path), **shared}
