"""What the figures were taken on."""

from __future__ import annotations

import dataclasses
import datetime
import os
import pathlib
import platform
import shutil
import subprocess


@dataclasses.dataclass(frozen=True, slots=True)
class Facts:
    date: str
    cpu: str
    cores: int
    memory_gib: int
    kernel: str
    system: str
    qemu: str
    libvirt: str
    python: str
    commit: str
    load: str  # over 1, 5 and 15 minutes

    def document(self) -> dict[str, object]:
        """As JSON holds it."""
        return dataclasses.asdict(self)


def facts() -> Facts:
    """This machine, now."""
    total = int(_field("/proc/meminfo", "MemTotal", ":").split()[0])
    return Facts(
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        cpu=_field("/proc/cpuinfo", "model name", ":"),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=round(total / (1 << 20)),
        kernel=platform.release(),
        system=_field("/etc/os-release", "PRETTY_NAME", "=").strip('"'),
        qemu=_said("qemu-system-x86_64", "--version").partition("version ")[2],
        libvirt=_said("libvirtd", "--version").rpartition(" ")[2],
        python=platform.python_version(),
        commit=_said("git", "-C", str(pathlib.Path(__file__).parent), "rev-parse", "--short", "HEAD"),
        load=" ".join(f"{value:.2f}" for value in os.getloadavg()),
    )


def _field(path: str, name: str, between: str) -> str:
    for line in pathlib.Path(path).read_text().splitlines():
        key, _, value = line.partition(between)
        if key.strip() == name:
            return value.strip()
    return "unknown"


def _said(*command: str) -> str:
    if not shutil.which(command[0]):
        return "not installed"
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return said.splitlines()[0].strip() if said else "unknown"
