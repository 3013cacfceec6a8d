"""Hashes of passwords as a guest's `/etc/shadow` holds them.

The system's own libcrypt does it (libxcrypt, of which each Debian has a copy, since perl-base needs it): Python
drops its `crypt` module in 3.13, passlib is no longer looked after, and a program that is run for it would be
one package more. SHA-512 is what every guest of the last fifteen years can check; yescrypt is not.
"""

from __future__ import annotations

import ctypes
import functools
import secrets

from bocage import errors
from bocage.guest import tools
from bocage.words import N_

_METHOD = b"$6$"  # crypt(5): sha512crypt
_ROUNDS = 0  # the method's own default, 5000
_SALT_BYTES = 16
_SETTING_SIZE = 192  # CRYPT_GENSALT_OUTPUT_SIZE of crypt.h
_WORK_SIZE = 32768  # sizeof(struct crypt_data)
_LONGEST = 511  # CRYPT_MAX_PASSPHRASE_SIZE, less its end


class Unhashable(tools.Error, errors.Invalid, ValueError):
    """There is no hash of such a password."""

    type = "guest-password-invalid"
    text = N_("a password has 1 to 511 bytes, and no NUL or line feed")


def hash_password(text: str) -> str:
    """Hash a password with a fresh salt: `$6$…` as crypt(5) says. Raises Unhashable, ToolMissing."""
    phrase = text.encode()
    if not 0 < len(phrase) <= _LONGEST or b"\0" in phrase or b"\n" in phrase:
        raise Unhashable
    return _crypt(phrase, _setting())


def matches(text: str, hashed: str) -> bool:
    """Whether `hashed` is a hash of this password."""
    return secrets.compare_digest(_crypt(text.encode(), hashed.encode()), hashed)


def _setting() -> bytes:
    output = ctypes.create_string_buffer(_SETTING_SIZE)
    random = secrets.token_bytes(_SALT_BYTES)
    made = _library().crypt_gensalt_rn(_METHOD, ctypes.c_ulong(_ROUNDS), random, len(random), output, len(output))
    if not made:
        raise Unhashable
    return output.value


def _crypt(phrase: bytes, setting: bytes) -> str:
    work = ctypes.create_string_buffer(_WORK_SIZE)
    hashed: bytes | None = _library().crypt_rn(phrase, setting, work, len(work))
    if hashed is None:
        raise Unhashable
    return hashed.decode()


@functools.cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libcrypt.so.1")
    except OSError as error:
        raise tools.ToolMissing(tool="libcrypt.so.1", package="libcrypt1") from error
    library.crypt_rn.restype = ctypes.c_char_p
    library.crypt_gensalt_rn.restype = ctypes.c_char_p
    return library
