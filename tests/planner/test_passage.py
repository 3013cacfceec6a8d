"""What keeps a VM on its host, and which host it goes to."""

from __future__ import annotations

import pytest

from bocage.model import board, ground
from bocage.planner import passage
from tests.planner import things, worlds

SHARED = ground.Storage.model_validate(
    {
        "metadata": {"name": "array", "uid": things.STORAGE},
        "spec": {"kind": "shared", "path": "/srv/array"},
    }
)


def kept_by(machine, on, *, running):
    return [type(one) for one in passage.obstacles(machine, on, running=running)]


def changed(machine, **fields):
    return machine.model_copy(update={"spec": machine.spec.model_copy(update=fields)})


def test_what_one_host_alone_has_keeps_a_vm():
    plain = things.machine()
    assert kept_by(plain, [SHARED], running=True) == []
    assert kept_by(plain, [SHARED, things.storage()], running=False) == [passage.LiesThere]
    usb = changed(plain, usb=(board.UsbDevice(name="usb0", id="0529:0001", unit=1),))
    assert kept_by(usb, [SHARED], running=True) == [passage.HasDevice]
    assert kept_by(usb, [SHARED], running=False) == []
    tpm = changed(plain, hardware=plain.spec.hardware.model_copy(update={"tpm": board.Tpm.CRB}))
    assert kept_by(tpm, [SHARED], running=True) == [passage.HasTpm]
    assert kept_by(tpm, [SHARED], running=False) == []


def test_it_goes_where_it_is_sent_or_where_it_suits_best_and_says_why_not():
    there = worlds.host("there", storages=("other",))
    full = worlds.host("full", memory=1)
    of = worlds.world(
        worlds.host("here"), worlds.host("roomy"), there, full, worlds.vm("web", memory=4, at="here", running=True)
    )
    assert passage.choose("web", "web", of, None) == "roomy"
    assert passage.choose("web", "web", of, "roomy") == "roomy"
    with pytest.raises(passage.IsThere):
        passage.choose("web", "web", of, "here")
    with pytest.raises(passage.Refused, match="does not reach the storage array"):
        passage.choose("web", "web", of, "there")
    with pytest.raises(passage.Refused, match="full"):
        passage.choose("web", "web", of, "full")
    drained = of.model_copy(update={"hosts": tuple(_drained(one) for one in of.hosts)})
    with pytest.raises(passage.Nowhere, match=r"roomy is draining.*there does not reach"):
        passage.choose("web", "web", drained, None)


def _drained(host):
    return host.model_copy(update={"state": "draining"}) if host.name == "roomy" else host
