"""The `tiny` image, booted on plain QEMU: what it sees, what it does."""

import hashlib
import itertools
import re
import zlib
from collections.abc import Callable

import pytest
import pytest_asyncio

from bocage.guest import seed, tiny
from tests.guest import machine

pytestmark = pytest.mark.guest

MIB = 1 << 20


SHAPES = {
    "one of each": ("q35", 1, 128, [], 1),
    "two cpus, two nics": ("q35", 2, 256, [64], 2),
    "four cpus, three disks": ("q35", 4, 512, [1, 2048, 33], 0),
    "pc": ("pc", 1, 128, [5], 1),
    "pc, three cpus, three nics": ("pc", 3, 384, [100, 7], 3),
}


@pytest.mark.parametrize("shape", SHAPES)
async def test_the_ready_line_says_what_the_machine_was_given(tiny_image, tmp_path, shape):
    kind, cpus, memory, sizes, nics = SHAPES[shape]
    disks = [machine.disk(n, tmp_path / f"{n}.raw", size=size * MIB) for n, size in enumerate(sizes)]
    macs = [f"52:54:00:be:ef:{n:02x}" for n in range(nics)]
    cards = [machine.nic(n, mac) for n, mac in enumerate(macs)]
    arguments = itertools.chain(*disks, *cards)
    async with machine.boot(tiny_image, *arguments, machine=kind, cpus=str(cpus), memory=str(memory)) as guest:
        said = await guest.ready()
    assert said["cpus"] == str(cpus)
    assert memory * 1024 - 1024 <= int(said["memory_kib"]) <= memory * 1024
    expected = [f"vda:{tiny_image.stat().st_size}"]
    expected += [f"vd{letter}:{size * MIB}" for letter, size in zip("bcd", sizes, strict=False)]
    assert said["disks"] == ",".join(expected)
    assert said["macs"] == ",".join(macs)


