"""The writer: one transaction after the other, each written at most once however often it is sent.

Every transaction compares and writes the pen's *mark*, one key of this client that is never deleted. The first attempt
that succeeds moves the mark, and with it all other attempts of the same transaction fail for ever; they find their
name in the mark and so know that it was written. See docs/decisions/21-etcd.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import secrets
from collections.abc import Mapping

from bocage.store import contract, line
from bocage.store.etcd import founding, gateway, records

GRACE = 0.5  # seconds for the attempts that are behind, before they are made void


@dataclasses.dataclass(slots=True, frozen=True)
class Written:
    """It was written, or it holds and there was nothing to write, as of `revision`.

    `sent`, on CLOCK_BOOTTIME, is not later than the attempt that did it was sent.
    """

    revision: int
    sent: float


@dataclasses.dataclass(slots=True, frozen=True)
class _Refused:
    """It was not written by this attempt. `final`: nor can another one write it."""

    mismatch: contract.Mismatch | None  # None: there was nothing to write
    revision: int
    final: bool


class _Passed(Exception):
    """Another process of this client wrote meanwhile; ours was not written, and cannot be any more."""


class Pen:
    """Writes in the name of `client`, a name that no other process has at the same time."""

    def __init__(self, by: gateway.Gateway, space: records.Space, client: str, *, mark: int) -> None:
        self._gateway = by
        self._space = space
        self._name = space.pen(client)
        self._mark = mark  # etcd's revision of it
        self._unknown = ""  # the transaction whose end nobody knows

    async def write(self, wish: line.Transaction, *, until: float) -> Written:
        """Write it, by the loop's clock `until`.

        Raises contract.Mismatch, contract.Unsettled, gateway.Silent, gateway.Refused and contract.Replaced.
        """
        if not wish.puts and not wish.deletes:
            return await self._compare(wish, until)
        if self._unknown:
            with contextlib.suppress(contract.Unsettled):  # its caller was told so
                await self._void(self._unknown, until)
            self._unknown = ""
        while True:
            identity = secrets.token_hex(8)
            try:
                return await self._write(wish, identity, until)
            except _Passed:
                continue

    async def _compare(self, wish: line.Transaction, until: float) -> Written:
        """Nothing is written: any answer counts, and none can come too late."""
        request = records.transaction([self._space.same, *self._holds(wish)], self._look([]), self._look(wish.compare))
        async with self._gateway.race(records.TXN, request, harmless=True) as race:
            answer = await race.answer(until=until)
        if not records.succeeded(answer.document):
            raise self._mismatch(wish, answer.document)
        founding.seen(self._space, answer.document)
        return Written(self._space.revision(records.revision(answer.document)), answer.sent)

    async def _write(self, wish: line.Transaction, identity: str, until: float) -> Written:
        async with self._gateway.race(records.TXN, self._request(wish, identity)) as race:
            try:
                answer = await race.answer(until=until)
                outcome = self._read(wish, identity, answer, race.began)
                if isinstance(outcome, _Refused) and not outcome.final:
                    # One that is behind may yet find that it holds: wait for it, or see that it cannot.
                    for late in await race.rest(until=asyncio.get_running_loop().time() + GRACE):
                        if isinstance(found := self._read(wish, identity, late, race.began), Written):
                            outcome = found
                            break
                    if isinstance(outcome, _Refused) and race.loose:
                        after = await self._void(identity, until, race.began)
                        outcome = after or dataclasses.replace(outcome, revision=self._space.revision(self._mark))
            except contract.Failed as failed:
                if not race.loose:
                    raise
                self._unknown = identity
                raise contract.Unsettled(reason=failed.reason) from failed
        if isinstance(outcome, Written):
            return outcome
        if outcome.mismatch:
            raise outcome.mismatch
        return Written(outcome.revision, answer.sent)

    async def _void(self, identity: str, until: float, began: float = 0.0) -> Written | None:
        """See to it that the transaction `identity` is not written any more; when it was, say so.

        Raises contract.Unsettled, gateway.Silent, gateway.Refused and contract.Replaced.
        """
        own = secrets.token_hex(8)
        request = records.transaction(
            [self._space.same, self._unmoved()], [self._signed(own)], self._look([], mark=True)
        )
        async with self._gateway.race(records.TXN, request) as race:
            answer = (await race.answer(until=until)).document
        if records.succeeded(answer):
            self._mark = records.revision(answer)
            return None
        mark = records.first(founding.seen(self._space, answer)[0])
        if _signature(mark).get("id") == own:
            self._mark = records.modified(mark)
            return None
        try:
            moved = self._moved(mark, identity)
        except _Passed:
            return None
        return Written(self._space.revision(moved), began)

    def _request(self, wish: line.Transaction, identity: str) -> records.Document:
        where = {name: self._space.key(name) for name in sorted(wish.puts.keys() | wish.deletes)}
        writes = [self._signed(identity)]
        for name, place in where.items():
            content = wish.puts.get(name)
            writes.append(
                records.delete(place) if content is None else records.put(place, self._space.sealed(name, content))
            )
        if not wish.puts:  # then the mark may only move when there is something to delete
            absent = [records.is_absent(place) for place in where.values()]
            writes = [records.nested(records.transaction(absent, [], writes))]
        compare = [self._space.same, self._unmoved(), *self._holds(wish)]
        return records.transaction(compare, writes, self._look(wish.compare, mark=True))

    def _read(self, wish: line.Transaction, identity: str, answer: gateway.Answer, began: float) -> Written | _Refused:
        document = answer.document
        revision = records.revision(document)
        if records.succeeded(document):
            if not wish.puts and document["responses"][0]["response_txn"].get("succeeded"):
                return _Refused(None, self._space.revision(revision), final=False)
            self._mark = revision
            return Written(self._space.revision(revision), answer.sent)
        mark = records.first(founding.seen(self._space, document)[0])
        if records.modified(mark) != self._mark:
            return Written(self._space.revision(self._moved(mark, identity)), began)
        mismatch = self._mismatch(wish, document)
        newest = self._space.revision(revision)
        final = any(  # a key never comes back to a revision that it had; but it may become absent again
            0 < wish.compare[name] <= newest and wish.compare[name] != found
            for name, found in self._found(wish, document).items()
        )
        return _Refused(mismatch, newest, final)

    def _moved(self, mark: records.Document | None, identity: str) -> int:
        """etcd's revision at which `identity` moved the mark. Raises _Passed and contract.Unsettled."""
        signature, previous, self._mark = _signature(mark), self._mark, records.modified(mark)
        if signature.get("id") == identity:
            return self._mark
        if signature.get("after") == previous:  # it stood where we left it until then
            raise _Passed
        raise contract.Unsettled(reason="another process writes with the same name")

    def _mismatch(self, wish: line.Transaction, answer: records.Document) -> contract.Mismatch:
        founding.seen(self._space, answer)
        for name, found in self._found(wish, answer).items():
            if found != wish.compare[name]:
                return contract.Mismatch(key=name, expected=wish.compare[name], found=found)
        raise contract.Failed(reason="a transaction was refused whose compares hold")

    def _found(self, wish: line.Transaction, answer: records.Document) -> dict[str, int]:
        """The revisions of the keys that were compared, by key; they were read last."""
        found = records.ranges(answer)[-len(wish.compare) :] if wish.compare else []
        return {
            name: self._space.revision(records.modified(records.first(one)))
            for name, one in zip(sorted(wish.compare), found, strict=True)
        }

    def _look(self, keys: Mapping[str, int] | list[str], *, mark: bool = False) -> list[records.Document]:
        """Read which store it is, the mark, and the revisions of keys."""
        return [
            records.get(self._space.founding),
            *([records.get(self._name)] if mark else []),
            *(records.get(self._space.key(name), only_key=True) for name in sorted(keys)),
        ]

    def _holds(self, wish: line.Transaction) -> list[records.Document]:
        return [self._space.at(name, revision) for name, revision in wish.compare.items()]

    def _unmoved(self) -> records.Document:
        return records.changed_at(self._name, self._mark)

    def _signed(self, identity: str) -> records.Document:
        return records.put(self._name, json.dumps({"id": identity, "after": self._mark}).encode())


def _signature(mark: records.Document | None) -> dict[str, object]:
    try:
        found = json.loads(records.value(mark or {}))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
