"""The one-time word that lets a host in: where to ask, which authority to believe, and a secret.

`ADDRESS:PORT/FINGERPRINT/SECRET`. The store holds a hash of the secret; the word is good for an hour, and once.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import datetime
import hashlib
import json
import secrets

from bocage import errors
from bocage.model import base, keys
from bocage.store import contract
from bocage.words import N_

GOOD_FOR = datetime.timedelta(hours=1)
_PREFIX = keys.setting("invitation/")
_SECRET = 16  # bytes


class Error(errors.Problem):
    """Anything that is wrong with an invitation."""


class Malformed(Error, errors.Invalid):
    type = "invitation-malformed"
    text = N_("this is no word of an invitation")
    hint = N_("'bocage cluster invite' on a host of the cluster prints one; it looks like 10.0.0.1:8481/…/…")


class NotGood(Error, errors.Forbidden):
    type = "invitation-not-good"
    text = N_("this invitation is not known: it was used, it is older than an hour, or there never was one")
    hint = N_("'bocage cluster invite' on a host of the cluster prints a new one")


@dataclasses.dataclass(frozen=True, slots=True)
class Word:
    """An invitation as it is handed on."""

    address: str  # `10.0.0.1:8481`, `[2001:db8::1]:8481`
    fingerprint: bytes  # SHA-256 of the authority's certificate
    secret: str

    def __str__(self) -> str:
        return f"{self.address}/{_text(self.fingerprint)}/{self.secret}"

    @classmethod
    def parse(cls, text: str) -> Word:
        """Raises Malformed."""
        address, _, rest = text.strip().partition("/")
        fingerprint, _, secret = rest.partition("/")
        host, _, port = address.rpartition(":")
        try:
            raw = base64.b64decode(fingerprint + "=" * (-len(fingerprint) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError) as error:
            raise Malformed from error
        if not (host and port.isascii() and port.isdigit() and len(raw) == hashlib.sha256().digest_size and secret):
            raise Malformed
        return cls(address, raw, secret)


async def make(store: contract.Store, address: str, fingerprint: bytes) -> Word:
    """A new invitation; those that are too old go."""
    word = Word(address, fingerprint, _text(secrets.token_bytes(_SECRET)))
    old = [entry.key for entry in (await store.list(_PREFIX)).entries if not _is_good(entry)]
    ends = (base.now() + GOOD_FOR).isoformat()
    await store.apply(puts={_key(word.secret): json.dumps({"ends": ends}).encode()}, deletes=old[:100])
    return word


async def look_up(store: contract.Store, secret: str) -> contract.Entry:
    """Its record: whoever lets the host in deletes it in the same transaction. Raises NotGood."""
    entry = await store.get(_key(secret))
    if entry is None or not _is_good(entry):
        raise NotGood
    return entry


def _key(secret: str) -> str:
    return _PREFIX + hashlib.sha256(secret.encode()).hexdigest()


def _is_good(entry: contract.Entry) -> bool:
    return datetime.datetime.fromisoformat(json.loads(entry.value)["ends"]) > base.now()


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
