"""kill -9 at any moment leaves whole files under their names, and half-made ones that a sweep removes."""

import hashlib
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

from bocage.storage import directory, half_made, volumes
from tests.storage import samples

MIB = 1 << 20
SCRIPT = """
import asyncio, pathlib, sys
from bocage.storage import archive, directory, images, volumes
root, sources = pathlib.Path(sys.argv[1]), [pathlib.Path(one) for one in sys.argv[2:]]
place = directory.open(root)

async def main():
    print("begun", flush=True)
    turn = 0
    while True:
        turn += 1
        for source in sources:
            wanted = images.Wanted(file_name=source.name, origin="", names={"default/x": "1"})
            image = await place.library.add(source, wanted)
            (place.vms / f"v{turn}").mkdir(exist_ok=True)
            disk = place.vms / f"v{turn}" / f"from-{source.suffix[1:]}.qcow2"
            backing = volumes.Backing(f"../../images/{image.file_name}", image.format)
            await volumes.create(disk, image_format="qcow2", size=image.virtual_size, backing=backing)
            chain = [volumes.Layer(source, source.suffix[1:])]
            await volumes.convert(chain, disk.with_suffix(".raw"), image_format="raw")
            packed = archive.packed({"disk": disk, "source": source})
            await archive.unpack(packed, disk.with_suffix(".d"), limit_bytes=1 << 30)
            await place.library.remove(image.digest)

asyncio.run(main())
"""


COPYING = """
import asyncio, pathlib, sys
from bocage.storage import volumes
source, to = map(pathlib.Path, sys.argv[1:])
told = lambda *_: print("begun", flush=True)
chain = [volumes.Layer(source, "raw")]
asyncio.run(volumes.convert(chain, to, image_format="qcow2", compress=True, progress=told))
"""


@pytest.mark.fault
def test_a_copy_ends_with_the_daemon_that_began_it(tmp_path: pathlib.Path) -> None:
    source = samples.noise(tmp_path / "noise.raw", 512 * MIB)
    command = [sys.executable, "-c", COPYING, str(source), str(tmp_path / "copy.qcow2")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as child:
        assert child.stdout
        assert child.stdout.readline() == b"begun\n"
        assert any("qemu-img" in line and str(tmp_path) in line for line in _command_lines())
        while not any(tmp_path.glob(".copy.qcow2.*")):  # it speaks of its progress before it makes that
            assert child.poll() is None
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
    _wait_until_alone(str(tmp_path))
    (half,) = half_made.sweep(tmp_path)
    assert half.startswith(".copy.qcow2.")


@pytest.mark.fault
async def test_a_kill_at_any_moment_leaves_nothing_half_made(tmp_path: pathlib.Path) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    moments = random.Random(seed)
    root = tmp_path / "storage"
    directory.create(root, "u-1")
    sources = [samples.image(tmp_path, form, size=16 * MIB) for form in ("raw", "vmdk", "qcow2")]
    digests = {hashlib.sha256(one.read_bytes()).hexdigest() for one in sources}
    expected = samples.raw(tmp_path / "expected", 16 * MIB).read_bytes()
    for _ in range(6):
        _killed(root, sources, moments.uniform(0.05, 1.5))
        place = directory.open(root, "u-1")
        place.sweep()

        for image in await place.library.images():
            assert image.digest in digests
            await volumes.convert(
                [volumes.Layer(place.library.path(image.digest), image.format)], tmp_path / "flat", image_format="raw"
            )
            assert (tmp_path / "flat").read_bytes() == expected
            (tmp_path / "flat").unlink()
        _check_machines(place, expected)
        _remove(place)


def _killed(root: pathlib.Path, sources: list[pathlib.Path], after: float) -> None:
    command = [sys.executable, "-c", SCRIPT, *map(str, (root, *sources))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as child:
        assert child.stdout
        assert child.stdout.readline() == b"begun\n"
        time.sleep(after)  # the moment of the kill is what is random here
        assert child.poll() is None
        child.send_signal(signal.SIGKILL)
    _wait_until_alone(str(root))


def _wait_until_alone(mark: str) -> None:
    """What the killed one had started must be gone as well."""
    for _ in range(200):
        left = [line for line in _command_lines() if "qemu-img" in line and mark in line]
        if not left:
            return
        time.sleep(0.01)
    raise AssertionError(left)


def _command_lines() -> list[str]:
    return [_command_line(one) for one in pathlib.Path("/proc").glob("[0-9]*/cmdline")]


def _command_line(path: pathlib.Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError:
        return ""


def _check_machines(place: directory.Directory, expected: bytes) -> None:
    left = [path for path in place.root.rglob("*") if path.name.endswith(".part")]
    assert left == []
    for path in place.vms.rglob("*.raw"):
        assert path.read_bytes() == expected
    for path in place.vms.rglob("*.d"):
        assert sorted(one.name for one in path.iterdir()) == ["disk", "source"]


def _remove(place: directory.Directory) -> None:
    for path in place.vms.iterdir():
        subprocess.run(["rm", "-r", path], check=True)
