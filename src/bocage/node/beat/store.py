"""The beat's transaction and its look at the host's epoch, as etcd's gateway takes them. Both may be done twice."""

from __future__ import annotations

import json

from bocage.protocol import records
from bocage.store.etcd import gateway
from bocage.store.etcd import records as places

_PROTOCOL = "/bocage/p1/"  # as in bocage.ledger, which would bring the whole model along


class Store:
    """The records of one life's host, in the store that it belongs to."""

    def __init__(self, members: gateway.Gateway, root: str, life: records.Life) -> None:
        self._members = members
        self._life = life
        self._space = places.Space(root.encode(), 0, life.incarnation)
        self._based = False

    async def beat(self, ask: records.Ask, *, within: float) -> records.Answer:
        """What the store says to a beat. Raises gateway.Silent and gateway.Refused.

        It is asked of one member after the other; whichever answers, the beat counts from its first sending.
        """
        if not self._based and not await self._find_base(within=within):
            return records.Refused(records.CLUSTER)
        space, epoch = self._space, records.epoch_of(self._life.host)
        transaction = ask.transaction
        compare = [space.at(_PROTOCOL + key, revision) for key, revision in transaction.compare.items()]
        puts = [_put(space, key, record) for key, record in transaction.puts.items()]
        request = places.transaction([space.same, *compare], puts, [places.get(space.founding)])
        answer = await self._members.ask(places.TXN, request, within=within)
        if places.succeeded(answer):
            return records.Applied(space.revision(places.revision(answer)))
        same = space.is_same(places.first(places.ranges(answer)[0]))
        return records.Refused(epoch if same else records.CLUSTER)

    async def look(self, *, within: float) -> records.View:
        """The host's epoch, and which store this is. Raises gateway.Silent and gateway.Refused."""
        space, key = self._space, records.epoch_of(self._life.host)
        request = places.transaction([], [places.get(space.founding), places.get(space.key(_PROTOCOL + key))])
        founding, found = map(places.first, places.ranges(await self._members.ask(places.TXN, request, within=within)))
        incarnation = places.value(founding).decode(errors="replace") if founding else ""
        entries = {records.CLUSTER: records.Entry(records.Cluster(incarnation), 1)}
        if found:
            entry = space.entry(found)
            told = json.loads(entry.value)
            epoch = records.Epoch(**{**told, "bounds": records.Bounds(**told["bounds"])})
            entries[key] = records.Entry(epoch, entry.revision)
        return records.View(entries)

    async def _find_base(self, *, within: float) -> bool:
        """Where the store's revisions begin; whether it is the store of this life."""
        request = places.transaction([], [places.get(self._space.founding)])
        record = places.first(places.ranges(await self._members.ask(places.TXN, request, within=within))[0])
        if record is None or not self._space.is_same(record):
            return False
        self._space = places.Space(self._space.root, places.created(record), self._space.incarnation)
        self._based = True
        return True


def _put(space: places.Space, key: str, record: object) -> places.Document:
    assert isinstance(record, records.Beat)
    content = json.dumps({"count": record.count}, separators=(",", ":")).encode()
    return places.put(space.key(_PROTOCOL + key), space.sealed(_PROTOCOL + key, content))
