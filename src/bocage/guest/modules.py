"""Kernel modules for a guest without udev: which ones a device needs, in the order of their loading.

The kernel's package has no `modules.dep` (that is made where it is installed), so what a module depends on
and which devices it drives is read from the module itself.
"""

from __future__ import annotations

import dataclasses
import lzma
import pathlib
import re
from collections.abc import Iterable, Mapping

import zstandard


@dataclasses.dataclass(frozen=True, slots=True)
class Module:
    """A module's file, the modules that must be loaded before it, and its devices as shell patterns."""

    name: str
    content: bytes
    depends: tuple[str, ...]
    aliases: tuple[str, ...]


def parse(path: str, content: bytes) -> Module:
    """Read a `.ko` file; one that is compressed (`.ko.xz`, `.ko.zst`) is unpacked."""
    name, _, packing = pathlib.PurePath(path).name.partition(".ko")
    if packing == ".xz":
        content = lzma.decompress(content)
    elif packing == ".zst":
        content = zstandard.ZstdDecompressor().decompressobj().decompress(content)
    fields = re.findall(rb"(?<![^\0])(depends|alias)=([^\0]*)", content)
    depends = next((value.decode() for key, value in fields if key == b"depends"), "")
    return Module(
        name=name.replace("-", "_"),
        content=content,
        depends=tuple(one.replace("-", "_") for one in depends.split(",") if one),
        aliases=tuple(value.decode() for key, value in fields if key == b"alias" and b":" in value),
    )


def in_order(wanted: Iterable[str], available: Mapping[str, Module]) -> list[Module]:
    """The wanted modules and all that they depend on, each after what it needs. Raises KeyError."""
    ordered: dict[str, Module] = {}

    def add(name: str) -> None:
        if name not in ordered:
            module = available[name]
            for needed in module.depends:
                add(needed)
            ordered[name] = module

    for name in wanted:
        add(name)
    return list(ordered.values())


def shell_table(drivers: Iterable[str], available: Mapping[str, Module]) -> str:
    """A shell function `modules_for ALIAS` that sets `modules` to what drives such a device, in order of loading."""
    lines = ["modules_for() {", "case $1 in"]
    for driver in drivers:
        patterns = [_quoted(alias) for alias in available[driver].aliases]
        needed = " ".join(module.name for module in in_order([driver], available))
        if patterns:
            lines.append(f"{'|'.join(patterns)}) modules='{needed}' ;;")
    lines += ["*) modules= ;;", "esac", "}", ""]
    return "\n".join(lines)


def _quoted(pattern: str) -> str:
    return "".join(one if one.isalnum() or one in "*?[]-_:," else f"\\{one}" for one in pattern)
