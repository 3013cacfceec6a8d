"""Debian packages as files: fetched by the machine's own apt, kept in a cache, read without installing them."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import pathlib
import re
import tempfile
from collections.abc import Sequence

from bocage import errors, process
from bocage.guest import tools
from bocage.words import N_

_LOOK_UP = 60.0  # seconds for apt to read its lists
_FETCH = 300.0
_UNPACK = 120.0


class Unknown(tools.Error, errors.Unavailable, LookupError):
    """apt does not know the package, and the cache has none."""

    type = "guest-package-unknown"
    text = N_("apt knows no package '{package}'")
    hint = N_("'apt-get update' as root fetches the package lists, which need a Debian source")
    package: str


class NotFetched(tools.Error, errors.Unavailable, OSError):
    """apt could not fetch the package."""

    type = "guest-package-not-fetched"
    text = N_("the package '{package}' could not be fetched: {output}")
    hint = N_("see whether 'apt-get download {package}' works")
    package: str
    output: str


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """A package by its name, or, with `behind`, the one whose name matches that and on which `name` depends."""

    name: str
    behind: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class _Offer:
    """What apt would fetch for a name: the file's name and its size in bytes."""

    package: str
    file: str
    size: int


async def fetch(*wanted: Wanted, cache: pathlib.Path) -> list[pathlib.Path]:
    """The packages' files in `cache`, in the order asked for; what is not there yet is fetched.

    Without package lists the newest fitting files of the cache are taken. Raises ToolMissing, Unknown, NotFetched.
    """
    await asyncio.to_thread(cache.mkdir, parents=True, exist_ok=True)
    try:
        offers = await _offers([await _stands_for(one) for one in wanted])
    except Unknown as unknown:
        return [_newest(cache, one.behind or re.escape(one.name)) or _raise(unknown) for one in wanted]
    lacking = [offer for offer in offers if not _is_there(cache / offer.file, offer.size)]
    if lacking:
        await _download(lacking, cache)
    return [cache / offer.file for offer in offers]


async def unpack(package: pathlib.Path, *, into: pathlib.Path) -> None:
    """Lay a package's files out in the directory `into`, without running anything of it."""
    await process.run(tools.program("dpkg-deb", package="dpkg"), "--extract", package, into, within=_UNPACK)


async def _stands_for(wanted: Wanted) -> str:
    if not wanted.behind:
        return wanted.name
    apt_cache = tools.program("apt-cache", package="apt")
    said = await _ask(wanted.name, apt_cache, "depends", "--important", wanted.name)
    for line in said.splitlines():
        relation, _, name = line.strip().lstrip("|").partition(": ")
        if relation == "Depends" and re.fullmatch(wanted.behind, name):
            return name
    raise Unknown(package=wanted.name)


async def _offers(names: Sequence[str]) -> list[_Offer]:
    apt_get = tools.program("apt-get", package="apt")
    said = await _ask(names[0], apt_get, "download", "--print-uris", *names)
    offers = {}
    for file, size in re.findall(r"^'\S+' (\S+) (\d+)", said, re.MULTILINE):
        offers[file.split("_")[0]] = _Offer(file.split("_")[0], file, int(size))
    for name in names:
        if name not in offers:
            raise Unknown(package=name)
    return [offers[name] for name in names]


async def _ask(package: str, *question: str) -> str:
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        return (await process.run(*question, within=_LOOK_UP, environment=environment)).decode()
    except process.Failed as failure:
        named = re.search(r"package (\S+)", failure.output)
        raise Unknown(package=named[1] if named else package) from failure


async def _download(offers: Sequence[_Offer], cache: pathlib.Path) -> None:
    """Fetch beside the cache's files, and put in what is complete; apt compares the checksums."""
    names = [offer.package for offer in offers]
    with tempfile.TemporaryDirectory(dir=cache, prefix=".fetching-") as place:
        command = (tools.program("apt-get", package="apt"), "-q", "-o", "APT::Sandbox::User=root", "download", *names)
        try:
            await process.run(*command, within=_FETCH, cwd=place)
        except process.Failed as failure:
            raise NotFetched(package=" ".join(names), output=failure.output) from failure
        for offer in offers:
            try:
                await asyncio.to_thread(os.rename, os.path.join(place, offer.file), cache / offer.file)
            except FileNotFoundError as error:
                raise NotFetched(package=offer.package, output=f"no file {offer.file} came") from error


def _is_there(path: pathlib.Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _newest(cache: pathlib.Path, pattern: str) -> pathlib.Path | None:
    fitting = [path for path in cache.glob("*.deb") if re.fullmatch(pattern, path.name.split("_")[0])]
    return max(fitting, key=lambda path: path.stat().st_mtime, default=None)


def _raise(error: Unknown) -> pathlib.Path:
    raise error
