"""Events: what happened, kept in the store, the oldest forgotten."""

from __future__ import annotations

import logging

from bocage import words
from bocage.model import base, keys, work
from bocage.store import contract, resources

KEPT = 5000
_PRUNE_EVERY = 200

log = logging.getLogger(__name__)


class Events:
    """The journal of one installation."""

    def __init__(self, store: resources.Resources) -> None:
        self._resources = store
        self._written = 0

    async def record(
        self, message: words.Message, *, severity: base.Severity = base.Severity.INFO, subject: base.Ref | None = None
    ) -> None:
        """Keep an event. A store that cannot write costs the event and nothing else."""
        try:
            await self._resources.create(work.event(message, severity=severity, subject=subject))
            self._written += 1
            if self._written % _PRUNE_EVERY == 0:
                await self.prune()
        except contract.Error as error:
            log.warning("event lost: %s (%s)", words.say(message), error)

    async def prune(self) -> None:
        """Forget all but the newest KEPT."""
        listing = await self._resources.list(work.Event)
        for project in {item.metadata.project for item in listing.items}:
            items = [item for item in listing.items if item.metadata.project == project]
            surplus = items[: max(len(items) - KEPT, 0)]
            for start in range(0, len(surplus), 50):
                doomed = [
                    key
                    for item in surplus[start : start + 50]
                    for key in (
                        keys.spec("event", item.metadata.project, item.uid),
                        keys.status("event", item.metadata.project, item.uid),
                    )
                ]
                await self._resources.store.apply(deletes=doomed)
