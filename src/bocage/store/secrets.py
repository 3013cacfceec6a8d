"""Values that the store holds sealed (CHAP, BMC passwords), with a key that lies beside it and in no backup."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import os
import pathlib
import secrets
import stat

from bocage import errors, files
from bocage.store import contract
from bocage.words import N_

KEY_BYTES = 32  # AES-256
NONCE_BYTES = 12  # NIST SP 800-38D, section 8.2.2: random nonces, fewer than 2^32 with one key
_FORM = "1"


class BadKey(contract.Error, errors.Unavailable):
    """The key file does not hold a key. It is left as it was found."""

    type = "secret-key-bad"
    text = N_("{path} does not hold a key")
    hint = N_("put the file back from where you keep its copy; without it each secret must be set again")
    path: str


class KeyExposed(contract.Error, errors.Unavailable):
    """Others than the owner may read or change the key file."""

    type = "secret-key-exposed"
    text = N_("{path} can be read or changed by others than its owner")
    hint = N_("'chmod 600 {path}', then ask yourself who had it and change the secrets")
    path: str


class KeyFailed(contract.Error, errors.Unavailable):
    """The key file could not be read or made."""

    type = "secret-key-failed"
    text = N_("the key {path} cannot be used: {reason}")
    path: str
    reason: str


class OtherKey(contract.Error, errors.Unavailable):
    """The value was sealed with another key."""

    type = "secret-other-key"
    text = N_("the secret of {context} was sealed with another key")
    hint = N_("put back the 'secret.key' that it was sealed with, or set the secret again")
    context: str


class Tampered(contract.Error, errors.Unavailable):
    """The value was not sealed as it is, or not for this context."""

    type = "secret-tampered"
    text = N_("the secret of {context} is damaged, or belongs to something else")
    hint = N_("set the secret again")
    context: str


class Box:
    """Seals and unseals with one key (AES-256-GCM, NIST SP 800-38D)."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._name = hashlib.sha256(b"bocage secret key " + key).digest()[:4]  # tells keys apart, gives none away

    @classmethod
    def open(cls, path: pathlib.Path) -> Box:
        """The box whose key is in `path`; a missing one is made, readable by its owner alone.

        Raises BadKey, KeyExposed and KeyFailed.
        """
        try:
            if not path.exists():
                _make_key(path)
            with open(path, "rb") as file:
                exposed = os.fstat(file.fileno()).st_mode & (stat.S_IRWXG | stat.S_IRWXO)
                content = file.read(1024)
        except OSError as error:
            raise KeyFailed(path=os.fspath(path), reason=error.strerror or str(error)) from error
        if exposed:
            raise KeyExposed(path=os.fspath(path))
        try:
            key = base64.b64decode(content.strip(), validate=True)
        except binascii.Error as error:
            raise BadKey(path=os.fspath(path)) from error
        if len(key) != KEY_BYTES:
            raise BadKey(path=os.fspath(path))
        return cls(key)

    def __repr__(self) -> str:
        return f"<Box {self._name.hex()}>"

    def seal(self, plain: bytes, *, context: str) -> str:
        """Encrypt `plain`; only with the same `context` (whose secret it is) can it be unsealed."""
        from cryptography.hazmat.primitives.ciphers import aead  # late: costs memory and start time

        nonce = secrets.token_bytes(NONCE_BYTES)
        sealed = aead.AESGCM(self._key).encrypt(nonce, plain, context.encode())
        return f"{_FORM}:{base64.urlsafe_b64encode(self._name + nonce + sealed).decode()}"

    def unseal(self, sealed: str, *, context: str) -> bytes:
        """What was sealed. Raises OtherKey and Tampered."""
        from cryptography import exceptions
        from cryptography.hazmat.primitives.ciphers import aead

        form, _, body = sealed.partition(":")
        try:
            raw = base64.b64decode(body, altchars=b"-_", validate=True)
        except ValueError as error:
            raise Tampered(context=context) from error
        name, nonce, rest = raw[:4], raw[4 : 4 + NONCE_BYTES], raw[4 + NONCE_BYTES :]
        if form != _FORM or not rest:
            raise Tampered(context=context)
        if name != self._name:
            raise OtherKey(context=context)
        try:
            return aead.AESGCM(self._key).decrypt(nonce, rest, context.encode())
        except exceptions.InvalidTag as error:
            raise Tampered(context=context) from error


def _make_key(path: pathlib.Path) -> None:
    """Write a new key; where another got there first, its key stays."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(base64.b64encode(secrets.token_bytes(KEY_BYTES)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    files.sync_directory(path.parent)
