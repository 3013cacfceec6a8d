"""`bocage cluster`: many hosts that behave as one."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Annotated

import typer

from bocage.cli import failure, lazy, options, output, people, session, table
from bocage.client import problems, rest

_WITHIN = 100.0  # seconds until a host has taken its place
_LOOK = 0.2
_HOSTS = (table.Column("HOST", least=16), table.Column("ADDRESS"), table.Column("UID"))
_MEMBERS = (
    table.Column("MEMBER OF THE STORE", least=20),
    table.Column("VOTES"),
    table.Column("LEADS"),
    table.Column("ETCD"),
    table.Column("SIZE", right=True),
    table.Column("HEALTH", least=8),
)
Address = Annotated[str | None, typer.Option(metavar="IP", help="This host's address, at which the others reach it.")]


def init(address: Address = None, json: options.Json = False) -> None:
    """Make a cluster of this host alone. Its VMs run on; other hosts join it.

    Examples:
      bocage cluster init --address 10.0.0.1
    """
    with session.connect() as api:
        made = api.cluster.init(rest.given(address=address))
    found = _until(lambda one: any(member["leads"] for member in one["members"]))
    if json:
        output.document(found)
    else:
        output.line(f"this host is a cluster by itself, at {made['address']}")
        output.complain("'bocage cluster invite' prints a word with which another host joins")


def invite(json: options.Json = False) -> None:
    """Print a word that lets one host in: once, and within an hour.

    Examples:
      bocage cluster invite
    """
    with session.connect() as api:
        word = api.cluster.invite()
    if json:
        output.document({"word": word})
    else:
        output.line(word)
        output.complain("on the other host: 'bocage cluster join WORD'; whoever has the word can join until then")


def join(
    word: Annotated[str, typer.Argument(metavar="WORD", help="What 'bocage cluster invite' printed.")],
    address: Address = None,
    witness: Annotated[
        bool, typer.Option("--witness", help="It votes and runs no VMs: the third of two hosts.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Have this host, which must have no VMs, become part of the cluster that a word is of.

    Examples:
      bocage cluster join 10.0.0.1:8481/…/… --address 10.0.0.2
      bocage cluster join 10.0.0.1:8481/…/… --address 10.0.0.9 --witness
    """
    with session.connect() as api:
        made = api.cluster.join(rest.given(word=word, address=address, witness=witness or None))
    found = _until(lambda one: one["address"] == made["address"] and _is_settled(one))
    if json:
        output.document(found)
        return
    votes, count = sum(member["votes"] for member in found["members"]), len(found["hosts"])
    if witness:
        output.line(f"this machine is a witness of a cluster of {count}, at {made['address']}")
    else:
        output.line(f"this host is one of {count} in the cluster, at {made['address']}")
    if not _is_settled(found):
        output.complain(
            "its member of the store has not taken its place yet: 'bocage cluster show', 'bocage daemon log'"
        )
    elif votes < 3:
        output.complain("when the first host is lost, the cluster stands still: a third host, or a small machine that")
        output.complain("joins with '--witness', makes it stand the loss of any one")


def set_(
    survive: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, max=2, help="Keep room for all VMs to run again if any N hosts die; 0: none."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Set what holds for all hosts together.

    With --survive 1, VMs are placed so that those of any one host have room on the others,
    and a start that would take that room is refused with the reason ('vm start --anyway').

    Examples:
      bocage cluster set --survive 1
    """
    if survive is None:
        raise failure.Usage(option="--survive", wrong="nothing to change was given", right="--survive 1")
    with session.connect() as api:
        found = api.cluster.set({"survive": survive})
    if json:
        output.document(found)
    else:
        output.line(_survives(found))


def _survives(policy: rest.Document) -> str:
    count = policy["survive"]
    if not count:
        return "no room is kept for VMs of hosts that die"
    return f"room is kept for the VMs of any {'host' if count == 1 else f'{count} hosts'} on the others"


def _stands(stands: rest.Document) -> str:
    """Whether it was shut down, and how far that is."""
    if stands["phase"] == "works":
        return ""
    how = {"stopping": "its VMs go off", "down": "its VMs are off", "starting": "its VMs start"}[stands["phase"]]
    left = f" ({len(stands['left'])} of {stands['ran']} are left)" if stands["left"] else ""
    since, by = people.clock(stands["since"]), stands["asked_by"]
    return f"{how}{left}; shut down by {by} at {since}: 'bocage cluster start' ends it"


def show(json: options.Json = False) -> None:
    """Show the hosts of the cluster, and how the members of its store are.

    Examples:
      bocage cluster show
    """
    with session.connect() as api:
        found = api.cluster.show()
        more = not json and found["incarnation"] is not None
        policy, stands = (api.cluster.policy(), api.cluster.standstill()) if more else ({}, {})
    if json:
        output.document(found)
        return
    if found["incarnation"] is None:
        output.complain("this host is part of no cluster: 'bocage cluster init' makes one")
        return
    facts = [("incarnation", found["incarnation"]), ("this host's address", found["address"])]
    output.line(table.facts([*facts, ("failover", _survives(policy)), ("stands still", _stands(stands))]))
    output.line("")
    hosts = sorted(found["hosts"], key=lambda one: str(one["name"]))
    output.line(table.render(_HOSTS, [(one["name"], one["address"] or people.NOTHING, one["uid"]) for one in hosts]))
    output.line("")
    members = sorted(found["members"], key=lambda one: str(one["host"]))
    output.line(table.render(_MEMBERS, [_member(one) for one in members]))
    sound = sum(one["votes"] and one["answers"] for one in members)
    if 2 * sound <= sum(one["votes"] for one in members):
        output.complain("the store has lost its majority: nothing can be changed until more of its members answer")


def _member(one: rest.Document) -> tuple[str, ...]:
    health = "answers" if one["answers"] else f"does not answer: {one['reason']}" if one["reason"] else "starts"
    return (
        (one["host"] or one["peer"]) + (" (witness)" if one["witness"] else ""),
        people.yes(one["votes"]),
        people.yes(one["leads"]),
        one["version"] or people.NOTHING,
        people.size(one["size"]) if one["size"] else people.NOTHING,
        health,
    )


def _is_settled(found: rest.Document) -> bool:
    """Whether every member has had its first start, and an odd number of them votes."""
    return all(one["answers"] for one in found["members"]) and sum(one["votes"] for one in found["members"]) % 2 == 1


def _until(holds: Callable[[rest.Document], bool]) -> rest.Document:
    """The cluster once the daemon has started anew and it holds; as it is at the bound."""
    bound = time.monotonic() + _WITHIN
    found: rest.Document | None = None
    while time.monotonic() < bound:
        with contextlib.suppress(problems.Error), session.connect() as api:
            found = api.cluster.show()
            if holds(found):
                return found
        time.sleep(_LOOK)
    if found is None:
        raise failure.Usage(option="", wrong="the daemon does not answer", right="'bocage daemon log' has more")
    return found


NOUN = lazy.Group(
    "cluster",
    help="The cluster: many hosts that behave as one.",
    verbs={
        "Clusters": {
            "init": "cluster:init",
            "invite": "cluster:invite",
            "join": "cluster:join",
            "show": "cluster:show",
            "set": "cluster:set_",
        },
        "All of it": {"shutdown": "halting:shutdown", "start": "halting:start"},
    },
)
