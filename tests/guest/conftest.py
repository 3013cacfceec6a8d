"""The `tiny` image, built once for each state of its sources."""

import hashlib
import inspect
import os
import pathlib
import time

import pytest
import pytest_asyncio

from bocage.guest import bootdisk, cpio, modules, packages, tiny

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "bocage-test"


@pytest.fixture(scope="session")
def packages_cache():
    return CACHE / "packages"


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def tiny_image(packages_cache):
    sources = hashlib.sha256()
    parts = [inspect.getfile(part) for part in (bootdisk, cpio, modules, packages, tiny)]
    for path in [*map(pathlib.Path, parts), *sorted(path for path in tiny.ROOT.rglob("*") if path.is_file())]:
        sources.update(path.name.encode() + b"\0" + path.read_bytes())
    image = CACHE / f"tiny-{sources.hexdigest()[:16]}.raw"
    for old in CACHE.glob("tiny-*"):
        if old != image and old.stat().st_mtime < time.time() - 86_400:
            old.unlink(missing_ok=True)
    if not image.exists():
        beside = image.with_suffix(f".{os.getpid()}")
        CACHE.mkdir(parents=True, exist_ok=True)
        await tiny.build(beside, cache=packages_cache, report=lambda step, fraction: None)
        beside.rename(image)
    return image
