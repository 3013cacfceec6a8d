"""What images are put together from: archives, tables, modules, packages."""

import lzma
import shutil
import struct
import subprocess
import uuid
import zlib
from collections.abc import Iterable

import pytest

from bocage import words
from bocage.guest import bootdisk, cpio, debian, gpt, gptdisk, modules, packages, sources, tools


@pytest.mark.skipif(shutil.which("cpio") is None, reason="no cpio to read it with")
def test_the_archive_is_one_that_cpio_reads(tmp_path):
    archive = cpio.Archive()
    archive.directory("bin")
    archive.file("bin/program", b"#!/bin/sh\n", mode=0o755)
    archive.file("odd", b"12345")
    archive.link("bin/other", "program")
    packed = archive.finish()
    assert len(packed) % 4 == 0
    subprocess.run(["cpio", "-i", "--quiet"], input=packed, cwd=tmp_path, check=True)
    assert (tmp_path / "bin" / "other").read_bytes() == b"#!/bin/sh\n"
    assert (tmp_path / "bin" / "program").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "odd").read_bytes() == b"12345"


def module(name: str, depends: str = "", aliases: Iterable[str] = ()) -> modules.Module:
    fields = [b"license=GPL", *(b"alias=" + alias.encode() for alias in aliases), b"depends=" + depends.encode()]
    return modules.parse(f"lib/modules/1/kernel/{name}.ko", b"\x7fELF\0" + b"\0".join(fields) + b"\0name=x\0")


def test_a_module_is_loaded_after_what_it_needs(tmp_path):
    for one in (
        module("virtio-net", "net_failover", ["virtio:d00000001v*"]),
        module("net_failover", "failover,built-in"),
        module("failover"),
        module("other", "failover"),
        module("unwanted"),
    ):
        (tmp_path / f"{one.name}.ko").write_bytes(one.content)
    available = modules.needed(["virtio_net", "other", "nowhere"], folder=tmp_path)
    assert list(available) == ["failover", "net_failover", "virtio_net", "other"]
    assert modules.in_order("virtio_net", available) == ["failover", "net_failover", "virtio_net"]


def test_the_shells_table_finds_the_driver_of_a_device():
    available = {
        one.name: one
        for one in [
            module("base"),
            module("disk", "base", ["pci:v00001AF4d*sv*", "virtio:d00000002v*"]),
            module("gadget", "", ["acpi*:PNP0C0C:*", "of:N*T*Cpad,one(two)"]),
        ]
    }
    table = modules.shell_table(available)

    def modules_for(alias: str) -> str:
        command = f"{table}\nmodules_for '{alias}'; echo $modules"
        return subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout.strip()

    assert modules_for("pci:v00001AF4d00001001sv00001AF4") == "base disk"
    assert modules_for("virtio:d00000002v00001AF4") == "base disk"
    assert modules_for("acpi:PNP0C0C:") == "gadget"
    assert modules_for("virtio:d00000009v00001AF4") == ""


def test_a_compressed_module_is_unpacked():
    plain = module("x", "a,b")
    packed = modules.parse("x.ko.xz", lzma.compress(plain.content))
    assert packed == plain


def test_the_partition_table_holds_at_both_ends():
    sectors = 4096
    parts = {1: gpt.Partition(gpt.LINUX_ROOT_X86_64, 2048, 1024, uuid.UUID(int=5), "root")}
    head, tail = gpt.table(parts, sectors=sectors)
    disk = head + bytes(sectors * 512 - len(head) - len(tail)) + tail
    for here, there in ((1, sectors - 1), (sectors - 1, 1)):
        header = disk[here * 512 : here * 512 + 92]
        signature, _, length, checksum, _, own, other = struct.unpack_from("<8sIIIIQQ", header)
        assert (signature, length, own, other) == (b"EFI PART", 92, here, there)
        assert checksum == zlib.crc32(header[:16] + bytes(4) + header[20:])
        entries_at, count, entry_size, entries_checksum = struct.unpack_from("<QIII", header, 72)
        entries = disk[entries_at * 512 : entries_at * 512 + count * entry_size]
        assert entries_checksum == zlib.crc32(entries)
        assert entries[:16] == gpt.LINUX_ROOT_X86_64.bytes_le
        assert struct.unpack_from("<QQ", entries, 32) == (2048, 3071)


def test_grub_is_told_where_its_rest_lies():
    assert struct.unpack_from("<Q", gptdisk.first_sector(bytes(512), core_at=2048), 0x5C) == (2048,)
    assert struct.unpack_from("<Q", gptdisk.placed_core(bytes(2048), at=2048), 500) == (2049,)


def test_the_mbr_has_one_active_partition():
    sector = bootdisk.master_boot_record(b"code", sectors=40000)
    assert len(sector) == 512
    assert sector[510:] == b"\x55\xaa"
    assert sector[446] == 0x80
    assert struct.unpack_from("<II", sector, 446 + 8) == (2048, 40000)


def test_what_is_missing_is_named_with_its_package():
    with pytest.raises(tools.ToolMissing, match="the package 'no-such-package' has it"):
        tools.program("no-such-program", package="no-such-package")
    with pytest.raises(tools.ToolMissing):
        tools.file("/no/such/file", package="x")


async def test_a_package_that_apt_does_not_know_is_told(tmp_path):
    with pytest.raises(packages.Unknown, match="no-such-package-at-all"):
        await packages.fetch(packages.Wanted("no-such-package-at-all"), cache=tmp_path)


async def test_a_file_that_is_cut_short_is_fetched_again(tmp_path):
    wanted = packages.Wanted("busybox-static")
    (whole,) = await packages.fetch(wanted, cache=tmp_path)
    content = whole.read_bytes()
    whole.write_bytes(content[:1000])
    assert await packages.fetch(wanted, cache=tmp_path) == [whole]
    assert whole.read_bytes() == content
    assert list(tmp_path.iterdir()) == [whole]


async def test_without_lists_the_cache_is_enough(tmp_path, monkeypatch):
    nothing = tmp_path / "apt.conf"
    nothing.write_text(f'Dir::State::lists "{tmp_path}/none"; Dir::Cache "{tmp_path}/cache";\n')
    monkeypatch.setenv("APT_CONFIG", str(nothing))
    cache = tmp_path / "packages"
    kernel = packages.Wanted("linux-image-cloud-amd64", behind=r"linux-image-\d\S*-cloud-amd64")
    with pytest.raises(packages.Unknown):
        await packages.fetch(kernel, cache=cache)
    kept = cache / "linux-image-6.1.0-1-cloud-amd64_6.1.0-1_amd64.deb"
    kept.write_bytes(b"")
    assert await packages.fetch(kernel, cache=cache) == [kept]


def _quiet(step: words.Message, fraction: float) -> None:
    pass


async def test_a_release_that_is_none_is_refused_before_anything_is_done(tmp_path):
    with pytest.raises(debian.NotKnown):
        await debian.build(
            tmp_path / "x", release="sarge", cache=tmp_path / "cache", report=lambda step, fraction: None
        )
    assert list(tmp_path.iterdir()) == []


async def test_a_mirror_without_the_release_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(debian, "RELEASES", ("sarge",))
    nowhere = [sources.Source("http://127.0.0.1:9/debian", "sarge")]
    monkeypatch.setattr(sources, "for_release", lambda release: nowhere)
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    with pytest.raises(debian.NotBuilt) as failed:
        await debian.build(
            tmp_path / "x", release="sarge", cache=tmp_path / "cache", report=lambda step, fraction: None
        )
    assert "127.0.0.1" in failed.value.output
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["cache", "debian-sarge", "scratch"]
