"""A real daemon for each test."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest

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
