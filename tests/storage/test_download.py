import datetime
import ipaddress
import os
import pathlib
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bocage.storage import directory, download, images, intake
from tests.storage import samples, web

DATA = os.urandom(5 << 20)


@pytest.fixture
def into(tmp_path: pathlib.Path) -> intake.Intake:
    return intake.Intake(tmp_path)


async def fetched(into: intake.Intake, address: str, **more: object) -> bytes:
    key = await download.fetch(into, address, pause=0.001, **more)  # type: ignore[arg-type]
    return into.path(key).read_bytes()


async def test_a_download_becomes_an_image(tmp_path: pathlib.Path) -> None:
    library = directory.create(tmp_path / "s", "u-1").library
    source = samples.image(tmp_path, "qcow2")
    async with web.serving(web.Server(source.read_bytes())) as server:
        seen: list[tuple[int, int | None]] = []
        key = await download.fetch(library.intake, server.address, received=lambda *told: seen.append(told))
        image = await library.finish(key, images.Wanted(file_name="image.qcow2", origin=server.address))
    assert image.virtual_size == 4 << 20
    assert seen[-1] == (source.stat().st_size, source.stat().st_size)
    assert server.asked[0]["accept-encoding"] == "identity"


async def test_a_connection_that_breaks_is_gone_on_with(into: intake.Intake) -> None:
    async with web.serving(web.Server(DATA, cuts=[3 << 20, 1 << 20])) as server:
        assert await fetched(into, server.address) == DATA
    assert len(server.asked) == 3
    assert server.asked[1]["if-range"] == '"v1"'
    assert int(server.asked[1]["range"].removeprefix("bytes=").rstrip("-")) > 0


async def test_a_restarted_daemon_goes_on_too(into: intake.Intake, tmp_path: pathlib.Path) -> None:
    async with web.serving(web.Server(DATA, cuts=[3 << 20, 0, 0, 0, 0, 0])) as server:
        with pytest.raises(download.Broken) as caught:
            await fetched(into, server.address)
        assert caught.value.offset > 0
        server.cuts.clear()
        assert await fetched(intake.Intake(tmp_path), server.address) == DATA
    assert server.asked[-1]["range"] == f"bytes={caught.value.offset}-"


async def test_a_file_that_changed_on_the_server_is_begun_anew(into: intake.Intake) -> None:
    server = web.Server(bytes(3 << 20), cuts=[2 << 20, 0, 0, 0, 0, 0])
    async with web.serving(server):
        with pytest.raises(download.Broken):
            await fetched(into, server.address)
        server.data, server.etag = DATA, '"v2"'
        server.cuts.clear()
        assert await fetched(into, server.address) == DATA


@pytest.mark.parametrize("change", [{"ranges": False}, {"etag": None}, {"etag": 'W/"weak"'}])
async def test_a_server_that_cannot_go_on_gives_the_whole_again(change: dict[str, object], into: intake.Intake) -> None:
    async with web.serving(web.Server(DATA, cuts=[3 << 20], **change)) as server:  # type: ignore[arg-type]
        assert await fetched(into, server.address) == DATA


async def test_a_length_that_is_not_said_is_no_obstacle(into: intake.Intake) -> None:
    async with web.serving(web.Server(DATA, says_length=False)) as server:
        assert await fetched(into, server.address) == DATA


async def test_a_refusal_is_told_with_its_status(into: intake.Intake) -> None:
    async with web.serving(web.Server(b"no", status=404)) as server:
        with pytest.raises(download.Refused) as caught:
            await fetched(into, server.address)
    assert caught.value.status_code == 404
    assert len(server.asked) == 1


async def test_redirections_are_followed_but_not_for_ever_and_not_to_files(into: intake.Intake) -> None:
    async with web.serving(
        web.Server(DATA, redirects={"/a": "/b", "/b": "/image.qcow2", "/round": "/round"})
    ) as server:
        base = server.address.removesuffix("/image.qcow2")
        assert await fetched(into, f"{base}/a") == DATA
        server.redirects["/file"] = "file:///etc/shadow"
        for path in ("/round", "/file"):
            with pytest.raises(download.Error):
                await fetched(into, base + path)


@pytest.mark.parametrize(
    "address", ["file:///etc/shadow", "ftp://x/y", "/etc/shadow", "http://", "http://x:y/", "http://h/a b"]
)
async def test_only_web_addresses_are_fetched(address: str, into: intake.Intake) -> None:
    with pytest.raises(download.BadAddress):
        await download.fetch(into, address)


@pytest.mark.parametrize("says_length", [True, False])
async def test_more_than_the_limit_is_not_fetched(
    says_length: bool, into: intake.Intake, tmp_path: pathlib.Path
) -> None:
    async with web.serving(web.Server(DATA, says_length=says_length)) as server:
        with pytest.raises(intake.OverLimit):
            await fetched(into, server.address, limit=1 << 20)
    assert samples.listing(tmp_path) == []


async def test_compressed_transfer_is_refused(into: intake.Intake) -> None:
    async with web.serving(web.Server(DATA, more={"Content-Encoding": "gzip"})) as server:
        with pytest.raises(download.BadAddress):
            await fetched(into, server.address)


def certificate(directory: pathlib.Path) -> pathlib.Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now, days = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=2)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - days).not_valid_after(now + days)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    path = directory / "pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path


async def test_https_needs_a_certificate_that_is_trusted_and_does_not_lead_to_http(
    tmp_path: pathlib.Path, into: intake.Intake
) -> None:
    pem = certificate(tmp_path)
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own.load_cert_chain(pem)
    async with web.serving(web.Server(DATA), own) as server:
        with pytest.raises(download.Broken):
            await fetched(into, server.address)
        trust = ssl.create_default_context(cafile=str(pem))
        assert await fetched(into, server.address, trust=trust) == DATA
        async with web.serving(web.Server(DATA)) as plain:
            server.redirects["/down"] = plain.address
            with pytest.raises(download.BadAddress):
                await fetched(into, server.address.replace("/image.qcow2", "/down"), trust=trust)
