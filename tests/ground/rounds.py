"""Rounds: something befalls a site, and ends; afterwards all must be as it should (`site.Site.check`).

Each is made of chance alone, so that any one can be played again. `SHORT` are those that a test can wait for.
"""

from __future__ import annotations

import contextlib
import random
import subprocess
import time
from collections.abc import Callable

from tests.ground import building, faults, machine, reach
from tests.ground.site import Site

Deed = Callable[[Site, random.Random], None]
_ACT_BOUND = 240.0  # seconds


def _victim(site: Site, dice: random.Random) -> machine.Machine:
    """A host that has a VM, most of the time."""
    found = [host for host, _ in site.qemus()[dice.choice(site.names)]]
    return site.here.machine(found[0]) if found and dice.random() < 0.7 else dice.choice(site.machines)


def _others(site: Site, one: machine.Machine) -> list[machine.Machine]:
    return [other for other in site.machines if other.name != one.name]


def power_cut(site: Site, dice: random.Random) -> None:
    _victim(site, dice).off()
    time.sleep(dice.uniform(0, 8))


def power_cut_with_its_bmc(site: Site, dice: random.Random) -> None:
    victim = _victim(site, dice)
    with faults.bmc_dead(victim):
        victim.off()
        time.sleep(dice.uniform(0, 12))


def slow_bmc(site: Site, dice: random.Random) -> None:
    victim = _victim(site, dice)
    delay = dice.uniform(1, 11)
    victim.slow_bmc(delay)
    with faults.frozen(victim):
        time.sleep(delay + dice.uniform(2, 8))
    time.sleep(delay)  # a second order would hit the next life
    victim.slow_bmc(0)


def bmcs_swapped(site: Site, dice: random.Random) -> None:
    """Nobody switches off the wrong one, or takes its word for the other's."""
    known = len(site.failovers())
    victim = _victim(site, dice)
    other = dice.choice(_others(site, victim))
    with faults.bmcs_swapped(victim, other):
        life = _life(other)
        victim.off()
        time.sleep(dice.uniform(4, 12))
        assert _life(other) == life, f"{other.name} was switched off in place of {victim.name}"
        assert not [one for one in site.failovers()[known:] if one["status"]["proof"]]


def _life(one: machine.Machine) -> str:
    return one.run("cat", "/proc/sys/kernel/random/boot_id").stdout


def cut_off(site: Site, dice: random.Random) -> None:
    with faults.parted(site.here, _victim(site, dice)):
        time.sleep(dice.uniform(0.5, 10))


def hears_nobody(site: Site, dice: random.Random) -> None:
    with faults.parted(site.here, _victim(site, dice), ways="in"):
        time.sleep(dice.uniform(0.5, 10))


def heard_by_nobody(site: Site, dice: random.Random) -> None:
    with faults.parted(site.here, _victim(site, dice), ways="out"):
        time.sleep(dice.uniform(0.5, 10))


def two_cut_from_each_other(site: Site, dice: random.Random) -> None:
    one = _victim(site, dice)
    with faults.parted_pair(site.here, one, dice.choice(_others(site, one))):
        time.sleep(dice.uniform(0.5, 15))


def etcd_killed(site: Site, dice: random.Random) -> None:
    for _ in range(dice.randint(1, 4)):
        faults.kill(dice.choice(site.machines), faults.ETCD)
        time.sleep(dice.uniform(0, 4))


def daemon_killed(site: Site, dice: random.Random) -> None:
    _killed(site, dice, faults.DAEMON, most=4)


def beat_killed(site: Site, dice: random.Random) -> None:
    _killed(site, dice, faults.BEAT, most=3)


def guard_killed(site: Site, dice: random.Random) -> None:
    _killed(site, dice, faults.GUARD, most=3)


def _killed(site: Site, dice: random.Random, what: tuple[str, ...], *, most: int) -> None:
    """Again and again."""
    for _ in range(dice.randint(1, most)):
        faults.kill(_victim(site, dice), what)
        time.sleep(dice.uniform(0, 3))


def leader_killed_in_mid_failover(site: Site, dice: random.Random) -> None:
    leader = site.leader()
    dice.choice(_others(site, leader)).off()
    time.sleep(dice.uniform(1, 4))
    faults.kill(leader, faults.DAEMON)
    if dice.random() < 0.5:
        faults.kill(leader, faults.BEAT)
    time.sleep(dice.uniform(0, 6))


