"""Images that tests start guests from, built once for each state of their sources."""

from __future__ import annotations

import asyncio
import hashlib
import os
import pathlib
from collections.abc import Callable, Coroutine
from typing import Any

from bocage.guest import rescue, tiny

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "bocage-test"
PACKAGES = CACHE / "packages"


def tiny_image() -> pathlib.Path:
    return _built("tiny", "raw", lambda beside: tiny.build(beside, cache=PACKAGES, report=_silently))


def rescue_image() -> pathlib.Path:
    return _built("rescue", "iso", lambda beside: rescue.build(beside, cache=PACKAGES, report=_silently))


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
