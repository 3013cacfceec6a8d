"""Redfish against the emulator: what a BMC is asked, and what is said when it cannot be."""

from __future__ import annotations

import datetime
import http.server
import pathlib
import socket
import threading
import uuid
from collections.abc import Iterator

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bocage.model import power
from bocage.physical import base, bmcs
from bocage.store import secrets
from tests.ground import bmc
from tests.physical.conftest import host

PASSWORD = "correct horse"


class Server:
    """A machine that is nothing but its power."""

    def __init__(self, name: str) -> None:
        self.name, self.uuid = name, str(uuid.uuid4())
        self.state = "On"
        self.orders: list[str] = []

    def power(self) -> str:
        return self.state

    def on(self) -> None:
        self.orders.append("on")
        self.state = "On"

    def off(self) -> None:
        self.orders.append("off")
        self.state = "Off"


@pytest.fixture
def server() -> Server:
    return Server("server1")


@pytest.fixture
def port(server: Server) -> Iterator[int]:
    with bmc.serving_at("127.0.0.1", [bmc.Bmc(server, PASSWORD)]) as (port,):
        yield port


def asked(port: int, *, scheme: str = "http", password: str = PASSWORD, system: str = "") -> power.BmcRequest:
    address = f"{scheme}://127.0.0.1:{port}"
    return power.BmcRequest(kind="redfish", address=address, user=bmc.USER, system=system, password=password)


async def test_a_bmc_says_who_it_is_and_switches_its_machine(server: Server, port: int, box: secrets.Box) -> None:
    found = await bmcs.look(host(), asked(port), box)
    assert (found.uuid, found.power, found.bmc.system) == (server.uuid, base.Power.ON, server.uuid)
    assert PASSWORD not in found.bmc.model_dump_json()

    reached = bmcs.of(host(smbios_uuid=server.uuid, bmc=found.bmc), box)
    await reached.off()
    assert await reached.power() is base.Power.OFF
    await reached.off()  # what many call an error
    await reached.on()
    assert await reached.power() is base.Power.ON
    assert server.orders == ["off", "on"]
    server.state = "PoweringOff"
    assert await reached.power() is base.Power.CHANGING


async def test_two_swapped_addresses_switch_off_nothing(server: Server, port: int, box: secrets.Box) -> None:
    found = await bmcs.look(host(), asked(port), box)
    of_another = bmcs.of(host(smbios_uuid=str(uuid.uuid4()), bmc=found.bmc), box)
    with pytest.raises(base.OtherSystem):
        await of_another.off()
    assert server.orders == []


async def test_what_is_wrong_with_a_bmc_is_told_by_type(server: Server, port: int, box: secrets.Box) -> None:
    with pytest.raises(base.WrongPassword):
        await bmcs.look(host(), asked(port, password="wrong"), box)
    with pytest.raises(base.NoSystem) as none:
        await bmcs.look(host(), asked(port, system="437XR1138R2"), box)
    assert server.uuid in none.value.systems
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        free = nobody.getsockname()[1]
    with pytest.raises(base.Unreachable) as refused:
        await bmcs.look(host(), asked(free), box)
    assert refused.value.reason == "Connection refused"
    with pytest.raises(base.NoBmc):
        bmcs.of(host(), box)


async def test_a_bmc_that_never_answers_holds_nobody_up(box: secrets.Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bocage.physical.redfish._READ", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(base.Unreachable) as told:
        await bmcs.look(host(), asked(silent.getsockname()[1]), box)
    assert told.value.reason == "timed out"


@pytest.mark.parametrize("content", [b"<html>one moment</html>", b"{}", b"[]", b'"on"'])
async def test_a_bmc_that_answers_something_else_is_strange(content: bytes, box: secrets.Box) -> None:
    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as page:
        serving = threading.Thread(target=page.serve_forever, args=(0.05,))
        serving.start()
        try:
            with pytest.raises(base.Strange):
                await bmcs.look(host(), asked(page.server_port), box)
        finally:
            page.shutdown()
            serving.join()


async def test_a_bmc_that_was_away_is_asked_anew(server: Server, box: secrets.Box) -> None:
    with bmc.serving_at("127.0.0.1", [bmc.Bmc(server, PASSWORD)]) as (port,):
        found = await bmcs.look(host(), asked(port), box)
        reached = bmcs.of(host(smbios_uuid=server.uuid, bmc=found.bmc), box)
        assert await reached.power() is base.Power.ON
    with pytest.raises(base.Unreachable):
        await reached.power()
    with bmc.serving_at("127.0.0.1", [bmc.Bmc(server, PASSWORD, port)]):
        assert await reached.power() is base.Power.ON


async def test_another_certificate_is_told_no_password(
    server: Server, box: secrets.Box, tmp_path: pathlib.Path
) -> None:
    with bmc.serving_at("127.0.0.1", [bmc.Bmc(server, PASSWORD)], certificate=certificate(tmp_path / "1")) as (port,):
        found = await bmcs.look(host(), asked(port, scheme="https"), box)
        reached = bmcs.of(host(bmc=found.bmc), box)
        assert await reached.power() is base.Power.ON
    with bmc.serving_at("127.0.0.1", [bmc.Bmc(server, PASSWORD, port)], certificate=certificate(tmp_path / "2")):
        with pytest.raises(base.OtherCertificate):
            await reached.power()
        with pytest.raises(base.OtherCertificate):
            await bmcs.of(host(bmc=found.bmc), box).power()


def test_system_uuids_are_one_in_either_byte_order() -> None:
    one = "00112233-4455-6677-8899-aabbccddeeff"
    assert power.same_system(one, "33221100-5544-7766-8899-AABBCCDDEEFF")
    assert power.same_system(one, one.upper())
    assert not power.same_system(one, "00112233-4455-6677-8899-aabbccddeefe")
    nobody = "00000000-0000-0000-0000-000000000000"
    assert not power.same_system(nobody, nobody)
    assert not power.same_system("", "")


def certificate(path: pathlib.Path) -> pathlib.Path:
    """A new certificate that nobody signed, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bmc")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path
