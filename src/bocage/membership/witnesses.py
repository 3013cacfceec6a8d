"""Witnesses: machines that vote in the store and run no VMs, as the store knows them."""

from __future__ import annotations

import dataclasses
import json

from bocage.model import keys
from bocage.store import contract, resources

_PREFIX = keys.setting("witness/")


@dataclasses.dataclass(frozen=True, slots=True)
class Witness:
    uid: str
    name: str
    address: str


def enter(transaction: resources.Transaction, one: Witness) -> None:
    """Have the store know it."""
    transaction.puts[_PREFIX + one.uid] = json.dumps(dataclasses.asdict(one)).encode()


async def list_all(store: contract.Store) -> list[Witness]:
    """All of them. Raises what the store raises."""
    return [Witness(**json.loads(entry.value)) for entry in (await store.list(_PREFIX)).entries]
