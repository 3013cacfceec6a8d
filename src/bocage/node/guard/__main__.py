"""`python -m bocage.node.guard RUNTIME LIFE [WATCHDOG SECONDS]`: started by the daemon, outlives it."""

from __future__ import annotations

import logging
import pathlib
import sys

from bocage.node import lock
from bocage.node.guard import process, watchdog

logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s guard[%(process)d] %(message)s")
lock.in_place()
runtime, kept = map(pathlib.Path, sys.argv[1:3])
if process.is_alone(runtime):
    dog = watchdog.Watchdog(pathlib.Path(sys.argv[3]), float(sys.argv[4])) if sys.argv[3:] else None
    process.Process(runtime, kept, dog).run()
