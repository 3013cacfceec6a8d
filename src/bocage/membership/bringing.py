"""What a host brings along when it joins: its storage, and what lies on it, under names that are free."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

from bocage.model import base, ground, template
from bocage.store import resources

log = logging.getLogger(__name__)

_ON_STORAGE: tuple[type[base.Resource[Any, Any]], ...] = (ground.Image, ground.Volume, template.Template)


async def bring(own: resources.Resources, into: resources.Resources, host: ground.Host) -> None:
    """Copy it from the host's own store; what is there already, by its uid, stays. Raises what the stores raise."""
    storages = [one for one in (await own.list(ground.Storage)).items if one.spec.host == host.uid]
    uids = {one.uid for one in storages}
    for storage in storages:
        await _bring(into, storage, host)
    for kind in _ON_STORAGE:
        for one in (await own.list(kind)).items:
            if one.spec.storage in uids:
                await _bring(into, one, host)


async def _bring(into: resources.Resources, one: base.Resource[Any, Any], host: ground.Host) -> None:
    with contextlib.suppress(resources.Missing):
        await into.get(type(one), one.metadata.project, one.uid)
        return
    for name in (one.name, f"{one.name[: 62 - len(host.name)]}-{host.name}"[:63], f"{one.name[:54]}-{host.uid[:8]}"):
        with contextlib.suppress(resources.NameTaken):
            await into.create(resources.with_metadata(one, name=name))
            if name != one.name:
                log.info("the %s %s is called %s in the cluster", one.kind, one.name, name)
            return
