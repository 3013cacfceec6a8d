"""Which store this is: a record whose value, the incarnation, changes when the store is restored or recovered.

Every request looks at it, so that nobody goes on with a store that is another than the one that was opened.
The caller makes up the incarnation and keeps it first: founding twice with one is founding once.
"""

from __future__ import annotations

from bocage import errors
from bocage.store import contract
from bocage.store.etcd import gateway as gateways
from bocage.store.etcd import records
from bocage.words import N_


class Founded(contract.Error, errors.Conflict):
    """There is a store already."""

    type = "store-founded"
    text = N_("etcd holds a store already; its incarnation is {incarnation}")
    hint = N_("join it, or give the cluster an etcd of its own")
    incarnation: str


class Unfounded(contract.Error, errors.Conflict):
    """There is no store."""

    type = "store-unfounded"
    text = N_("etcd holds no store of Bocage under {root}")
    root: str


async def found(gateway: gateways.Gateway, incarnation: str, *, root: str = records.ROOT, within: float = 10.0) -> None:
    """Make an empty store. Raises Founded, Silent, Refused."""
    name = root.encode() + b"founding"
    request = records.transaction(
        [records.is_absent(name)], [records.put(name, incarnation.encode())], [records.get(name)]
    )
    answer = await gateway.ask(records.TXN, request, within=within)
    if not records.succeeded(answer):
        record = records.first(records.ranges(answer)[0])
        found = records.value(record).decode(errors="replace") if record else ""
        if found != incarnation:
            raise Founded(incarnation=found)


def look(space: records.Space, *beside: records.Document) -> records.Document:
    """The request for the newest revision, and for what is to be read at the same moment."""
    return records.transaction([], [records.get(space.founding), *beside])


def seen(space: records.Space, answer: records.Document) -> list[records.Document]:
    """What was read beside the founding record, which comes first. Raises contract.Replaced."""
    record, *beside = records.ranges(answer)
    if not space.is_same(records.first(record)):
        raise contract.Replaced
    return beside
