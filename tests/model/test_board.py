"""Ports of a guest that lead to the host: what may be written down."""

import pydantic
import pytest

from bocage.model import board


@pytest.mark.parametrize(
    "wrong",
    [
        {"number": 1, "to": "file"},  # COM1 is the console
        {"kind": "parallel", "number": 4, "to": "file"},
        {"number": 2, "to": "listen"},
        {"number": 2, "to": "file", "address": "127.0.0.1:1"},
        {"number": 2, "to": "listen", "address": "127.0.0.1:70000"},
        {"number": 2, "to": "listen", "address": "127.0.0.1:1,server=off"},
        {"number": 2, "to": "connect", "address": "a..b:1"},
        {"number": 2, "to": "connect", "address": f"{'a' * 64}.example:1"},
        {"number": 2, "to": "connect", "address": f"{'a.' * 130}b:1"},
        {"number": 2, "to": "connect", "address": "[..]:1"},
        {"number": 2, "to": "device"},
        {"number": 2, "to": "device", "device": "/dev/sda"},
        {"number": 2, "to": "device", "device": "/dev/ttyS0/../sda"},
        {"number": 2, "to": "device", "device": "/dev/parport0"},
        {"kind": "parallel", "number": 1, "to": "device", "device": "/dev/ttyS0"},
    ],
)
def test_a_port_leads_to_a_port_and_to_nothing_else(wrong):
    with pytest.raises(pydantic.ValidationError):
        board.GuestPort.model_validate({"name": "port", **wrong})


def test_what_leads_to_ports_of_the_host_is_taken():
    for address in ("127.0.0.1:1", "[fe80::1]:1", "printer:9100", f"{'a' * 63}.example.:1"):
        board.GuestPort.model_validate({"name": "com2", "number": 2, "to": "connect", "address": address})
    for device in ("/dev/ttyS0", "/dev/ttyUSB1", "/dev/serial/by-id/usb-FTDI_FT232R_A1-if00-port0"):
        board.GuestPort.model_validate({"name": "com2", "number": 2, "to": "device", "device": device})
