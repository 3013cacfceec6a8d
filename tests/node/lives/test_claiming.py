"""What becomes of a grant that nobody waits for any more."""

from __future__ import annotations

import asyncio
import pathlib

import pytest

from bocage import ledger
from bocage.node.lives import array, claims, lives, setting
from bocage.protocol import owning, records, timing
from bocage.store.etcd import access
from tests.node.lives import ground
from tests.store import reference

VM = "0c5e6a4e-6b0f-4b57-9b43-3f0f6f6f0a02"
LIFE = records.Life(ground.HOST, "first", 3, 40)


class _Array(array.Array):
    def __init__(self) -> None: ...

    async def root(self, storage: str, *, replicated: bool = False) -> pathlib.Path | None:
        return pathlib.Path("/srv/array")


async def test_a_grant_that_comes_as_its_start_is_given_up_leaves_the_vm_free_to_be_started_again(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = setting.Setting(
        host=ground.HOST,
        runtime=tmp_path,
        kept=tmp_path / "life.json",
        logs=tmp_path,
        access=access.Access(("http://127.0.0.1:1",)),
        root="/bocage/",
        profile=timing.LAN,
        bounds=records.Bounds(),
    )
    own = lives.Lives(where, ledger.Ledger(reference.MemoryStore(), "first"), _Array())
    monkeypatch.setattr(own, "_no_life", lambda: None)
    starting = asyncio.create_task(own.claim(VM, "array"))
    while VM not in own._wanted:
        await asyncio.sleep(0)
    one = own._owning[VM]
    key = records.owner_of(VM)
    view = records.View(
        {
            records.CLUSTER: records.Entry(records.Cluster("first"), 1),
            key: records.Entry(records.Owner(ground.HOST, 5), 9),
        }
    )
    (ask,) = one.seen(view, LIFE, 10.0, 10.1)
    assert isinstance(ask, records.Ask)
    own._perform(one, one.answered(ask.attempt, records.Applied(10), LIFE))
    starting.cancel()  # in the same moment
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert one.phase is owning.Phase.LEAVING
    assert VM not in own._wanted


def test_a_claim_that_is_settled_twice_ends_nothing_of_a_later_one() -> None:
    one = owning.Owning(VM, ground.HOST, timing.LAN)
    one.found(4)
    granted = claims.Granted(VM, 4, 1)
    claim = claims.Claim(one, granted, None, "/srv/array", lambda own, acts: None, lambda: LIFE)  # type: ignore[arg-type]
    claim.settle()
    assert one.phase is owning.Phase.RUNNING
