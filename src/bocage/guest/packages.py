"""Debian packages as files: fetched by the machine's own apt, kept in a cache, read without installing them."""

from __future__ import annotations

import asyncio
import io
import os
import pathlib
import re
import tarfile
from collections.abc import Callable

from bocage import errors, process
from bocage.guest import tools
from bocage.words import N_

_LOOK_UP = 30.0  # seconds for apt to read its lists
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


async def fetch(package: str, *, cache: pathlib.Path, behind: str = "") -> pathlib.Path:
    """The package's file in `cache`, fetched when it is not there yet.

    With `behind`, `package` is a meta package, and what is fetched is the one that it depends on whose
    name matches this regular expression. Without package lists the newest file of the cache is taken.
    Raises ToolMissing, Unknown, NotFetched.
    """
    apt_get = tools.program("apt-get", package="apt")
    await asyncio.to_thread(cache.mkdir, parents=True, exist_ok=True)
    try:
        name = await _stands_for(package, behind) if behind else package
        version = await _candidate(name)
    except Unknown:
        if kept := _newest(cache, behind or re.escape(package)):
            return kept
        raise
    if kept := _kept(cache, name, version):
        return kept
    try:
        await process.run(apt_get, "-q", "-o", "APT::Sandbox::User=root", "download", name, within=_FETCH, cwd=cache)
    except process.Failed as failure:
        raise NotFetched(package=name, output=failure.output) from failure
    if kept := _kept(cache, name, version):
        return kept
    raise NotFetched(package=name, output=f"no file of version {version} came")


async def read(package: pathlib.Path, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """The files of a package whose path (without a leading `/` or `./`) is `wanted`, with their contents."""
    dpkg_deb = tools.program("dpkg-deb", package="dpkg")
    archive = await process.run(dpkg_deb, "--fsys-tarfile", package, within=_UNPACK)
    return await asyncio.to_thread(_unpack, archive, wanted)


def _unpack(archive: bytes, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
        for member in tar:
            path = member.name.removeprefix("./")
            if member.isreg() and wanted(path) and (file := tar.extractfile(member)):
                found[path] = file.read()
    return found


async def _stands_for(package: str, behind: str) -> str:
    said = await _ask("depends", "--important", package)
    for line in said.splitlines():
        relation, _, name = line.strip().lstrip("|").partition(": ")
        if relation == "Depends" and re.fullmatch(behind, name):
            return name
    raise Unknown(package=package)


async def _candidate(package: str) -> str:
    said = await _ask("policy", package)
    found = re.search(r"^ +Candidate: (\S+)$", said, re.MULTILINE)
    if found is None or found[1] == "(none)":
        raise Unknown(package=package)
    if not re.search(r"^ +\S+ \S+:/", said, re.MULTILINE):
        raise Unknown(package=package)  # installed, but no list knows where it comes from
    return found[1]


async def _ask(*question: str) -> str:
    apt_cache = tools.program("apt-cache", package="apt")
    try:
        return (
            await process.run(apt_cache, *question, within=_LOOK_UP, environment={**os.environ, "LC_ALL": "C"})
        ).decode()
    except process.Failed as failure:
        raise Unknown(package=question[-1]) from failure


def _kept(cache: pathlib.Path, name: str, version: str) -> pathlib.Path | None:
    return next(iter(cache.glob(f"{name}_{version.replace(':', '%3a')}_*.deb")), None)


def _newest(cache: pathlib.Path, pattern: str) -> pathlib.Path | None:
    fitting = [path for path in cache.glob("*.deb") if re.fullmatch(pattern, path.name.split("_")[0])]
    return max(fitting, key=lambda path: path.stat().st_mtime, default=None)
