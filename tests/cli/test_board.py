"""The options for old hardware, as the API gets them."""

import pytest

from bocage.cli import failure, read


def test_parts_of_the_board_are_read_by_their_keys():
    assert read.board(["video=cirrus,sound=sb16", "disk=ide", "rtc=localtime", "drift=slew", "secure-boot=yes"]) == {
        "video": "cirrus",
        "sound": "sb16",
        "disk_bus": "ide",
        "rtc": {"base": "localtime", "drift": "slew"},
        "secure_boot": True,
    }
    assert read.board(
        ["limit-cpus=2,limit-memory=512M,added-memory=dimm", "hyperv=relaxed+vapic", "watchdog=ib700:pause"]
    ) == {
        "added_memory": "dimm",
        "limits": {"cpus": 2, "memory": "512M"},
        "hyperv": ["relaxed", "vapic"],
        "watchdog": {"model": "ib700", "action": "pause"},
    }
    assert read.board(["watchdog=reset"]) == {"watchdog": {"model": "i6300esb", "action": "reset"}}


def test_ports_are_numbered_in_their_order_and_lead_somewhere():
    assert read.ports(["file", "/dev/ttyS0", "listen:[::1]:4001,rfc2217"], ["connect:printer:9100"]) == [
        {"name": "com2", "kind": "serial", "number": 2, "to": "file"},
        {"name": "com3", "kind": "serial", "number": 3, "to": "device", "device": "/dev/ttyS0"},
        {"name": "com4", "kind": "serial", "number": 4, "to": "listen", "address": "[::1]:4001", "rfc2217": True},
        {"name": "lpt1", "kind": "parallel", "number": 1, "to": "connect", "address": "printer:9100"},
    ]
    assert read.ports(None, None) is None


@pytest.mark.parametrize("wrong", ["nowhere", "listen:", "connect:printer:9100,fast", "tcp:1"])
def test_a_port_that_leads_nowhere_is_refused_with_what_would_be_right(wrong):
    with pytest.raises(failure.Usage):
        read.ports([wrong], None)


def test_usb_devices_are_told_by_what_they_are_or_where_they_are():
    assert read.usb("0529:000A") == {"id": "0529:000a"}
    assert read.usb("0403:6001,serial=A50285BI") == {"id": "0403:6001", "serial": "A50285BI"}
    assert read.usb("port=1-2.3") == {"port": "1-2.3"}
    for wrong in ("529:1", "serial=A1", "0529:0001,bus=1"):
        with pytest.raises(failure.Usage):
            read.usb(wrong)
