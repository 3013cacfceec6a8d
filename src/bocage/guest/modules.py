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
    file = pathlib.PurePath(path).name
    packing = file.partition(".ko")[2]
    if packing == ".xz":
        content = lzma.decompress(content)
    elif packing == ".zst":
        content = zstandard.ZstdDecompressor().decompressobj().decompress(content)
    fields = re.findall(rb"(?<![^\0])(depends|alias)=([^\0]*)", content)
    depends = next((value.decode() for key, value in fields if key == b"depends"), "")
    return Module(
        name=_name(file),
        content=content,
        depends=tuple(one.replace("-", "_") for one in depends.split(",") if one),
        aliases=tuple(value.decode() for key, value in fields if key == b"alias" and b":" in value),
    )


def needed(wanted: Iterable[str], *, folder: pathlib.Path) -> dict[str, Module]:
    """The wanted modules among the `.ko` files below `folder`, and all that they need, each after what it needs.

    One that is not there is left out: the kernel has it built in, or has no such driver.
    """
    paths = {_name(path.name): path for path in sorted(folder.rglob("*.ko*"))}
    ordered: dict[str, Module] = {}

    def add(name: str) -> None:
        if name in paths and name not in ordered:
            module = parse(paths[name].name, paths[name].read_bytes())
            for one in module.depends:
                add(one)
            ordered[name] = module

    for name in wanted:
        add(name)
    return ordered


def in_order(name: str, available: Mapping[str, Module]) -> list[str]:
    """The names of what must be loaded for a module, itself the last."""
    before = [one for needed in available[name].depends if needed in available for one in in_order(needed, available)]
    return list(dict.fromkeys([*before, name]))


def shell_table(available: Mapping[str, Module]) -> str:
    """A shell function `modules_for ALIAS` that sets `modules` to what drives such a device, in order of loading."""
    lines = ["modules_for() {", "case $1 in"]
    for name, module in available.items():
        if module.aliases:
            patterns = "|".join(_quoted(alias) for alias in module.aliases)
            lines.append(f"{patterns}) modules='{' '.join(in_order(name, available))}' ;;")
    lines += ["*) modules= ;;", "esac", "}", ""]
    return "\n".join(lines)


def named_table(available: Mapping[str, Module], names: Iterable[str]) -> str:
    """A shell function `modules_of NAME` that sets `modules` to what must be loaded for such a module, in order."""
    lines = ["modules_of() {", "case $1 in"]
    lines += [f"{name}) modules='{' '.join(in_order(name, available))}' ;;" for name in names if name in available]
    return "\n".join([*lines, "*) modules= ;;", "esac", "}", ""])


def _name(file: str) -> str:
    return file.partition(".ko")[0].replace("-", "_")


def _quoted(pattern: str) -> str:
    return "".join(one if one.isalnum() or one in "*?[]-_:," else f"\\{one}" for one in pattern)
