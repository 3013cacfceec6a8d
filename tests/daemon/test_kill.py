from __future__ import annotations

import random

import pytest

from tests.daemon import kill
from tests.daemon.host import Host

pytestmark = [pytest.mark.guest, pytest.mark.fault]
ROUNDS = 6


def test_a_daemon_killed_at_any_moment_carries_on_and_no_guest_notices(tiny_host: Host, dice: random.Random):
    kill.prepare(tiny_host)
    for number in range(ROUNDS):
        kill.play(tiny_host, dice, number)
