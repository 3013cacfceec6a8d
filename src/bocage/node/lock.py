"""A process that others hang on waits for nobody: its memory stays where it is, and it is first in every line."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import pathlib

log = logging.getLogger(__name__)

_CURRENT, _FUTURE = 1, 2  # of mlockall(2)
_LEAST = 1  # of the priorities that come before all that has none
_FAVOURED = -15  # nice
_LAST = "-900"  # to be killed when memory runs out


def in_place() -> None:
    """Each of these as far as it is allowed."""
    if ctypes.CDLL(None, use_errno=True).mlockall(_CURRENT | _FUTURE) != 0:
        log.warning("memory is not locked: %s", os.strerror(ctypes.get_errno()))
    try:
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(_LEAST))
    except OSError:  # a control group without a share of that time, or no right to
        _be_favoured()
    with contextlib.suppress(OSError):
        pathlib.Path("/proc/self/oom_score_adj").write_text(_LAST)


def _be_favoured() -> None:
    """Niceness counts among those of one session alone, and that of the session among all (sched(7), autogroup)."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, _FAVOURED)
        pathlib.Path("/proc/self/autogroup").write_text(str(_FAVOURED))
    except OSError as error:
        log.warning("it waits behind others for a CPU: %s", error.strerror)
