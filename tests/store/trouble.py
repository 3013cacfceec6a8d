"""Members of etcd that are killed and frozen, one after the other, while something else goes on."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
from collections.abc import Iterator

from tests.store import members


class Trouble:
    """One member at a time is down, so that there is always a majority; `log` tells what was done."""

    def __init__(self, cluster: members.Cluster, dice: random.Random) -> None:
        self.log: list[str] = []
        self._cluster = cluster
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
                    if not self._over.wait(self._dice.uniform(0.2, 1.0)):
                        self._dice.choice([self._kill, self._freeze])(victim)
        except BaseException as error:
            self._failed = error
        finally:
            self._healed.set()
            self._gone.wait()

    def _kill(self, victim: members.Member) -> None:
        self.log.append(f"killed {victim.name}")
        victim.kill()
        self._over.wait(self._dice.uniform(0.0, 2.0))
        self._cluster.start(victim)
        self._cluster.wait()

    def _freeze(self, victim: members.Member) -> None:
        self.log.append(f"froze {victim.name}")
        victim.signal(signal.SIGSTOP)
        self._over.wait(self._dice.uniform(0.2, 3.0))
        victim.signal(signal.SIGCONT)
        self._cluster.wait()


@contextlib.contextmanager
def making(cluster: members.Cluster, dice: random.Random) -> Iterator[Trouble]:
    """Trouble, from now to the end of the context, which is the end of the cluster."""
    made = Trouble(cluster, dice)
    try:
        yield made
        made.stop()
    finally:
        made.end()
