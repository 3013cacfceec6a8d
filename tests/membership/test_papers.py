"""Certificates: who believes whom, and how one is renewed before it ends."""

from __future__ import annotations

import datetime
import pathlib
import socket
import ssl
import threading

import pytest
from cryptography import x509

from bocage import home as homes
from bocage.membership import invitation, joining, papers, place
from bocage.store.etcd import access


@pytest.fixture
def home(tmp_path: pathlib.Path) -> homes.Home:
    made = homes.Home(tmp_path, tmp_path / "run")
    made.cluster.mkdir()
    authority, key = papers.authority()
    own, request = papers.request()
    made.authority.write_bytes(authority)
    made.authority_key.write_bytes(key)
    made.certificate_key.write_bytes(own)
    made.certificate.write_bytes(papers.sign(request, authority=authority, key=key, uid="h1", address="127.0.0.7"))
    return made


def shake(server: access.Certificates, client: access.Certificates, name: str) -> str:
    """A handshake between two hosts; the organisation of the client as the server sees it."""
    ours, theirs = socket.socketpair()
    listening = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=server.authority)
    listening.verify_mode = ssl.CERT_REQUIRED
    listening.load_cert_chain(server.certificate, server.key)
    seen: list[object] = []

    def serve() -> None:
        try:
            with listening.wrap_socket(theirs, server_side=True) as accepted:
                seen.append(accepted.getpeercert())
                accepted.send(b"x")
        except ssl.SSLError as error:
            seen.append(error)
            theirs.close()

    serving = threading.Thread(target=serve)
    serving.start()
    try:
        with client.context().wrap_socket(ours, server_hostname=name) as connected:
            connected.recv(1)
    finally:
        serving.join()
    certificate = seen[0]
    assert isinstance(certificate, dict)
    ((organisation,),) = certificate["subject"]
    assert organisation[0] == "organizationName"
    return str(organisation[1])


@pytest.mark.parametrize("name", ["127.0.0.7", "127.0.0.1", "localhost"])
def test_hosts_of_one_authority_believe_each_other_at_their_addresses(home: homes.Home, name: str) -> None:
    mine = place.certificates(home)
    assert shake(mine, mine, name) == "h1"


def test_another_address_and_another_authority_are_not_believed(home: homes.Home, tmp_path: pathlib.Path) -> None:
    mine = place.certificates(home)
    with pytest.raises((ssl.SSLError, AssertionError)):
        shake(mine, mine, "127.0.0.8")
    other = tmp_path / "other.crt"
    other.write_bytes(papers.authority()[0])
    stranger = access.Certificates(other, mine.certificate, mine.key)
    with pytest.raises((ssl.SSLError, AssertionError)):
        shake(mine, stranger, "127.0.0.7")
    with pytest.raises((ssl.SSLError, AssertionError)):
        shake(stranger, mine, "127.0.0.7")


def test_one_that_ends_before_long_is_renewed_for_the_same_key(
    home: homes.Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = home.certificate.read_bytes()
    assert not papers.renew(home, "h1", "127.0.0.7")
    assert home.certificate.read_bytes() == before
    monkeypatch.setattr(papers, "RENEW_BEFORE", datetime.timedelta(days=papers.HOST_DAYS + 1))
    assert papers.renew(home, "h1", "127.0.0.7")
    old, new = map(x509.load_pem_x509_certificate, (before, home.certificate.read_bytes()))
    assert old.serial_number != new.serial_number
    assert old.public_key() == new.public_key()
    mine = place.certificates(home)
    assert shake(mine, mine, "127.0.0.7") == "h1"


def test_a_request_that_its_key_did_not_sign_gets_nothing(home: homes.Home) -> None:
    _, request = papers.request()
    broken = request[:-60] + bytes([request[-60] ^ 1]) + request[-59:]
    for asked in (b"", b"nonsense", broken):
        with pytest.raises(papers.BadRequest):
            papers.sign(
                asked,
                authority=home.authority.read_bytes(),
                key=home.authority_key.read_bytes(),
                uid="h1",
                address="127.0.0.7",
            )


def test_a_word_comes_back_from_its_text(home: homes.Home) -> None:
    mark = papers.fingerprint(home.authority.read_bytes())
    for address in ("10.0.0.1:8481", "[2001:db8::1]:8481"):
        word = invitation.Word(address, mark, "abc_-")
        assert invitation.Word.parse(f" {word}\n") == word
    for text in (
        "",
        "10.0.0.1:8481",
        f"10.0.0.1/{'A' * 43}/x",
        f"10.0.0.1:8481/{'A' * 42}/x",
        f"10.0.0.1:8481/{'A' * 43}/",
    ):
        with pytest.raises(invitation.Malformed):
            invitation.Word.parse(text)


def test_what_comes_with_the_authority_that_a_word_means_is_not_believed(home: homes.Home) -> None:
    """Else who is on the way would send his own along, and be told the word's secret."""
    meant = home.authority.read_bytes()
    strangers, _ = papers.authority()
    assert papers.one(meant) == meant
    assert papers.one(meant + strangers) == meant
    word = invitation.Word("10.0.0.1:8481", papers.fingerprint(meant), "abc_-")
    assert joining._meant(word, meant + strangers) == meant
    for told in (strangers + meant, b"nonsense"):
        with pytest.raises(joining.OtherAuthority):
            joining._meant(word, told)


def test_a_host_keeps_its_own_key_until_it_is_part_of_a_cluster(tmp_path: pathlib.Path) -> None:
    home = homes.Home(tmp_path, tmp_path / "run")
    own = home.secret_key
    home.cluster.mkdir()
    home.joined_secret_key.write_text("the cluster's")
    assert home.secret_key == own
    home.cluster_document.write_text("{}")
    assert home.secret_key == home.joined_secret_key
