"""A real daemon for each test."""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import Callable, Iterator

import pytest

from bocage.guest import packages
from tests.daemon import host as hosts


@pytest.fixture
def host() -> Iterator[hosts.Host]:
    with hosts.host() as made:
        made.start()
        yield made


@pytest.fixture
def tiny_host(host: hosts.Host, tiny_image: pathlib.Path) -> hosts.Host:
    host.add_tiny(tiny_image)
    return host


Unpacked = Callable[[str], pathlib.Path]


@pytest.fixture(scope="session")
def unpacked(packages_cache: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> Unpacked:
    """The files of a Debian package, by its name, without installing it."""
    done: dict[str, pathlib.Path] = {}

    async def unpack(name: str) -> pathlib.Path:
        (package,) = await packages.fetch(packages.Wanted(name), cache=packages_cache)
        into = tmp_path_factory.mktemp(name.replace("+", ""))
        await packages.unpack(package, into=into)
        return into

    def of(name: str) -> pathlib.Path:
        if name not in done:
            done[name] = asyncio.run(unpack(name))
        return done[name]

    return of
