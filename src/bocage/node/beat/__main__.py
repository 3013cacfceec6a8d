"""`python -m bocage.node.beat RUNTIME`: started by the daemon, outlives it."""

from __future__ import annotations

import asyncio
import logging
import pathlib
import sys

from bocage.node import lock
from bocage.node.beat import process

logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s beat[%(process)d] %(message)s")
logging.getLogger("httpx").setLevel(logging.WARNING)
lock.in_place()
asyncio.run(process.Process(pathlib.Path(sys.argv[1])).run())
