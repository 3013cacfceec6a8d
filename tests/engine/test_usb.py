"""The USB devices of a host, on a tree as sysfs has it."""

import pathlib

import pytest

from bocage.engine import usb


def device(at: pathlib.Path, port: str, **said: str) -> None:
    (at / port).mkdir()
    for name, text in said.items():
        (at / port / name).write_bytes(text.encode() + b"\n")


def test_devices_are_told_by_what_they_are_and_where_they_are(tmp_path: pathlib.Path):
    hub = {"idVendor": "1d6b", "idProduct": "0002", "bDeviceClass": "09"}
    device(tmp_path, "usb1", **hub)
    device(tmp_path, "1-10", **hub)
    device(tmp_path, "1-10.2", idVendor="0529", idProduct="0001", bDeviceClass="ff", product="HASP\x1b[31m 2.17\x00")
    device(tmp_path, "1-2", idVendor="067B", idProduct="2303", serial="A1", manufacturer="Prolific", bDeviceClass="00")
    device(tmp_path, "1-2:1.0", bInterfaceClass="ff")
    device(tmp_path, "1-3")
    found = usb.look(tmp_path)
    assert [(one.port, one.id, one.serial) for one in found] == [
        ("1-2", "067b:2303", "A1"),
        ("1-10.2", "0529:0001", ""),
    ]
    assert found[0].maker == "Prolific"
    assert found[1].model == "HASP[31m 2.17", "a device moves no cursor"


@pytest.mark.parametrize("by", ["mounted", "swap", "holders", "nobody"])
def test_a_stick_that_the_host_uses_is_in_use(tmp_path: pathlib.Path, by: str, monkeypatch: pytest.MonkeyPatch):
    device(tmp_path, "1-2", idVendor="0781", idProduct="5567", bDeviceClass="00")
    part = tmp_path / "1-2" / "1-2:1.0" / "host4" / "target4:0:0" / "4:0:0:0" / "block" / "sdz" / "sdz1"
    (part / "holders" / ("md0" if by == "holders" else "")).mkdir(parents=True)
    (part / "partition").write_text("1\n")
    mounted = usb._mounted()
    (part / "dev").write_text((mounted.pop() if by == "mounted" else "259:99") + "\n")
    monkeypatch.setattr(usb, "_swapped", lambda: {"sdz1"} if by == "swap" else set())
    assert [one.in_use for one in usb.look(tmp_path)] == [by != "nobody"]


def test_a_host_without_usb_has_none(tmp_path: pathlib.Path):
    assert usb.look(tmp_path / "none") == []
