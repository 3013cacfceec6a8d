"""IPMI, through ipmitool, against a BMC that speaks it."""

from __future__ import annotations

import dataclasses
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator

import pytest

from bocage.model import power
from bocage.physical import base, bmcs
from bocage.store import secrets
from tests.physical.conftest import host

PASSWORD = "correct horse"


@dataclasses.dataclass
class Server:
    uuid: str
    port: int
    process: subprocess.Popen[str]

    def order(self) -> str:
        """The next order that it was given."""
        assert self.process.stdout
        return self.process.stdout.readline().strip()


@pytest.fixture
def server() -> Iterator[Server]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    guid = str(uuid.uuid4())
    command = [sys.executable, "-m", "tests.physical.ipmi_bmc", str(port), guid, PASSWORD]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        made = Server(guid, port, process)
        try:
            assert made.order() == "listens"
            yield made
        finally:
            process.kill()


def asked(port: int, *, user: str = "admin", password: str = PASSWORD) -> power.BmcRequest:
    return power.BmcRequest(kind="ipmi", address=f"ipmi://127.0.0.1:{port}", user=user, password=password)


async def test_ipmi_says_who_it_is_switches_its_machine_and_no_other(server: Server, box: secrets.Box) -> None:
    found = await bmcs.look(host(), asked(server.port), box)
    assert power.same_system(found.uuid, server.uuid)
    assert found.power is base.Power.ON

    reached = bmcs.of(host(smbios_uuid=server.uuid, bmc=found.bmc), box)
    await reached.off()
    assert await reached.power() is base.Power.OFF
    await reached.on()
    assert await reached.power() is base.Power.ON
    assert [server.order(), server.order()] == ["off", "on"]

    of_another = bmcs.of(host(smbios_uuid=str(uuid.uuid4()), bmc=found.bmc), box)
    with pytest.raises(base.OtherSystem):
        await of_another.off()
    assert await reached.power() is base.Power.ON

    with pytest.raises(base.WrongPassword):
        await bmcs.look(host(), asked(server.port, password="wrong"), box)
    server.process.kill()
    with pytest.raises(base.Unreachable):
        await reached.power()
