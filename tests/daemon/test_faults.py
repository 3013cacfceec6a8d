"""Faults of a whole host, each really caused: what is said, and that nothing is lost."""

from __future__ import annotations

import contextlib
import datetime
import os
import pathlib
import random
import socket
import subprocess
from collections.abc import Iterator

import pytest

from bocage.client import problems, streams
from tests.daemon.host import Host

pytestmark = pytest.mark.fault
_WRONG_CLOCK = pathlib.Path(__file__).with_name("wrong_clock.c")
_DAY = 24 * 60 * 60


def refused(task: dict[str, object]) -> str:
    """The type of the problem that a task ended with."""
    status = task["status"]
    assert isinstance(status, dict)
    assert status["state"] == "failed", status
    return str(status["problem"]["type"])


def test_a_second_daemon_on_the_same_home_refuses_and_says_so(host: Host):
    second = host.run("daemon", "run")
    assert second.returncode == 4
    assert "already" in second.stderr or "in use" in second.stderr
    assert host.answers()


def test_a_taken_port_is_said_with_what_to_do(host: Host):
    host.stop()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        second = Host(host.path, listen=address).run("daemon", "run")
    assert second.returncode == 4
    assert address in second.stderr
    assert "BOCAGE_LISTEN" in second.stderr


def test_a_stale_socket_of_a_killed_daemon_is_in_nobodys_way(host: Host):
    host.kill()
    assert host.homes.socket.exists()
    host.start()


def test_an_upload_whose_client_goes_away_is_carried_on(host: Host, tmp_path: pathlib.Path):
    content = random.Random(1).randbytes(3 << 20)
    address = str(host.homes.socket)
    with socket.socket(socket.AF_UNIX) as dropped:
        dropped.connect(address)
        dropped.sendall(
            b"PATCH /api/v1/uploads/cut-off-1 HTTP/1.1\r\nHost: x\r\nUpload-Offset: 0\r\n"
            b"Content-Type: application/octet-stream\r\n"
            + b"Content-Length: %d\r\n\r\n" % len(content)
            + content[: 2 << 20]
        )
    offset = host.until(lambda: _offset(host, "cut-off-1"), lambda now: now >= 1 << 20)
    assert offset <= 2 << 20
    path = tmp_path / "disk.raw"
    path.write_bytes(content)
    streams.upload(host.api, "cut-off-1", str(path))
    host.done(host.api.images.create({"name": "kept", "upload": "cut-off-1", "file_name": "disk.raw"}))
    stored = host.path / "storage/local/images" / f"{host.api.images.get('kept')['spec']['sha256']}.raw"
    assert stored.read_bytes() == content


def _offset(host: Host, key: str) -> int:
    answer = host.api.connection.request("GET", f"/uploads/{key}")
    return int(answer.headers.get("Upload-Offset") or answer.headers.get("upload-offset") or 0)


@pytest.mark.guest
def test_a_guest_whose_storage_is_full_pauses_says_so_and_goes_on_when_there_is_room(
    tiny_host: Host, small_disk: pathlib.Path
):
    tiny_host.done(tiny_host.api.storage.create({"name": "small", "path": str(small_disk), "overcommit": True}))
    made = tiny_host.create("big", storage="small", full=True, disks=[{"size": "2G"}], start=True)
    assert made["status"]["state"] == "done"
    tiny_host.api.vms.expect("big", "^tiny: ready", timeout=100)
    filler = small_disk / "filler"
    free = os.statvfs(small_disk)
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(free.f_bavail * free.f_frsize - (24 << 20), 1))
    tiny_host.api.vms.expect("big", "^tiny: log [0-9]", send="tiny log /dev/vdb", timeout=60)
    with filler.open("ab") as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 20))
            file.flush()
    full = tiny_host.becomes("big", "paused")
    assert full["status"]["reason"]["type"] == "vm-storage-full"
    chain = tiny_host.api.vms.why("big")
    assert any("room" in str(link["text"]) for link in chain), chain
    filler.unlink()
    tiny_host.becomes("big", "running")
    before = tiny_host.api.vms.expect("big", "^tiny: log [0-9]+", timeout=60)
    assert before
    tiny_host.api.vms.expect("big", "tiny#", send="\x03", timeout=60)
    verified = tiny_host.api.vms.expect("big", "^tiny: verified [0-9]+", send="tiny verify /dev/vdb", timeout=120)
    assert int(verified.rsplit(" ", 1)[1]) > 0


@pytest.fixture
def small_disk(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A file system of 256 MiB of its own."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root; it runs as root in CI")
    image, mounted = tmp_path / "disk.img", pathlib.Path(f"/var/tmp/bocage-test-mount-{os.getpid()}")
    with image.open("wb") as file:
        file.truncate(256 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
    mounted.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(mounted)], check=True)
    (mounted / "lost+found").rmdir()
    mounted.chmod(0o711)
    try:
        yield mounted
    finally:
        subprocess.run(["umount", "-l", str(mounted)], check=True)
        mounted.rmdir()


@pytest.mark.guest
@pytest.mark.parametrize("wrong_by", [-_DAY, _DAY], ids=["-1d", "+1d"])
def test_a_clock_that_is_wrong_by_a_day_stops_nothing(tiny_host: Host, tmp_path: pathlib.Path, wrong_by: int):
    library = tmp_path / "wrong_clock.so"
    subprocess.run(["tcc", "-shared", "-o", str(library), str(_WRONG_CLOCK)], check=True)
    tiny_host.create("box", start=True, restart={"policy": "on-crash", "delay": 0})
    pid = tiny_host.vm("box")["status"]["pid"]
    tiny_host.stop()
    tiny_host.environment |= {"LD_PRELOAD": str(library), "WRONG_BY": str(wrong_by)}
    tiny_host.start()
    found = tiny_host.becomes("box", "running")
    assert found["status"]["pid"] == pid
    os.kill(pid, 9)
    tiny_host.until(
        lambda: tiny_host.vm("box")["status"],
        lambda now: now["state"] == "running" and now.get("pid") not in (None, pid),
    )
    tiny_host.create("other", start=True)
    told = datetime.datetime.fromisoformat(tiny_host.vm("other")["metadata"]["created"])
    off = (told - datetime.datetime.now(datetime.UTC)).total_seconds() - wrong_by
    assert abs(off) < _DAY / 24  # the daemon's clock was really wrong
    tiny_host.done(tiny_host.api.vms.stop("other", within=100.0))