def frozen(site: Site, dice: random.Random) -> None:
    victim = _victim(site, dice)
    with faults.frozen(victim):
        time.sleep(dice.uniform(0.5, 10))


def slow_fsync(site: Site, dice: random.Random) -> None:
    """Nobody is fenced for it; what is asked for meanwhile is done in the end."""
    known, pids = len(site.failovers()), site.qemus()
    name = dice.choice(site.names)
    note = f"note {dice.random()}"
    with faults.slow_fsync(site.here, 2.0):
        time.sleep(dice.uniform(5, 15))
        with contextlib.suppress(*reach.Unreachable), site.asked() as asked:
            asked.vms.change(name, {"notes": note})
    reach.well(site.here)
    assert len(site.failovers()) == known
    assert site.qemus() == pids

    def noted() -> bool:
        with contextlib.suppress(*reach.Unreachable, building.Failed), site.asked() as asked:
            asked.vms.change(name, {"notes": note})
            return bool(asked.vms.get(name)["metadata"]["notes"] == note)
        return False

    building.until("it is noted", noted, within=_ACT_BOUND)


def etcd_without_room(site: Site, dice: random.Random) -> None:
    with faults.full_disk(dice.choice(site.machines)):
        time.sleep(dice.uniform(5, 20))


def clock_wrong_by_an_hour(site: Site, dice: random.Random) -> None:
    victim = _victim(site, dice)
    library = victim.home / "wrong_clock.so"
    subprocess.run(
        ["tcc", "-shared", "-o", str(library), str(machine.PROJECT / "tests" / "daemon" / "wrong_clock.c")], check=True
    )
    wrong = {"LD_PRELOAD": "/srv/bocage/wrong_clock.so", "WRONG_BY": str(dice.choice([-3600, 3600]))}
    for environment in (wrong, {}):
        victim.set_environment(**environment)
        victim.off()
        time.sleep(dice.uniform(0, 5))
        site.well()
        if environment:
            faults.kill(dice.choice(site.machines), faults.DAEMON)
            dice.choice(_others(site, victim)).off()
            time.sleep(dice.uniform(0, 5))
            site.well()


def a_fifth_of_all_packets_lost(site: Site, dice: random.Random) -> None:
    with faults.lossy(site.here, 20):
        time.sleep(dice.uniform(5, 20))


def switch_off(site: Site, dice: random.Random, *, seconds: tuple[float, float] = (170, 190)) -> None:
    """Nothing is killed, nobody is switched off, the guests go on."""
    lives, pids = [_life(one) for one in site.machines], site.qemus()
    with faults.switch_off(site.here):
        time.sleep(dice.uniform(*seconds))
    reach.well(site.here)
    assert [_life(one) for one in site.machines] == lives
    assert site.qemus() == pids


def switch_off_shortly(site: Site, dice: random.Random) -> None:
    switch_off(site, dice, seconds=(3, 20))


def whole_site(site: Site, dice: random.Random) -> None:
    """All die together and come back in any order; one of them never (it does after the round)."""
    for one in dice.sample(site.machines, len(site.machines)):
        one.off()
    back = dice.sample(site.machines, len(site.machines))
    if dice.random() < 0.5:
        back.pop()
    for one in back:
        time.sleep(dice.uniform(0, 10))
        one.on()

    def all_run() -> bool:
        return all(len(found) == 1 for found in site.qemus().values())

    building.until("all that should run runs, without a person", all_run, within=_ACT_BOUND)


SHORT: tuple[Deed, ...] = (
    power_cut, cut_off, hears_nobody, heard_by_nobody, two_cut_from_each_other, etcd_killed, daemon_killed, beat_killed,
    guard_killed, leader_killed_in_mid_failover, frozen, bmcs_swapped,
)  # fmt: skip
LONG: tuple[Deed, ...] = (
    power_cut_with_its_bmc, slow_bmc, slow_fsync, etcd_without_room, clock_wrong_by_an_hour,
    a_fifth_of_all_packets_lost, switch_off, switch_off_shortly, whole_site,
)  # fmt: skip


def play(site: Site, deed: Deed, dice: random.Random) -> list[dict[str, object]]:
    """One round; what its failovers took."""
    known = len(site.failovers())
    deed(site, dice)
    site.check()
    return site.phases(known)
