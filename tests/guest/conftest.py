"""The `tiny` image, built once for each state of its sources."""

import hashlib
import os
import pathlib

import pytest
import pytest_asyncio

from bocage.guest import tiny

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "bocage-test"


@pytest.fixture(scope="session")
def packages_cache():
    return CACHE / "packages"


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def tiny_image(packages_cache):
    sources = hashlib.sha256()
    room = pathlib.Path(tiny.__file__).parent
    for path in sorted(path for path in room.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        sources.update(path.relative_to(room).as_posix().encode() + b"\0" + path.read_bytes())
    image = CACHE / f"tiny-{sources.hexdigest()[:16]}.raw"
    if not image.exists():
        beside = image.with_suffix(f".{os.getpid()}")
        CACHE.mkdir(parents=True, exist_ok=True)
        await tiny.build(beside, cache=packages_cache, report=lambda step, fraction: None)
        beside.rename(image)
    return image
