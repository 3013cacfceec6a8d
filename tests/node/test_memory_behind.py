"""Memory that is written behind a guest that goes on."""

from __future__ import annotations

import contextlib
import pathlib
from typing import Any

import pytest

from bocage import errors
from bocage.engine.qemu import link, saved
from bocage.model import snapshot, vm, work
from tests.node import behind
from tests.node.house import House
from tests.node.test_relocating import small  # noqa: F401 - the fixture
from tests.node.test_snapshots import TWO, booted, counted, counts, done, house_log, qmp, whole

pytestmark = [behind.root_only, pytest.mark.guest, pytest.mark.slow]


@pytest.fixture(autouse=True)
def allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    behind.allowed(monkeypatch)


async def test_memory_is_that_of_the_instant_though_the_guest_goes_on_while_it_is_written(tiny_house: House):
    made = await booted(tiny_house, **TWO)
    await counts(tiny_house, made)
    await tiny_house.says(made, "^noted", send="echo heron >/tmp/note; echo noted")
    kept = done(await tiny_house.keep(made, "now", memory=True))
    assert kept.status.result["background"] is True
    one = (await tiny_house.kept(made))["now"]
    assert one.status.consistency is snapshot.Consistency.MEMORY
    assert await tiny_house.says(made, "^heron", send="cat /tmp/note"), "it goes on"
    await tiny_house.says(made, "^changed", send="echo egret >/tmp/note; echo changed")
    done(await tiny_house.go_back(made, "now"))
    done(await tiny_house.ask("vm.start", made))
    assert await tiny_house.says(made, "^(heron|egret)", send="cat /tmp/note") == "heron"
    await counted(tiny_house, made)
    done(await tiny_house.ask("vm.save", made))
    done(await tiny_house.ask("vm.start", made))
    assert await tiny_house.says(made, "^(heron|egret)", send="cat /tmp/note") == "heron"
    assert house_log(tiny_house, made).count("tiny: ready") == 1, "it was never booted again"
    done(await tiny_house.ask("vm.kill", made))
    await whole(tiny_house, made)


@pytest.mark.fault
async def test_a_guest_whose_memory_is_being_written_is_never_left_waiting_for_it(
    tiny_house: House,
    small: pathlib.Path,  # noqa: F811 - the fixture
    monkeypatch: pytest.MonkeyPatch,
):
    made = await booted(tiny_house)
    fill = "dd if=/dev/urandom of=/run/much bs=1M count=32 2>/dev/null; echo filled-$((1))"
    await tiny_house.says(made, "^filled-1", send=fill)
    at = await qmp(tiny_house, made)
    narrow, wide = small / "memory", tiny_house.homes.path / "memory"

    async def instant() -> None:
        assert await at.status() == "paused"

    class Enough(Exception): ...

    def enough(written: int, of: int) -> None:
        if written:
            raise Enough

    def told(written: int, of: int) -> None: ...

    async def goes_on() -> None:
        """Also where it writes what was not yet written to the file."""
        await tiny_house.says(made, "^filled-1", send=fill)
        await saved.break_off(at)
        assert await at.status() == "running"
        assert not list(small.iterdir())
        assert not wide.exists()

    async def ahead() -> None: ...

    # There is no room for all of it: that is seen before, and it is written the other way, which can fail.
    with pytest.raises(saved.SaveFailed, match="No space left"):
        await saved.write_running(at, narrow, instant=ahead, report=told)
    await goes_on()
    with pytest.raises(Enough):  # who waits for it is gone, as when the daemon goes down
        await saved.write_running(at, wide, instant=instant, report=enough)
    await goes_on()
    assert await saved.write_running(at, wide, instant=instant, report=told)
    assert wide.stat().st_size < 160 << 20, "what was taken and not needed is given back"
    assert await at.status() == "running"
    begin = saved._begin

    async def ends(at: link.Link, *rest: Any, **how: Any) -> None:
        """As when the guest switches itself off: QEMU does not always come to its end then."""
        await begin(at, *rest, **how)
        with contextlib.suppress(errors.Problem):
            await at.execute("quit")

    monkeypatch.setattr(saved, "_begin", ends)
    lost = await tiny_house.keep(made, "now", memory=True)
    assert lost.status.state is work.TaskState.FAILED
    assert await tiny_house.kept(made) == {}
    assert not list(tiny_house.place(made).snapshots.iterdir())
    assert (await tiny_house.becomes(made, vm.State.CRASHED, vm.State.STOPPED)).status.pid is None
    await whole(tiny_house, made)
