"""Small disks that fill up, and a record of what QEMU's tools were started for."""

import os
import pathlib
import shutil
import subprocess
from collections.abc import Callable, Iterator

import pytest


@pytest.fixture
def qemu_calls(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Every QEMU tool that is started from now on is recorded; the calls so far."""
    shims, log = tmp_path / "shims", tmp_path / "qemu-calls"
    shims.mkdir()
    for tool in ("qemu-img", "qemu-io", "qemu-nbd", "qemu-system-x86_64", "qemu-storage-daemon"):
        real = shutil.which(tool)
        shim = shims / tool
        shim.write_text(f'#!/bin/sh\necho "{tool} $*" >> "{log}"\nexec "{real}" "$@"\n')
        shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{shims}:{os.environ['PATH']}")
    return lambda: log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def small_disk(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A file system of 24 MiB of its own."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    at = tmp_path / "small"
    at.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "bocage-test", at], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", at], check=True)
