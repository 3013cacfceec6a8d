"""An engine against a plain dictionary for each revision, driven by hypothesis; here it is SQLite."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import os
import pathlib
import tempfile
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings, stateful
from hypothesis import strategies as st

from bocage.store import contract, sqlite

T = TypeVar("T")
Wish = tuple[dict[str, int], dict[str, bytes], list[str]]

KEYS = ["a", "a/", "a/1", "a/2", "a0", "b", "b/\U0010ffff", "é"]
PREFIXES = ["", "a", "a/", "b/\U0010ffff", "é", "none"]
keys = st.sampled_from(KEYS)
prefixes = st.sampled_from(PREFIXES)
values = st.binary(max_size=8) | st.just(b"x" * 5000)
places = st.integers(-4, 100)  # modulo what there is, so that the newest come often


@st.composite
def wishes(draw: st.DrawFn) -> tuple[dict[str, int | None], dict[str, bytes], list[str]]:
    """A transaction; None stands for the compare that will hold, unless another came first."""
    compare = draw(st.dictionaries(keys, st.none() | st.integers(0, 5), max_size=2))
    puts = draw(st.dictionaries(keys, values, max_size=4))
    deletes = draw(st.lists(keys.filter(lambda key: key not in puts), max_size=3))
    return compare, puts, deletes


@dataclasses.dataclass
class Paging:
    """A list that is read page by page, at its own pace."""

    prefix: str
    limit: int
    at: int
    after: str | None
    seen: list[contract.Entry]


@dataclasses.dataclass
class Watching:
    watch: contract.Watch
    prefix: str
    position: int


class Comparison(stateful.RuleBasedStateMachine):
    """The same is done to both; whatever can be seen of the store must be what the dictionaries say."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # no disk's time for what is no fault
        self.home = tempfile.TemporaryDirectory(prefix="bocage-test-", dir=memory)
        self.path = pathlib.Path(self.home.name) / "bocage.db"
        self.states: list[dict[str, contract.Entry]] = [{}]
        self.oldest = 0
        self.watches: list[Watching] = []
        self.pagings: list[Paging] = []
        self.store: contract.Store | None = None

    def run(self, doing: Coroutine[Any, Any, T]) -> T:
        async def bounded() -> T:
            async with asyncio.timeout(20):
                return await doing

        return self.runner.run(bounded())

    @property
    def live(self) -> contract.Store:
        assert self.store
        return self.store

    @property
    def newest(self) -> int:
        return len(self.states) - 1

    async def opened(self) -> contract.Store:
        return await sqlite.open(self.path, keep_revisions=self.keep)

    @stateful.initialize(keep=st.sampled_from([3, 9, 10_000]))
    def begin(self, keep: int) -> None:
        self.keep = keep
        self.store = self.run(self.opened())

    def teardown(self) -> None:
        if self.store:
            self.run(self.store.close())
        self.runner.close()
        self.home.cleanup()

    # --- writing

    def expected(self, wish: Wish) -> int | tuple[str, int, int]:
        """Do it to the dictionaries: the revision, or what the mismatch must say."""
        compare, puts, deletes = wish
        now = self.states[-1]
        for key in sorted(compare):
            found = now[key].revision if key in now else 0
            if found != compare[key]:
                return key, compare[key], found
        gone = set(deletes) & now.keys()
        if not puts and not gone:
            return self.newest
        revision = self.newest + 1
        state = {key: entry for key, entry in now.items() if key not in gone}
        for key, value in puts.items():
            state[key] = contract.Entry(key, value, revision, now[key].created if key in now else revision)
        self.states.append(state)
        return revision

    @stateful.rule(drawn=st.lists(wishes(), min_size=1, max_size=6))
    def apply_at_once(self, drawn: list[tuple[dict[str, int | None], dict[str, bytes], list[str]]]) -> None:
        now = self.states[-1]
        wanted: list[Wish] = [
            (
                {k: (now[k].revision if k in now else 0) if r is None else r for k, r in compare.items()},
                puts,
                deletes,
            )
            for compare, puts, deletes in drawn
        ]

        async def apply(wish: Wish) -> int | tuple[str, int, int]:
            compare, puts, deletes = wish
            try:
                return await self.live.apply(compare=compare, puts=puts, deletes=deletes)
            except contract.Mismatch as error:
                return error.key, error.expected, error.found

        async def all_at_once() -> list[int | tuple[str, int, int]]:
            return list(await asyncio.gather(*map(apply, wanted)))

        assert self.run(all_at_once()) == [self.expected(wish) for wish in wanted]
        self.oldest = max(self.oldest, self.newest - self.keep)

    @stateful.rule(place=places)
    def compact(self, place: int) -> None:
        revision = place % (self.newest + 2)
        try:
            self.run(self.live.compact(revision))
        except contract.FutureRevision:
            assert revision == self.newest + 1
        else:
            assert revision <= self.newest
            self.oldest = max(self.oldest, revision)

    @stateful.rule()
    def reopen(self) -> None:
        self.run(self.live.close())
        for watching in self.watches:
            with pytest.raises(StopAsyncIteration):
                self.run(self.following(watching))
        self.watches.clear()
        self.store = self.run(self.opened())

    # --- reading

    def matching(self, prefix: str, at: int) -> list[contract.Entry]:
        return [entry for key, entry in sorted(self.states[at].items()) if key.startswith(prefix)]

    @stateful.rule(key=keys)
    def get(self, key: str) -> None:
        assert self.run(self.live.get(key)) == self.states[-1].get(key)

    @stateful.rule(prefix=prefixes, place=places)
    def list_at(self, prefix: str, place: int) -> None:
        at = place % (self.newest + 2)
        try:
            page = self.run(self.live.list(prefix, at=at))
        except contract.Compacted:
            assert at < self.oldest
        except contract.FutureRevision:
            assert at == self.newest + 1
        else:
            assert self.oldest <= at
            assert page == contract.Page(self.matching(prefix, at), at, None)

    @stateful.rule(prefix=prefixes, limit=st.integers(1, 4), after=st.none() | keys)
    def list_first_page(self, prefix: str, limit: int, after: str | None) -> None:
        page = self.run(self.live.list(prefix, limit=limit, after=after))
        matching = [entry for entry in self.matching(prefix, self.newest) if after is None or entry.key > after]
        assert page.entries == matching[:limit]
        assert page.revision == self.newest
        assert page.after == (matching[limit - 1].key if len(matching) > limit else None)
        if after is None and page.after is not None:
            self.pagings.append(Paging(prefix, limit, page.revision, page.after, page.entries))

    @stateful.precondition(lambda self: self.pagings)
    @stateful.rule(place=places)
    def list_next_page(self, place: int) -> None:
        paging = self.pagings[place % len(self.pagings)]
        try:
            page = self.run(self.live.list(paging.prefix, limit=paging.limit, after=paging.after, at=paging.at))
        except contract.Compacted:
            assert paging.at < self.oldest
            self.pagings.remove(paging)
            return
        assert self.oldest <= paging.at == page.revision
        paging.seen += page.entries
        paging.after = page.after
        if page.after is None:
            assert paging.seen == self.matching(paging.prefix, paging.at)
            self.pagings.remove(paging)

    # --- watching

    @stateful.rule(prefix=prefixes, place=places)
    def watch(self, prefix: str, place: int) -> None:
        since = place % (self.newest + 1)
        self.watches.append(Watching(self.live.watch(prefix, since=since), prefix, since))

    async def following(self, watching: Watching) -> list[contract.Change] | None:
        """The watch's next item; None when it has nothing, whose wait is then given up."""
        waiting = asyncio.ensure_future(anext(watching.watch))
        for _ in range(4):
            await asyncio.sleep(0)
        if not waiting.done():
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await waiting
            return None
        return waiting.result()

    def changes(self, prefix: str, since: int) -> list[contract.Change]:
        return [
            contract.Change(key, revision, new.get(key))
            for revision, (old, new) in enumerate(itertools.pairwise(self.states[since:]), since + 1)
            for key in sorted(old.keys() | new.keys())
            if key.startswith(prefix) and old.get(key) != new.get(key)
        ]

    @stateful.precondition(lambda self: self.watches)
    @stateful.rule(place=places)
    def read_watch(self, place: int) -> None:
        watching = self.watches[place % len(self.watches)]
        expected = self.changes(watching.prefix, watching.position)
        try:
            item = self.run(self.following(watching))
        except contract.Compacted:
            assert watching.position < self.oldest
            self.watches.remove(watching)
            return
        if item is None:
            assert expected == []
            watching.position = self.newest
            return
        assert item == [change for change in expected if change.revision <= item[-1].revision]
        watching.position = item[-1].revision

    @stateful.precondition(lambda self: self.watches)
    @stateful.rule(place=places)
    def close_watch(self, place: int) -> None:
        watching = self.watches.pop(place % len(self.watches))
        self.run(watching.watch.aclose())
        with pytest.raises(StopAsyncIteration):
            self.run(self.following(watching))

    @stateful.invariant()
    def revision_is_right(self) -> None:
        if self.store:
            assert self.run(self.live.revision()) == self.newest


TestComparison = Comparison.TestCase
TestComparison.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck), database=None
)
