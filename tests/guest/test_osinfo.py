"""osinfo-db as it is read: merged, inherited, and no door for strangers."""

import datetime
import pathlib

import pytest

from bocage.guest import osinfo
from bocage.model.units import Size

DEVICES = "".join(f'<device id="d/{name}"><name>{name}</name></device>' for name in ("e1000", "virtio-net", "ac97"))
BOMB = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>'


def write(root: pathlib.Path, **systems: str) -> pathlib.Path:
    for room in ("os/maker.example", "device/maker.example"):
        (root / room).mkdir(parents=True, exist_ok=True)
    (root / "device/maker.example/all.xml").write_text(f"<libosinfo>{DEVICES}</libosinfo>")
    for name, content in systems.items():
        (root / f"os/maker.example/{name}.xml").write_text(content)
    return root


def one(name: str, inside: str) -> str:
    return f'<libosinfo><os id="o/{name}"><short-id>{name}</short-id>{inside}</os></libosinfo>'


def test_a_system_takes_over_what_its_forerunner_drives_less_what_it_dropped(tmp_path):
    first = "<family>linux</family><devices><device id='d/e1000'/><device id='d/ac97'/></devices>"
    later = (
        "<derives-from id='o/one'/><devices><device id='d/virtio-net'/><device id='d/ac97' removed='true'/></devices>"
    )
    known = osinfo.read(write(tmp_path, one=one("one", first), two=one("two", later)))
    assert known["two"].devices == {"e1000", "virtio-net"}
    assert known["two"].family == "linux"


def test_forerunners_in_a_circle_end(tmp_path):
    known = osinfo.read(
        write(
            tmp_path,
            one=one("one", "<clones id='o/two'/><devices><device id='d/e1000'/></devices>"),
            two=one("two", "<clones id='o/one'/>"),
        )
    )
    assert known["two"].devices == {"e1000"}


def test_several_files_speak_of_one_system(tmp_path):
    main = "<name>One</name><name xml:lang='de'>Eins</name><version>1</version><release-date>1998-05-01</release-date>"
    known = osinfo.read(write(tmp_path, a=one("one", "<short-id>uno</short-id>"), b=one("one", main)))
    found = known["one"]
    assert (found.also, found.title, found.released) == (("uno",), "One", datetime.date(1998, 5, 1))


def test_of_amounts_for_32_and_64_bits_the_least_is_the_smaller_and_the_most_the_larger(tmp_path):
    resources = "".join(
        f"<resources arch='{arch}'><minimum><ram>{least}</ram></minimum>"
        f"<maximum><ram>{most}</ram></maximum></resources>"
        for arch, least, most in (("i686", 1 << 20, 1 << 30), ("x86_64", 2 << 20, 8 << 30), ("s390x", 1, 1 << 40))
    )
    found = osinfo.read(write(tmp_path, one=one("one", resources)))["one"]
    assert (found.least.memory, found.most.memory) == (Size(1 << 20), Size(8 << 30))


def test_a_file_that_is_damaged_or_would_blow_up_is_passed_over(tmp_path):
    root = write(tmp_path, good=one("good", ""), cut="<libosinfo><os", bomb=f"{BOMB}{one('bomb', '&b;')}")
    assert set(osinfo.read(root)) == {"good"}


def test_without_the_database_it_is_said_what_to_install(tmp_path):
    with pytest.raises(osinfo.NotInstalled):
        osinfo.read(tmp_path)
    with pytest.raises(osinfo.NotInstalled):
        osinfo.installed(tmp_path)
