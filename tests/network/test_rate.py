"""What a tap lets through, counted at its other end."""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import AsyncIterator

import pytest

from bocage.network import kernel, rate, tap
from tests.network.machines import run

GUEST, OTHER = (bytes.fromhex(f"525400aa000{number}") for number in (1, 2))
_HEADER = 10  # bytes of a virtio header, that a tap of ours has before each frame
_FRAME = 1400
_SAVED_UP = 512 << 10  # bytes that have gone through before it is measured: more than any bucket holds
_MEASURED = 1 << 20


@pytest.fixture
async def taps(namespace: None) -> AsyncIterator[dict[bytes, int]]:
    """By MAC: the guests' ends of two taps on one bridge, `bt0` of the guest and `bt1` of the other."""
    run("ip", "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
    run("ip", "link", "set", "br0", "up")
    with contextlib.ExitStack() as undo:
        opened = {}
        for name, mac in (("bt0", GUEST), ("bt1", OTHER)):
            await tap.ensure(name, bridge="br0", owner=os.geteuid(), guest_mac=mac.hex(":"))
            opened[mac] = tap.open_queue(name)
            undo.callback(os.close, opened[mac])
        for mac, to in ((GUEST, OTHER), (OTHER, GUEST)):  # so that the bridge knows where each is
            os.write(opened[mac], frame(mac, to))
        yield opened


def frame(source: bytes, to: bytes) -> bytes:
    return bytes(_HEADER) + to + source + b"\x88\xb5" + bytes(_FRAME - 14)


def speed(taps: dict[bytes, int], source: bytes, to: bytes) -> float:
    """Bytes a second that come through when more is sent than may."""
    got, begun, bound = 0, 0.0, time.monotonic() + 60
    sent = frame(source, to)
    while got < _SAVED_UP + _MEASURED:
        assert time.monotonic() < bound
        for _ in range(20):
            with contextlib.suppress(BlockingIOError):
                os.write(taps[source], sent)
        if not select.select([taps[to]], [], [], 0.001)[0]:
            continue
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(taps[to], 4096):
                got += len(piece) - _HEADER if piece[_HEADER + 12 : _HEADER + 14] == b"\x88\xb5" else 0
                if not begun and got >= _SAVED_UP:
                    got, begun = _SAVED_UP, time.monotonic()
    return _MEASURED / (time.monotonic() - begun)


async def test_what_goes_to_a_guest_and_what_comes_from_it_is_held_to_its_rate(taps: dict[bytes, int]):
    await rate.hold("bt0", inward=1 << 20, outward=512 << 10)
    assert speed(taps, OTHER, GUEST) == pytest.approx(1 << 20, rel=0.1)
    assert speed(taps, GUEST, OTHER) == pytest.approx(512 << 10, rel=0.1)
    await rate.hold("bt0", inward=None, outward=1 << 20)
    assert speed(taps, GUEST, OTHER) == pytest.approx(1 << 20, rel=0.1)
    assert speed(taps, OTHER, GUEST) > 2 << 20


async def test_a_rate_can_be_held_again_and_leaves_nothing_behind(taps: dict[bytes, int]):
    for _ in range(2):
        await rate.hold("bt0", inward=4096, outward=4096)
    assert run("tc", "filter", "show", "dev", "bt0", "ingress").count("mirred") == 1
    await rate.hold("bt0", inward=None, outward=None)
    await rate.hold("bt0", inward=None, outward=None)
    shown = run("tc", "qdisc", "show", "dev", "bt0")
    assert "tbf" not in shown
    assert "ingress" not in shown
    assert not kernel.present(rate.beside("bt0"))
    await rate.hold("bt0", inward=None, outward=4096)
    await tap.remove("bt0")
    assert not kernel.present(rate.beside("bt0"))
