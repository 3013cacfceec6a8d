"""Where a host's life is lived, and by which bounds."""

from __future__ import annotations

import dataclasses
import os
import pathlib

from bocage import errors, home
from bocage.protocol import records, timing
from bocage.store.etcd import access
from bocage.words import N_


class WatchdogMalformed(errors.Invalid):
    type = "watchdog-malformed"
    text = N_("BOCAGE_WATCHDOG is '{given}': it takes a device and the seconds after which that resets this host")
    hint = N_("such as BOCAGE_WATCHDOG=/dev/watchdog,10")
    given: str


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """All that does not change while the daemon runs, but for etcd's members."""

    host: str
    runtime: pathlib.Path
    kept: pathlib.Path  # the file of its life
    logs: pathlib.Path  # the directory for those of beat and guard
    access: access.Access
    root: str  # of the store in etcd
    profile: timing.Timing
    bounds: records.Bounds
    watchdog: pathlib.Path | None = None


def of(homes: home.Home, host: str, how: access.Access, *, root: str) -> Setting:
    """As home and environment say: `BOCAGE_SELF_FENCE=1` for a host that is to stand still when it is cut off, and
    `BOCAGE_WATCHDOG=DEVICE,SECONDS` for one with a watchdog that has once reset it. Raises WatchdogMalformed."""
    device, _, seconds = os.environ.get("BOCAGE_WATCHDOG", "").partition(",")
    try:
        bound = float(seconds) if device else None
    except ValueError as error:
        raise WatchdogMalformed(given=os.environ["BOCAGE_WATCHDOG"]) from error
    fences = os.environ.get("BOCAGE_SELF_FENCE") == "1"
    return Setting(
        host=host,
        runtime=homes.runtime,
        kept=homes.life,
        logs=homes.cluster,
        access=how,
        root=root,
        profile=timing.LAN,
        bounds=records.Bounds(self_fence=fences, guard=timing.LAN.guard, watchdog=bound),
        watchdog=pathlib.Path(device) if device else None,
    )
