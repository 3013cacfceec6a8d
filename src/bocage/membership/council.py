"""etcd's members: who they are, who votes, who leads; one is added without a vote, and gets it when it is in sync."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

from bocage.store import contract
from bocage.store.etcd import gateway, records

WITHIN = 3.0  # seconds
_STATUS_WITHIN = 2.0


@dataclasses.dataclass(frozen=True, slots=True)
class Seat:
    """One member. `name` is its host's uid, empty before its first start."""

    id: str
    name: str
    peer: str
    client: str
    votes: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Standing:
    """How one member is, by its own word."""

    answers: bool
    leads: bool = False
    version: str = ""
    size: int = 0  # bytes of its database
    reason: str = ""


async def seats(by: gateway.Gateway) -> list[Seat]:
    """All members. Raises gateway.Silent and gateway.Refused."""
    answer = await by.ask("cluster/member/list", {}, within=WITHIN)
    return [
        Seat(
            id=str(one["ID"]),
            name=one.get("name", ""),
            peer=(one.get("peerURLs") or [""])[0],
            client=(one.get("clientURLs") or [""])[0],
            votes=not one.get("isLearner", False),
        )
        for one in answer.get("members", ())
    ]


async def add(by: gateway.Gateway, peer: str) -> None:
    """Add a member that has no vote yet. Raises gateway.Silent and gateway.Refused."""
    await by.ask("cluster/member/add", {"peerURLs": [peer], "isLearner": True}, within=WITHIN)


async def promote(by: gateway.Gateway, seat: Seat) -> None:
    """Give it its vote. Raises gateway.Silent, also where it is not in sync, and gateway.Refused."""
    await by.ask("cluster/member/promote", {"ID": seat.id}, within=WITHIN)


async def remove(by: gateway.Gateway, seat: Seat) -> None:
    """Raises gateway.Silent and gateway.Refused."""
    await by.ask("cluster/member/remove", {"ID": seat.id}, within=WITHIN)


async def standing(by: gateway.Gateway, seat: Seat) -> Standing:
    """What a member says of itself."""
    if not seat.client:
        return Standing(answers=False)
    said: dict[str, Any] | None = None
    try:
        async with asyncio.timeout(_STATUS_WITHIN):
            said = await by.ask_one(seat.client, "maintenance/status", {})
            if seat.votes:  # one that is cut off still tells its status
                await by.ask_one(seat.client, records.TXN, records.transaction([], [records.get(b"-")]))
    except (gateway.Lost, contract.Failed, TimeoutError) as error:
        reason = str(getattr(error, "reason", "")) or "no answer"
        return Standing(answers=False, reason=reason if said is None else "it runs, but reaches no majority")
    return Standing(
        answers=True,
        leads=said.get("leader") == seat.id,
        version=str(said.get("version", "")),
        size=int(said.get("dbSize", 0)),
    )