async def test_other_kinds_of_disk_are_seen_and_a_cd_is_none(tiny_image, tmp_path):
    for name in ("scsi", "ide", "nvme", "cd"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(3 * MIB)
    arguments = [
        "-device", "virtio-scsi-pci",
        "-drive", f"file={tmp_path}/scsi,format=raw,if=none,id=s", "-device", "scsi-hd,drive=s",
        "-drive", f"file={tmp_path}/ide,format=raw,if=none,id=i", "-device", "ide-hd,drive=i,bus=ide.0",
        "-drive", f"file={tmp_path}/nvme,format=raw,if=none,id=n", "-device", "nvme,drive=n,serial=1",
        "-drive", f"file={tmp_path}/cd,format=raw,if=none,id=c,readonly=on", "-device", "scsi-cd,drive=c",
    ]  # fmt: skip
    async with machine.boot(tiny_image, *arguments, machine="pc") as guest:
        said = await guest.ready()
    names = [disk.split(":")[0] for disk in said["disks"].split(",")]
    assert names == ["nvme0n1", "sda", "sdb", "vda"]


async def test_host_name_and_static_network_come_from_the_seed(tiny_image, tmp_path):
    nics = (
        seed.NicSeed(mac="52:54:00:00:00:02", address="10.0.2.77/24", gateway="10.0.2.2", dns=("10.0.2.3",)),
        seed.NicSeed(mac="52:54:00:00:00:01", address="192.168.9.4/29"),
    )
    (tmp_path / "seed.iso").write_bytes(seed.build(seed.Seed(instance_id="1", hostname="alpha", network=nics)))
    cards = machine.nic(0, "52:54:00:00:00:01") + machine.nic(1, "52:54:00:00:00:02")
    async with machine.boot(tiny_image, *machine.cd(tmp_path / "seed.iso"), *cards) as guest:
        await guest.ready()
        assert await guest.run("hostname", "alpha")
        await guest.run("tiny address", r"tiny: address eth0 192\.168\.9\.4/29")
        await guest.expect(r"tiny: address eth1 10\.0\.2\.77/24")
        await guest.run("cat /etc/resolv.conf", r"nameserver 10\.0\.2\.3")
        await guest.run("ping -c 1 -W 30 10.0.2.2", r"64 bytes from 10\.0\.2\.2.*")


async def test_without_a_seed_each_nic_asks_by_dhcp_and_ready_does_not_wait_for_it(tiny_image):
    cards = [
        *machine.nic(0, "52:54:00:00:00:01", more="restrict=on,net=10.7.0.0/24"),
        "-netdev", "hubport,id=nowhere,hubid=1", "-device", "virtio-net-pci,netdev=nowhere",
    ]  # fmt: skip
    async with machine.boot(tiny_image, *cards) as guest:
        await guest.ready()
        wait = r"until tiny address | grep -q '10\.7'; do usleep 100000; done; tiny address"
        await guest.run(wait, r"tiny: address eth0 10\.7\.0\.15/24")
        await guest.expect("tiny: address eth1 none")


@pytest.mark.parametrize("kind", ["q35", "pc"])
async def test_the_power_button_ends_it_in_an_orderly_way(tiny_image, kind):
    async with machine.boot(tiny_image, machine=kind) as guest:
        await guest.ready()
        await guest.tell("system_powerdown")
        await guest.expect("(tiny# )?tiny: stopping")
        assert await guest.ended() == 0


async def test_stop_ends_it_while_it_counts_and_logs(tiny_image, tmp_path):
    async with machine.boot(tiny_image, *machine.disk(0, tmp_path / "log", size=MIB)) as guest:
        await guest.run("tiny count & tiny log /dev/vdb &", "tiny: log 3")
        guest.send("tiny stop\n")
        assert await guest.ended() == 0


async def test_a_shell_that_ends_is_followed_by_another_and_control_c_ends_a_command(tiny_image):
    async with machine.boot(tiny_image) as guest:
        await guest.ready()
        await guest.run("tiny count", "tiny: count 5")
        guest.send("\x03")
        await guest.run("echo left $?", r"(.*\^C)?left 130")
        await guest.run("mark=1; exit", ".*BusyBox.*")
        await guest.run("echo mark=$mark.", r"mark=\.")
        await guest.run("sleep 100 &", r"(.*)")
        await guest.run("jobs; echo and so on", r"\[1\].*Running.*sleep 100")


async def test_counting_goes_on_where_it_was_after_a_stop_of_the_whole_machine(tiny_image):
    async with machine.boot(tiny_image) as guest:
        await guest.run("tiny count", "tiny: count 10")
        await guest.tell("stop")
        assert await guest.tell("query-status") == {"status": "paused", "singlestep": False, "running": False}
        await guest.tell("cont")
        numbers = [int((await guest.expect(r"tiny: count (\d+)"))[1]) for _ in range(20)]
    assert numbers == list(range(11, 31))


async def test_counting_keeps_to_ten_a_second_of_the_guests_own_clock(tiny_image):
    async with machine.boot(tiny_image) as guest:
        await guest.ready()
        command = "a=$(cut -d. -f1 /proc/uptime); tiny count | head -n 50 | tail -n 1; b=$(cut -d. -f1 /proc/uptime)"
        await guest.run(command, "tiny: count 50")
        took = int((await guest.run("echo took $((b - a))", r"took (\d+)"))[1])
    assert 4 <= took <= 7


async def test_counting_survives_saving_and_restoring(tiny_image, tmp_path):
    saved = tmp_path / "memory"
    async with machine.boot(tiny_image) as guest:
        await guest.run("tiny count", "tiny: count 10")
        await guest.tell("stop")
        await guest.tell("migrate", uri=f"exec:cat > {saved}")
        await guest.until("query-migrate", "completed")
        last = max(map(int, re.findall(r"tiny: count (\d+)", guest._said)))
    async with machine.boot(tiny_image, "-incoming", f"exec:cat {saved}") as guest:
        await guest.until("query-status", "paused")
        await guest.tell("cont")
        first = int((await guest.expect(r"tiny: count (\d+)"))[1])
    assert last < first <= last + 2


async def _free(guest: machine.Machine) -> str:
    return (await guest.run("free -m | awk '/Mem/ { print $7 \"M\" }'", r"(\d+)M"))[1]


@pytest.mark.slow
async def test_memory_is_touched_as_far_as_there_is_some(tiny_image):
    async with machine.boot(tiny_image, memory="256") as guest:
        assert int(await _free(guest)) > 150
        await guest.run("tiny touch 150M", "tiny: touched 150M ok")
        await guest.run("tiny touch 1G", r"tiny: cannot touch 1G, \d+M are free")
        await guest.run("tiny touch 64", r"usage: .*")
        assert int(await _free(guest)) > 150


async def test_cpus_are_burned_for_a_time(tiny_image):
    async with machine.boot(tiny_image, cpus="2") as guest:
        await guest.run("tiny burn 2 3", "tiny: burned 2 3")
        idle = "awk '/^cpu[0-9]/ { print $1, $2 }' /proc/stat"
        for _ in range(2):
            busy = int((await guest.run(idle, r"cpu\d (\d+)"))[1])
            assert busy >= 50  # hundredths of a second, on a machine that others use too
        await guest.run("ps | grep -c '[t]iny burn'", "0")


async def test_the_log_is_numbered_checksummed_and_goes_on_after_the_last_record(tiny_image, tmp_path):
    disk = tmp_path / "log"
    async with machine.boot(tiny_image, *machine.disk(0, disk, size=MIB)) as guest:
        await guest.run("tiny verify /dev/vdb", "tiny: verified 0")
        await guest.run("tiny log /dev/vdb", "tiny: log 7")
        guest.send("\x03")
        said = await guest.run("tiny verify /dev/vdb", r"tiny: verified (\d+)")
        first = int(said[1])
        assert first >= 7
        await guest.run("tiny log /dev/vdb", rf"tiny: log {first + 1}")
        await guest.expect(rf"tiny: log {first + 5}")
    content = disk.read_bytes()
    for number in range(1, first + 6):
        record = content[(number - 1) * 512 : number * 512]
        name, count, checksum, filler = record.decode().split(" ")
        assert (name, int(count), filler[-1]) == ("tiny-log", number, "\n")
        assert int(checksum, 16) == zlib.crc32(f"tiny-log {number}".encode())


async def test_what_was_acknowledged_is_on_the_disk_when_the_machine_is_killed(tiny_image, tmp_path):
    disk = tmp_path / "log"
    async with machine.boot(tiny_image, *machine.disk(0, disk, size=MIB)) as guest:
        await guest.run("tiny log /dev/vdb", "tiny: log 40")
        guest.process.kill()
        await guest.ended()
    assert b"tiny-log 40 " in disk.read_bytes()


def _spoil(content: bytearray, number: int, at: int, new: bytes | bytearray) -> bytearray:
    start = (number - 1) * 512 + at
    content[start : start + len(new)] = new
    return content


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def log_of_thirty(tiny_image, tmp_path_factory):
    disk = tmp_path_factory.mktemp("log") / "log"
    async with machine.boot(tiny_image, *machine.disk(0, disk, size=MIB)) as guest:
        await guest.run("tiny log /dev/vdb", "tiny: log 30")
        guest.process.kill()
        await guest.ended()
    content = bytearray(disk.read_bytes())
    content[30 * 512 :] = bytes(len(content) - 30 * 512)
    return bytes(content)


async def test_a_broken_log_is_told_by_its_first_fault(tiny_image, tmp_path, log_of_thirty):
    spoiled: dict[str, Callable[[bytearray], object]] = {
        "tiny: verified 30": lambda log: None,
        "tiny: gap at 12": lambda log: _spoil(log, 12, 0, bytes(512)),
        "tiny: gap at 1": lambda log: _spoil(log, 1, 0, bytes(2048)),
        "tiny: bad record 5": lambda log: _spoil(log, 5, 300, b"\xff"),
        "tiny: bad record 9": lambda log: [_spoil(log, 9, 0, b"t1ny"), _spoil(log, 20, 0, bytes(512))],
        "tiny: bad record 30": lambda log: _spoil(log, 30, 10, b"4"),
        "tiny: gap at 3": lambda log: _spoil(log, 3, 0, log[512 * 6 : 512 * 7]),
        "tiny: bad record 8": lambda log: _spoil(log, 8, 100, bytes(50)),
        "tiny: verified 29": lambda log: _spoil(log, 30, 0, hashlib.sha512(b"else").digest() * 8),
    }
    disks = []
    for number, spoil in enumerate(spoiled.values()):
        content = bytearray(log_of_thirty)
        spoil(content)
        (tmp_path / f"{number}").write_bytes(content)
        disks += machine.disk(number, tmp_path / f"{number}")
    async with machine.boot(tiny_image, *disks) as guest:
        await guest.ready()
        for letter, verdict in zip("bcdefghij", spoiled, strict=True):
            said = await guest.run(f"tiny verify /dev/vd{letter}", r"tiny: (verified|gap|bad) .*")
            assert said[0] == verdict


async def test_the_system_disk_can_be_logged_to_behind_its_partition(tiny_image, tmp_path):
    system = tmp_path / "system.raw"
    system.write_bytes(tiny_image.read_bytes())
    with system.open("r+b") as file:
        file.truncate(64 * MIB)
    async with machine.boot(tiny_image, *machine.disk(0, system)) as guest:
        await guest.run("tiny log /dev/vdb", "tiny: log 5")
        guest.process.kill()
        await guest.ended()
    async with machine.boot(system) as guest:
        assert int((await guest.run("tiny verify /dev/vda", r"tiny: verified (\d+)"))[1]) >= 5
        await guest.run("tiny log /dev/vdz", "tiny: /dev/vdz is no block device")


async def test_a_full_device_ends_the_log_with_words(tiny_image, tmp_path):
    async with machine.boot(tiny_image, *machine.disk(0, tmp_path / "log", size=10 * 512)) as guest:
        await guest.run("tiny log /dev/vdb", "tiny: log 10")
        await guest.expect("tiny: log full after 10")
        await guest.run("tiny verify /dev/vdb", "tiny: verified 10")


async def test_a_hot_added_cpu_comes_into_use(tiny_image):
    async with machine.boot(tiny_image, cpus="1,sockets=3,maxcpus=3") as guest:
        await guest.ready()
        possible = await guest.run("cat /sys/devices/system/cpu/possible", r"\d(-\d)?")
        if possible[0] == "0":
            pytest.skip("kernels from 6.12 on take no CPU for hot-pluggable where no hypervisor is seen, as under TCG")
        where = {"socket-id": 1, "core-id": 0, "thread-id": 0}
        await guest.tell("device_add", driver="Westmere-x86_64-cpu", id="cpu1", **where)
        await guest.run("until tiny ready | grep cpus=2; do usleep 100000; done", "tiny: ready cpus=2 .*")


@pytest.mark.slow
async def test_hot_added_memory_comes_into_use(tiny_image):
    async with machine.boot(tiny_image, memory="128M,slots=2,maxmem=1G") as guest:
        before = await guest.ready()
        await guest.prompt()
        await guest.tell("object-add", **{"qom-type": "memory-backend-ram", "id": "more", "size": 256 * MIB})
        await guest.tell("device_add", driver="pc-dimm", id="dimm", memdev="more")
        wanted = int(before["memory_kib"]) + 256 * 1024
        wait = f"until tiny ready | grep memory_kib={wanted}; do usleep 100000; done"
        await guest.run(wait, f"tiny: ready .* memory_kib={wanted} .*")
        await guest.run("tiny touch 200M", "tiny: touched 200M ok")


async def test_virtio_memory_grows_and_is_given_back(tiny_image):
    device = ["-object", "memory-backend-ram,id=more,size=512M", "-device", "virtio-mem-pci,id=grows,memdev=more"]
    async with machine.boot(tiny_image, *device, memory="128M,maxmem=1G") as guest:
        first = int((await guest.ready())["memory_kib"])
        for size in (256, 0):
            await guest.tell("qom-set", path="grows", property="requested-size", value=size * MIB)
            wanted = f"memory_kib={first + size * 1024}"
            wait = f"until tiny ready | grep {wanted}; do usleep 100000; done"
            await guest.run(wait, f"tiny: ready .* {wanted} .*")


async def test_hot_added_disks_and_nics_come_into_use(tiny_image, tmp_path):
    ports = ["-device", "pcie-root-port,id=p1,chassis=1", "-device", "pcie-root-port,id=p2,chassis=2"]
    with (tmp_path / "disk").open("wb") as file:
        file.truncate(3 * MIB)
    async with machine.boot(tiny_image, *ports) as guest:
        await guest.ready()
        node = {"driver": "file", "filename": str(tmp_path / "disk")}
        await guest.tell("blockdev-add", driver="raw", file=node, **{"node-name": "late"})
        await guest.tell("device_add", driver="virtio-blk-pci", drive="late", bus="p1", id="late")
        await guest.tell("netdev_add", type="user", id="net", restrict=True)
        await guest.tell("device_add", driver="virtio-net-pci", netdev="net", mac="52:54:00:11:22:33", bus="p2")
        wait = "until tiny address | grep -q 10.0.2; do usleep 100000; done; tiny address"
        await guest.run(wait, r"tiny: address eth0 10\.0\.2\.15/24")
        guest.send("tiny ready\n")
        after = await guest.ready()
    assert after["disks"].endswith(f",vdb:{3 * MIB}")
    assert after["macs"] == "52:54:00:11:22:33"


async def test_the_same_packages_give_the_same_bytes(tiny_image, packages_cache, tmp_path):
    steps = []
    again = tmp_path / "again.raw"
    await tiny.build(again, cache=packages_cache, report=lambda step, fraction: steps.append((step.type, fraction)))
    assert hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(tiny_image.read_bytes()).digest()
    assert [fraction for _, fraction in steps] == sorted(fraction for _, fraction in steps)
    assert steps[-1][1] == 1.0
    with pytest.raises(FileExistsError):
        await tiny.build(again, cache=packages_cache, report=lambda step, fraction: None)
    assert [path.name for path in tmp_path.iterdir()] == ["again.raw"]
