"""Live migration as QEMU does it: one stream over a connection that we make, TLS with a pre-shared key inside QEMU.

QEMU is in no network of its own, so the connection comes by descriptor; it has no certificate, since whoever broke
out of a guest would have it too. With `return-path` the source has only completed when the target has loaded all.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any

from bocage import errors
from bocage.engine import base
from bocage.engine.passing import Limits, Progress, Stage
from bocage.engine.qemu import link, paths, qmp
from bocage.words import N_

_CREDENTIALS = "passage"
_NAME = "passage"  # of the descriptor
_KEY_FILE = "keys.psk"  # QEMU knows this name alone
_USER = "qemu"  # the name that QEMU gives itself
_UNBOUNDED = 1 << 40  # bytes a second
_PAUSE = 0.02  # seconds between two looks
_ANNOUNCED = {"initial": 50, "max": 550, "rounds": 5, "step": 100}  # milliseconds; QEMU's own defaults
_CHOSEN = ("return-path", "events", "late-block-activate", "pause-before-switchover", "auto-converge")
_STAGES = {
    "none": Stage.NONE,
    "completed": Stage.COMPLETED,
    "failed": Stage.FAILED,
    "cancelled": Stage.FAILED,
    "pre-switchover": Stage.STANDS,
    "device": Stage.ENDING,
}
_UNDER_WAY = (Stage.COPYING, Stage.STANDS, Stage.ENDING)


class PassageFailed(base.Error, errors.Unavailable):
    """It runs where it ran."""

    type = "vm-passage-failed"
    text = N_("QEMU could not send the memory: {reason}")
    reason: str


class Passing:
    """One machine's part, at either end."""

    def __init__(self, at: link.Link, where: paths.Paths) -> None:
        self._link, self._where = at, where
        self._heard = asyncio.Event()

    def heard(self) -> None:
        """The stage is another one."""
        self._heard.set()

    async def await_memory(self, key: str) -> None:
        await self._choose(key, "server", Limits())

    async def receive(self, connection: int) -> None:
        await self._link.name_descriptor(connection, _NAME)
        await self._link.execute("migrate-incoming", {"uri": f"fd:{_NAME}"})

    async def send(self, connection: int, key: str, limits: Limits) -> None:
        try:
            await self._choose(key, "client", limits)
            await self._link.name_descriptor(connection, _NAME)
            await self._link.execute("migrate", {"uri": f"fd:{_NAME}"})
        except qmp.CommandFailed as error:
            raise PassageFailed(reason=error.description) from error

    async def look(self) -> Progress:
        told = await self._link.execute("query-migrate")
        ram = told.get("ram", {})
        stage = _STAGES.get(str(told.get("status", "none")), Stage.COPYING)
        if stage is not Stage.NONE and stage is not Stage.COPYING:
            self._forget_key()
        return Progress(
            stage=stage,
            done=int(ram.get("transferred", 0)),
            left=int(ram.get("remaining", 0)),
            rate=int(float(ram.get("mbps", 0)) * 125_000),
            dirty=int(ram.get("dirty-pages-rate", 0)) * int(ram.get("page-size", 0)),
            round=int(ram.get("dirty-sync-count", 0)),
            throttle=int(told.get("cpu-throttle-percentage", 0)),
            why=str(told.get("error-desc", "")),
        )

    async def changed(self, within: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._heard.wait()
        self._heard.clear()

    async def end(self) -> None:
        await self._link.execute("migrate-continue", {"state": "pre-switchover"})

    async def cancel(self) -> bool:
        deadline = time.monotonic() + link.BOUND
        while (stage := (await self.look()).stage) in _UNDER_WAY:
            if time.monotonic() > deadline:
                raise errors.TimedOut(what="QEMU", bound=link.BOUND)
            with contextlib.suppress(qmp.CommandFailed):
                await self._link.execute("migrate_cancel")
            await self.changed(_PAUSE)
        self._forget_key()
        if stage is Stage.COMPLETED:
            return False
        await settle(self._link)
        return True

    async def go_on(self, *, runs: bool) -> None:
        if runs:
            await self._link.execute("cont")

    async def tidy(self) -> None:
        with contextlib.suppress(qmp.CommandFailed):
            await self._link.execute("announce-self", _ANNOUNCED)
        self._forget_key()
        await settle(self._link)

    async def _choose(self, key: str, endpoint: str, limits: Limits) -> None:
        await settle(self._link)
        await asyncio.to_thread(self._write_key, key)
        credentials = {
            "qom-type": "tls-creds-psk",
            "id": _CREDENTIALS,
            "endpoint": endpoint,
            "dir": str(self._where.io),
        }
        await self._link.execute("object-add", credentials)
        await _capabilities(self._link, dict.fromkeys(_CHOSEN, True) | {"background-snapshot": False})
        parameters = {
            "tls-creds": _CREDENTIALS,
            "max-bandwidth": limits.bandwidth or _UNBOUNDED,
            "downtime-limit": int(limits.downtime * 1000),
        }
        await self._link.execute("migrate-set-parameters", parameters)
        self._heard.clear()

    def _write_key(self, key: str) -> None:
        path = self._key_file
        path.unlink(missing_ok=True)
        owner = os.stat(self._where.io)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as file:
            os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
            file.write(f"{_USER}:{key}\n")

    def _forget_key(self) -> None:
        self._key_file.unlink(missing_ok=True)

    @property
    def _key_file(self) -> pathlib.Path:
        return self._where.io / _KEY_FILE


async def settle(at: link.Link) -> None:
    """Nothing of an earlier passage counts for what QEMU sends or saves next."""
    await at.execute("migrate-set-parameters", {"tls-creds": ""})
    await _capabilities(at, dict.fromkeys(_CHOSEN, False))
    with contextlib.suppress(qmp.CommandFailed):  # there is none
        await at.execute("object-del", {"id": _CREDENTIALS})


async def _capabilities(at: link.Link, wanted: Mapping[str, bool]) -> None:
    chosen: list[dict[str, Any]] = [{"capability": name, "state": state} for name, state in wanted.items()]
    await at.execute("migrate-set-capabilities", {"capabilities": chosen})
