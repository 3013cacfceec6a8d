"""Events: what happened, kept in the store; `forgetting` bounds how many."""

from __future__ import annotations

import logging

from bocage import words
from bocage.model import base, work
from bocage.store import contract, resources

log = logging.getLogger(__name__)


class Events:
    """The journal of one installation."""

    def __init__(self, store: resources.Resources) -> None:
        self._resources = store

    async def record(
        self, message: words.Message, *, severity: base.Severity = base.Severity.INFO, subject: base.Ref | None = None
    ) -> None:
        """Keep an event. A store that cannot write costs the event and nothing else."""
        try:
            await self._resources.create(work.event(message, severity=severity, subject=subject))
        except contract.Error as error:
            log.warning("event lost: %s (%s)", words.say(message), error)
