"""Which of a VM's operations is done next."""

from __future__ import annotations

from typing import Any, cast

from bocage.model import work
from bocage.node import clock, tasks
from bocage.node.life import operations


def run(action: str, *, between: bool = False, rests: float = 0.0) -> tasks.Run:
    task = work.task(action)
    made = tasks.Run(cast("Any", None), task)
    made._status = made._status.model_copy(update={"result": {"between": True} if between else {}})
    made.rests = rests
    return made


def test_the_oldest_is_first_but_for_one_that_rests():
    resting, waiting = run("vm.snapshot-delete", rests=clock.boottime() + 1000), run("vm.cd-change")
    assert operations.first([resting, waiting], running=True, comes_before=False) is waiting
    assert operations.first([resting], running=True, comes_before=False) is None


def test_what_gives_way_does_so():
    merging, plain = run("vm.snapshot-delete"), run("vm.cd-change")
    assert operations.first([merging, plain], running=True, comes_before=True) is plain
    assert operations.first([merging], running=True, comes_before=True) is None


def test_nothing_comes_before_a_move_that_stands_between_its_places():
    older, move = run("vm.cd-change"), run("vm.move", between=True)
    for comes_before in (False, True):
        assert operations.first([older, move], running=True, comes_before=comes_before) is move
    assert operations.first([older, move], running=False, comes_before=False) is older
