"""Members of etcd that are killed, frozen or cut off, one after the other, while something else goes on."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
from collections.abc import Callable, Iterator, Sequence

from tests.network.machines import run
from tests.store import members

Deed = Callable[[members.Cluster, members.Member], contextlib.AbstractContextManager[None]]


class Trouble:
    """One member at a time is down, so that there is always a majority; `log` tells what was done."""

    def __init__(self, cluster: members.Cluster, dice: random.Random, deeds: Sequence[Deed]) -> None:
        self.log: list[str] = []
        self._cluster = cluster
        self._deeds = deeds
        self._dice = dice
        self._over = threading.Event()
        self._healed = threading.Event()
        self._gone = threading.Event()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="trouble", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """All members are there again, and stay."""
        self._over.set()
        assert self._healed.wait(members.BOUND)
        if self._failed:
            raise self._failed

    def end(self) -> None:
        """Now the members that were started again die, too: with the thread that did it."""
        self._over.set()
        self._gone.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._over.is_set():
                for victim in self._dice.sample(self._cluster.members, len(self._cluster.members)):
                    if self._over.wait(self._dice.uniform(0.2, 1.0)):
                        break
                    deed = self._dice.choice(self._deeds)
                    self.log.append(f"{victim.name} {deed.__name__}")
                    with deed(self._cluster, victim):
                        self._over.wait(self._dice.uniform(0.1, 3.0))
                    self._cluster.wait()
        except BaseException as error:
            self._failed = error
        finally:
            self._healed.set()
            self._gone.wait()


@contextlib.contextmanager
def killed(cluster: members.Cluster, victim: members.Member) -> Iterator[None]:
    victim.kill()
    yield
    cluster.start(victim)


@contextlib.contextmanager
def frozen(_: members.Cluster, victim: members.Member) -> Iterator[None]:
    victim.signal(signal.SIGSTOP)
    yield
    victim.signal(signal.SIGCONT)


@contextlib.contextmanager
def cut(_: members.Cluster, victim: members.Member) -> Iterator[None]:
    """It reaches no other member; clients reach it still."""
    run("nft", f"add rule bridge cuts between iifname {victim.seat.port} drop")
    run("nft", f"add rule bridge cuts between oifname {victim.seat.port} drop")
    yield
    run("nft", "flush chain bridge cuts between")


@contextlib.contextmanager
def muffled(_: members.Cluster, victim: members.Member) -> Iterator[None]:
    """It hears no other member; they hear it."""
    run("nft", f"add rule bridge cuts between oifname {victim.seat.port} drop")
    yield
    run("nft", "flush chain bridge cuts between")


@contextlib.contextmanager
def unplugged(_: members.Cluster, victim: members.Member) -> Iterator[None]:
    """Nobody reaches it."""
    run("ip", "link", "set", victim.seat.port, "down")
    yield
    run("ip", "link", "set", victim.seat.port, "up")


@contextlib.contextmanager
def making(cluster: members.Cluster, dice: random.Random, deeds: Sequence[Deed]) -> Iterator[Trouble]:
    """Trouble, from now to the end of the context, which is the end of the cluster."""
    made = Trouble(cluster, dice, deeds)
    try:
        yield made
        made.stop()
    finally:
        made.end()
