"""The cluster's certificates: an authority of its own, and one certificate for each host, server and client in one.

EC P-256. A host's has an empty common name, since etcd's gateway refuses all others, and bears its uid as organisation.
"""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
from typing import TYPE_CHECKING

from bocage import errors, files
from bocage.home import Home
from bocage.words import N_

if TYPE_CHECKING:
    from cryptography import x509

AUTHORITY_YEARS = 50
HOST_DAYS = 730
WITNESS_DAYS = 7300  # it cannot sign another one itself
RENEW_BEFORE = datetime.timedelta(days=240)
_SLACK = datetime.timedelta(days=2)  # another host's clock may be wrong


class Error(errors.Problem):
    """Anything that goes wrong with certificates."""


class BadRequest(Error, errors.Invalid):
    type = "certificate-request-bad"
    text = N_("the request for a certificate cannot be read or is not signed by its key")


def authority() -> tuple[bytes, bytes]:
    """A new authority: certificate and key, PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Bocage cluster")])
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        _valid(x509.CertificateBuilder(), datetime.timedelta(days=365 * AUTHORITY_YEARS))
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _pem(certificate), _private(key)


def request() -> tuple[bytes, bytes]:
    """A new key, and the request for a certificate for it, PEM; who it is for says whoever signs it."""
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    return _private(key), _request(key)


def renew(home: Home, uid: str, address: str) -> bool:
    """Give the host another certificate for the key that it has, when its own ends before long; whether that was so.

    Raises OSError.
    """
    from cryptography.hazmat.primitives import serialization

    left = ends(home.certificate.read_bytes()) - datetime.datetime.now(datetime.UTC)
    if left > RENEW_BEFORE or not home.authority_key.exists():
        return False
    key = serialization.load_pem_private_key(home.certificate_key.read_bytes(), password=None)
    signed = sign(
        _request(key),
        authority=home.authority.read_bytes(),
        key=home.authority_key.read_bytes(),
        uid=uid,
        address=address,
    )
    files.write_durably(home.certificate, signed, mode=0o600)
    return True


def sign(asked: bytes, *, authority: bytes, key: bytes, uid: str, address: str, days: int = HOST_DAYS) -> bytes:
    """The certificate of the host `uid` at `address`, PEM. Raises BadRequest."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509 import oid

    try:
        wanted = x509.load_pem_x509_csr(asked)
        good = wanted.is_signature_valid
    except ValueError as error:
        raise BadRequest from error
    if not good:
        raise BadRequest
    issuer = x509.load_pem_x509_certificate(authority)
    signer = serialization.load_pem_private_key(key, password=None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    places = dict.fromkeys((ipaddress.ip_address(address), ipaddress.ip_address("127.0.0.1")))
    names: list[x509.GeneralName] = [x509.IPAddress(place) for place in places]
    certificate = (
        _valid(x509.CertificateBuilder(), datetime.timedelta(days=days))
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, uid)]))
        .issuer_name(issuer.subject)
        .public_key(wanted.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([*names, x509.DNSName("localhost")]), critical=False)
        .add_extension(
            x509.ExtendedKeyUsage([oid.ExtendedKeyUsageOID.SERVER_AUTH, oid.ExtendedKeyUsageOID.CLIENT_AUTH]),
            critical=False,
        )
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )
    return _pem(certificate)


def fingerprint(certificate: bytes) -> bytes:
    """SHA-256 of a certificate (PEM). Raises ValueError."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    return hashlib.sha256(x509.load_pem_x509_certificate(certificate).public_bytes(serialization.Encoding.DER)).digest()


def one(certificate: bytes) -> bytes:
    """The first certificate of what was told (PEM), by itself: whoever reads all of it would believe the others too.

    Raises ValueError.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    return x509.load_pem_x509_certificate(certificate).public_bytes(serialization.Encoding.PEM)


def ends(certificate: bytes) -> datetime.datetime:
    """Until when a certificate (PEM) is good."""
    from cryptography import x509

    return x509.load_pem_x509_certificate(certificate).not_valid_after_utc


def _request(key: object) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    assert isinstance(key, ec.EllipticCurvePrivateKey)
    asked = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return asked.public_bytes(serialization.Encoding.PEM)


def _valid(builder: x509.CertificateBuilder, span: datetime.timedelta) -> x509.CertificateBuilder:
    from cryptography import x509

    now = datetime.datetime.now(datetime.UTC)
    return builder.serial_number(x509.random_serial_number()).not_valid_before(now - _SLACK).not_valid_after(now + span)


def _pem(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return certificate.public_bytes(serialization.Encoding.PEM)


def _private(key: object) -> bytes:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