@pytest.mark.guest
def test_a_definition_that_is_cut_off_or_scribbled_over_is_refused_and_the_store_wins(tiny_host: Host):
    tiny_host.create("box")
    path = tiny_host.path / "by-name/default/box/vm.yaml"
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"\x00\xff" * 500, b"- just\n- a list\n", b"&a [*a, *a]\n"):
        path.write_bytes(damaged)
        diff = tiny_host.run("vm", "diff", "box")
        assert diff.returncode == 2, (damaged, diff.stdout, diff.stderr)
        assert "vm.yaml" in diff.stderr
        assert tiny_host.run("vm", "apply", "box").returncode == 2
    tiny_host.done(tiny_host.api.vms.start("box"))
    assert path.read_bytes() != whole[: len(whole) // 2]
    assert (path.parent / "vm.yaml.edited").exists()  # what stood there is kept, never lost


@pytest.mark.guest
def test_a_damaged_disk_is_refused_before_qemu_opens_it(tiny_host: Host):
    tiny_host.create("box")
    disk = next((tiny_host.path / "by-name/default/box/disks").resolve().glob("*.qcow2"))
    whole = disk.read_bytes()
    disk.write_bytes(whole[:50])
    ended = tiny_host.ended(tiny_host.api.vms.start("box"))
    assert ended["status"]["state"] == "failed"
    assert tiny_host.vm("box")["status"]["state"] == "stopped"
    named = bytearray(whole)
    named[8:20] = (len(whole)).to_bytes(8) + (11).to_bytes(4)
    disk.write_bytes(bytes(named) + b"/etc/shadow")
    ended = tiny_host.ended(tiny_host.api.vms.start("box"))
    assert ended["status"]["state"] == "failed"
    disk.write_bytes(whole)
    tiny_host.done(tiny_host.api.vms.start("box"))


def test_a_damaged_database_is_refused_kept_and_the_way_back_works(tiny_host: Host):
    tiny_host.create("box")
    tiny_host.stop()
    database = tiny_host.path / "bocage.db"
    whole = database.read_bytes()
    database.write_bytes(whole[: len(whole) // 2])
    refused_start = tiny_host.run("daemon", "run")
    assert refused_start.returncode != 0
    assert "adopt" in refused_start.stderr
    assert database.stat().st_size == len(whole) // 2
    for path in tiny_host.path.glob("bocage.db*"):
        path.rename(tiny_host.path / f"aside-{path.name}")
    tiny_host.start()
    adopted = tiny_host.run("adopt", "--storage", "local")
    assert adopted.returncode == 0, adopted.stderr
    assert tiny_host.vm("box")["status"]["ready"]


def test_an_empty_database_beside_vm_directories_says_so_and_makes_nothing_over_them(tiny_host: Host):
    tiny_host.create("box")
    tiny_host.stop()
    for path in tiny_host.path.glob("bocage.db*"):
        path.unlink()
    before = sorted(str(path) for path in (tiny_host.path / "storage").rglob("*"))
    tiny_host.start()
    alarm = tiny_host.until(
        lambda: [one["spec"]["said"] for one in tiny_host.api.alarms.list()["items"]],
        lambda said: any(one["type"] == "alarm-unknown-directories" for one in said),
    )
    assert any("adopt" in one["hint"] for one in alarm)
    assert sorted(str(path) for path in (tiny_host.path / "storage").rglob("*")) == before


@pytest.mark.slow
def test_five_hundred_defined_vms_are_listed_and_survive_a_kill(tiny_host: Host):
    tasks = [
        tiny_host.api.vms.create({"name": f"vm{number}", "image": "tiny", "memory": "128M"}) for number in range(500)
    ]
    for task in tasks:
        tiny_host.done(task)
    tiny_host.kill()
    tiny_host.start()
    listed = tiny_host.api.vms.list(limit=1000)["items"]
    assert len(listed) == 500
    assert all(one["status"]["ready"] for one in listed)


def test_a_client_that_sends_nonsense_gets_words_and_changes_nothing(host: Host):
    before = host.api.vms.list()
    for document in (
        {"name": "../../etc"},
        {"name": "a" * 10_000_000},
        {"name": "x", "memory": 512},
        {"name": "x", "memory": "-1G"},
    ):
        with pytest.raises(problems.ProblemError) as caught:
            host.api.vms.create(document)
        assert caught.value.http_status in (413, 422)
    assert host.api.vms.list()["items"] == before["items"]


def test_hostile_images_never_reach_qemu(host: Host, tmp_path: pathlib.Path):
    overlay = tmp_path / "shadow.qcow2"
    for backing in ("/etc/shadow", 'json:{"driver":"file","filename":"/etc/shadow"}', "nbd:127.0.0.1:10809"):
        subprocess.run(
            ["qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", backing, str(overlay), "1M"],
            check=True,
        )
        ended = host.ended(host.api.images.create({"name": "evil", "path": str(overlay)}))
        assert refused(ended).startswith("image-"), ended["status"]
    with pytest.raises(problems.ProblemError):
        host.api.images.get("evil")
