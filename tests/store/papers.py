"""An authority, and certificates of it, for etcd's members and their clients (EC P-256)."""

from __future__ import annotations

import datetime
import ipaddress
import pathlib

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from bocage.store.etcd import access


class Authority:
    """Writes what it makes into `home`."""

    def __init__(self, home: pathlib.Path) -> None:
        self._home = home
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        self.path = home / "authority.pem"
        self.path.write_bytes(self._signed(self._name, self._key, ca=True))

    def issue(self, what: str, *, common_name: str = "") -> access.Certificates:
        """A certificate for loopback, as server and as client (the gateway of a member is a client of its own)."""
        key = ec.generate_private_key(ec.SECP256R1())
        parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, what)]
        parts += [x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else []
        certificate, secret = self._home / f"{what}.pem", self._home / f"{what}.key"
        certificate.write_bytes(self._signed(x509.Name(parts), key, ca=False))
        secret.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return access.Certificates(self.path, certificate, secret)

    def _signed(self, name: x509.Name, key: ec.EllipticCurvePrivateKey, *, ca: bool) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        hosts = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
        usage = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if not ca:
            made = made.add_extension(x509.SubjectAlternativeName(hosts), critical=False)
            made = made.add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        return made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
