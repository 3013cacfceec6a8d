"""What all tests share: the `tiny` image, built once for each state of its sources, and a printed seed for faults."""

from __future__ import annotations

import asyncio
import hashlib
import os
import pathlib
import random
import signal
from collections.abc import Callable, Coroutine
from typing import Any

import hypothesis
import pytest

from bocage.guest import rescue, tiny

hypothesis.settings.register_profile("shared", deadline=None)  # a machine under load makes no test fail
hypothesis.settings.load_profile("shared")
os.environ.setdefault("BOCAGE_DEFAULT_NETWORK", "user")  # no test makes bridges but in a namespace of its own

# Started in the background a shell has us ignore it, and what we start would too: Ctrl-C must work in the tests.
signal.signal(signal.SIGINT, signal.default_int_handler)

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "bocage-test"
SEED = os.environ.setdefault("BOCAGE_TEST_SEED", str(random.SystemRandom().randrange(1 << 32)))  # each worker's, too


def pytest_report_header() -> str:
    return f"seed: {SEED} (BOCAGE_TEST_SEED)"


@pytest.fixture
def dice(request: pytest.FixtureRequest) -> random.Random:
    """Chance for one test: another with each run, the same with the same seed."""
    return random.Random(f"{SEED}/{request.node.nodeid}")


@pytest.fixture(scope="session")
def packages_cache() -> pathlib.Path:
    return CACHE / "packages"


@pytest.fixture(scope="session")
def tiny_image(packages_cache: pathlib.Path) -> pathlib.Path:
    return _built("tiny", "raw", lambda beside: tiny.build(beside, cache=packages_cache, report=_silently))


@pytest.fixture(scope="session")
def rescue_image(packages_cache: pathlib.Path) -> pathlib.Path:
    return _built("rescue", "iso", lambda beside: rescue.build(beside, cache=packages_cache, report=_silently))


def _built(name: str, form: str, build: Callable[[pathlib.Path], Coroutine[Any, Any, None]]) -> pathlib.Path:
    """An image, by the state of its sources; built when it is not there yet."""
    sources = hashlib.sha256()
    room = pathlib.Path(tiny.__file__).parent
    for path in sorted(path for path in room.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        sources.update(path.relative_to(room).as_posix().encode() + b"\0" + path.read_bytes())
    image = CACHE / f"{name}-{sources.hexdigest()[:16]}.{form}"
    if not image.exists():
        beside = image.with_suffix(f".{os.getpid()}")
        CACHE.mkdir(parents=True, exist_ok=True)
        asyncio.run(build(beside))
        beside.rename(image)
    return image


def _silently(step: object, fraction: float) -> None:
    """Nobody looks at how far an image is."""
