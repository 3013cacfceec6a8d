"""A process that writes until it is killed, and says on its standard output what was acknowledged: NAME N REVISION."""

from __future__ import annotations

import asyncio
import os
import pathlib
import random
import sys

from bocage.store import sqlite


async def main(path: pathlib.Path, seed: int) -> None:
    """Sixteen writers, each counting in two keys that are always changed together."""
    chance = random.Random(seed)
    store = await sqlite.open(path, keep_revisions=1_000_000)
    os.write(1, b"open\n")

    async def write(name: str) -> None:
        entry = await store.get(f"a/{name}")
        count = int(entry.value.split()[0]) if entry else 0
        while True:
            count += 1
            value = b"%d " % count + bytes(chance.randrange(4000))
            revision = await store.apply(puts={f"a/{name}": value, f"b/{name}": value})
            os.write(1, f"{name} {count} {revision}\n".encode())

    await asyncio.gather(*(write(f"w{n}") for n in range(16)))


if __name__ == "__main__":
    asyncio.run(main(pathlib.Path(sys.argv[1]), int(sys.argv[2])))
