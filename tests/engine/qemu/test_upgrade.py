"""From bookworm's QEMU to the one of its backports: the same machine, and a saved one goes on."""

import os
import pathlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator

import pytest

from bocage import words
from bocage.engine import block
from bocage.engine.qemu import command, isolation
from tests.engine.qemu import specs
from tests.engine.qemu.test_board import built
from tests.engine.qemu.test_console import said_once
from tests.engine.qemu.test_guest import SAID, booted, guest, line_of
from tests.engine.qemu.vms import Vms, until
from tests.guest.conftest import CACHE, packages_cache, tiny_image

__all__ = ["packages_cache", "tiny_image"]
pytestmark = [pytest.mark.guest, pytest.mark.slow]

PACKAGES = ("qemu-system-x86", "qemu-system-common", "qemu-system-data", "seabios")
SOURCES = """\
deb http://deb.debian.org/debian bookworm-backports main
deb http://deb.debian.org/debian bookworm main
"""


def fetched() -> pathlib.Path:
    """The packages of the newer QEMU, fetched once by an apt that touches nothing of the system's."""
    kept = CACHE / "qemu-backport"
    if not kept.is_dir():
        beside = kept.with_suffix(f".{os.getpid()}")
        for name in ("state/lists/partial", "cache/archives/partial", "packages"):
            (beside / name).mkdir(parents=True)
        (beside / "sources.list").write_text(SOURCES)
        options = {
            "Dir::State": beside / "state",
            "Dir::State::status": "/var/lib/dpkg/status",
            "Dir::Cache": beside / "cache",
            "Dir::Etc::sourcelist": beside / "sources.list",
            "Dir::Etc::sourceparts": "-",
            "APT::Sandbox::User": "root",
        }
        apt = ["apt-get", "-q", *(f"-o{name}={value}" for name, value in options.items())]
        subprocess.run([*apt, "update"], check=True, timeout=300)
        wanted = [f"{name}/bookworm-backports" for name in PACKAGES]
        subprocess.run([*apt, "download", *wanted], check=True, timeout=600, cwd=beside / "packages")
        (beside / "packages").rename(kept)
        shutil.rmtree(beside)
    return kept


@pytest.fixture(scope="module")
def newer() -> Iterator[str]:
    """A program that is the newer QEMU with its own firmware and modules."""
    if "bookworm" not in pathlib.Path("/etc/os-release").read_text():
        pytest.skip("this is no Debian 12, whose QEMU and backport are compared")
    root = pathlib.Path(tempfile.mkdtemp(prefix="bocage-test-", dir="/tmp"))
    root.chmod(0o711)  # the VM's own uid comes here
    for package in fetched().glob("*.deb"):
        subprocess.run(["dpkg", "-x", str(package), str(root)], check=True, timeout=120)
    program = root / "newer"
    search = [f"{root}/usr/share/qemu", f"{root}/usr/share/seabios", "/usr/lib/ipxe/qemu"]
    program.write_text(
        f"#!/bin/sh\nexport QEMU_MODULE_DIR={root}/usr/lib/x86_64-linux-gnu/qemu\n"
        f'exec {root}/usr/bin/qemu-system-x86_64 {" ".join(f"-L {path}" for path in search)} "$@"\n'
    )
    program.chmod(0o755)
    yield str(program)
    shutil.rmtree(root)


def upgraded(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """From now on the engine starts the newer QEMU, which a mount namespace would not show."""

    async def refused() -> words.Message:
        return isolation.NoBubblewrap()

    monkeypatch.setattr(command, "PROGRAM", program)
    monkeypatch.setattr(isolation, "mounts_refused", refused)


@pytest.mark.parametrize("kind", specs.KINDS)
async def test_the_newer_qemu_builds_the_same_board(
    kind: str, vms: Vms, newer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = vms.plan(kind)
    first = await vms.start(plan)
    before = await built(first, plan.spec)
    await first.quit()
    upgraded(monkeypatch, newer)
    second = await vms.start(plan)
    assert int(second.version.split(".")[0]) > int(first.version.split(".")[0])
    assert await built(second, plan.spec) == before


async def test_the_newer_qemu_logs_each_character_once(vms: Vms, newer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    upgraded(monkeypatch, newer)
    await said_once(vms)


async def test_a_machine_saved_under_the_older_goes_on_under_the_newer(
    vms: Vms, tiny_image: pathlib.Path, newer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = vms.root / "tiny.raw"  # where the VM's uid may come, without a namespace that brings it along
    shutil.copy(tiny_image, image)
    image.chmod(0o444)
    plan = guest(vms, image)
    first, line = await booted(vms, plan)
    await line.expect(send="tiny count &", pattern="tiny: count 5$", within=SAID)
    file = plan.directory / "saved.state"
    for _ in range(2):  # the second time from the newer to itself
        await first.save(file, report=lambda done, total: None)
        await first.quit()
        stood = line.end
        upgraded(monkeypatch, newer)
        first = await vms.start(plan, saved=file)
        await until(lambda stood=stood: line.end > stood + 100, within=SAID)  # type: ignore[misc]
    text = (plan.directory / "serial.log").read_text(errors="replace")
    counted = [int(one.split()[-1]) for one in text.splitlines() if one.startswith("tiny: count ")]
    assert counted == list(range(counted[0], counted[0] + len(counted)))
    await first.screenshot(vms.root / "screen.png")
    disk = specs.disk(plan.spec.hardware, 1)
    with (vms.root / "more.raw").open("xb") as more:
        more.truncate(8 << 20)
    await first.disks.attach(disk, [block.File(vms.root / "more.raw", "raw")])
    await line_of(plan).expect(
        send="while ! [ -e /dev/vdb ]; do sleep 1; done; echo is-$((1))", pattern="^is-1", within=SAID
    )
    await first.disks.detach("disk1")
