"""What lies where in etcd, and how it is put into requests and read from answers; no waiting here.

Under the root lie `founding` (which store this is), `pen/CLIENT` (the last transaction of each writer) and
`data/KEY`. The store's revision 0 is etcd's revision at which `founding` was first put. A value stands behind its
checksum, so that what another program put there is found as SQLite's engine finds damage.
"""

from __future__ import annotations

import base64
import dataclasses
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

from bocage.store import contract

ROOT = "/bocage/"
TXN = "kv/txn"
COMPACTION = "kv/compaction"
WATCH = "watch"

Document = dict[str, Any]

_CHECKSUM = 8  # hexadecimal digits


@dataclasses.dataclass(frozen=True, slots=True)
class Space:
    """One store's part of etcd: all keys under `root`; etcd's revision `base` is the store's 0."""

    root: bytes
    base: int
    incarnation: str

    @property
    def founding(self) -> bytes:
        return self.root + b"founding"

    @property
    def data(self) -> bytes:
        return self.root + b"data/"

    def pen(self, client: str) -> bytes:
        return self.root + b"pen/" + client.encode()

    def key(self, key: str) -> bytes:
        """Where a key of the store lies."""
        return self.data + key.encode()

    def is_same(self, record: Document | None) -> bool:
        """Whether the founding record, as it was read, is that of the store that was opened."""
        return record is not None and value(record) == self.incarnation.encode()

    @property
    def same(self) -> Document:
        """The compare that holds while this is the store that was opened."""
        return {
            "target": "VALUE",
            "result": "EQUAL",
            "key": text(self.founding),
            "value": text(self.incarnation.encode()),
        }

    def at(self, key: str, revision: int) -> Document:
        """The compare that a key of the store has this revision (0: is absent)."""
        return changed_at(self.key(key), revision + self.base if revision else 0)

    def revision(self, found: int) -> int:
        """The store's revision for etcd's; 0 stays 0."""
        return found - self.base if found else 0

    def entry(self, record: Document) -> contract.Entry:
        """A key as it was read; raises contract.Failed for what no store of ours put there."""
        name, sealed = key(record), value(record)
        content = sealed[_CHECKSUM:]
        try:
            if not name.startswith(self.data) or sealed[:_CHECKSUM] != _checksum(name, content):
                raise ValueError
            stored = name[len(self.data) :].decode()
        except ValueError as error:
            raise contract.Failed(reason=f"the value is malformed: {name.decode(errors='replace')}") from error
        return contract.Entry(stored, content, self.revision(modified(record)), self.revision(created(record)))

    def sealed(self, name: str, content: bytes) -> bytes:
        """A value as it lies in etcd."""
        return _checksum(self.key(name), content) + content


def _checksum(name: bytes, content: bytes) -> bytes:
    return b"%08x" % zlib.crc32(content, zlib.crc32(name))


# --- requests


def text(raw: bytes) -> str:
    """Bytes as JSON has them."""
    return base64.b64encode(raw).decode()


def raw(said: str) -> bytes:
    """Bytes from JSON."""
    return base64.b64decode(said)


def past(prefix: bytes) -> bytes:
    """The first key behind all those that start with `prefix`, which ends in no 0xff (UTF-8 has none)."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


def changed_at(name: bytes, revision: int) -> Document:
    """The compare that a key was last changed at etcd's `revision` (0: is absent)."""
    return {"target": "MOD", "result": "EQUAL", "key": text(name), "mod_revision": str(revision)}


def is_absent(name: bytes) -> Document:
    """The compare that a key is absent."""
    return {"target": "CREATE", "result": "EQUAL", "key": text(name), "create_revision": "0"}


def put(name: bytes, content: bytes) -> Document:
    return {"request_put": {"key": text(name), "value": text(content)}}


def delete(name: bytes) -> Document:
    return {"request_delete_range": {"key": text(name)}}


def get(name: bytes, *, only_key: bool = False) -> Document:
    return {"request_range": {"key": text(name), "keys_only": only_key}}


def span(low: bytes, end: bytes, *, limit: int, at: int) -> Document:
    """The keys from `low` to before `end`, at etcd's revision `at` (0: the newest)."""
    return {"request_range": {"key": text(low), "range_end": text(end), "limit": str(limit), "revision": str(at)}}


def transaction(compare: Iterable[Document], success: Iterable[Document], failure: Iterable[Document] = ()) -> Document:
    return {"compare": list(compare), "success": list(success), "failure": list(failure)}


def nested(of: Document) -> Document:
    return {"request_txn": of}


# --- answers: zeros and empty lists are left out, integers are text


def revision(answer: Document) -> int:
    """etcd's revision at the time of an answer."""
    return int(answer["header"]["revision"])


def succeeded(answer: Document) -> bool:
    return bool(answer.get("succeeded"))


def ranges(answer: Document) -> list[Document]:
    """What each `get` or `span` of a transaction found."""
    return [response.get("response_range", {}) for response in answer.get("responses", ())]


def first(found: Document) -> Document | None:
    """The one key that was looked for; None when it is not there."""
    kvs = found.get("kvs")
    return kvs[0] if kvs else None


def key(record: Mapping[str, Any]) -> bytes:
    return raw(record["key"])


def value(record: Mapping[str, Any]) -> bytes:
    return raw(record.get("value", ""))


def modified(record: Mapping[str, Any] | None) -> int:
    """etcd's revision of the last change; 0 for a key that is not there."""
    return int(record["mod_revision"]) if record else 0


def created(record: Mapping[str, Any]) -> int:
    return int(record["create_revision"])
