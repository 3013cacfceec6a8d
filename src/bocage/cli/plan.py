"""`bocage plan`: what would be done, and why, without doing it; now, or with a world that was kept as text."""

from __future__ import annotations

import json as json_
from typing import Annotated, Any

import typer

from bocage.cli import complete, failure, lazy, options, output, people, read, session, table
from bocage.client import rest

From = Annotated[
    str | None,
    typer.Option(
        "--from", metavar="FILE", help="Ask with the world of 'bocage plan dump' in this file, '-' for standard input."
    ),
]
Survive = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=0, max=2, help="Keep room for all VMs to run again if any N hosts die; else as it is set."
    ),
]
_VERDICTS = (
    table.Column("HOST", least=12),
    table.Column("ANSWER"),
    table.Column("SCORE", right=True),
    table.Column("MEMORY LEFT", right=True),
    table.Column("VCPUS GIVEN", right=True),
    table.Column("REPLICA", least=8),
)
_MOVES = (
    table.Column("STEP", right=True),
    table.Column("VM", least=12),
    table.Column("FROM", least=12),
    table.Column("TO", least=12),
    table.Column("SCORE", right=True),
)
_SHARES = (
    table.Column("HOST", least=12),
    table.Column("VMS", right=True),
    table.Column("MEMORY", right=True),
    table.Column("OF", right=True),
    table.Column("VCPUS", right=True),
)
_OPTIONS = {
    "storages": "--storage",
    "networks": "--network",
    "host_tags": "--host-tag",
    "apart": "--apart",
    "together": "--together",
    "vcpus": "--cpus",
    "disk": "--disk",
    "replicated": "--replica",
}
_ARROW = " → "
_LARGEST = 64 << 20  # characters of a dump
_SENT = (8 << 20) - (1 << 10)  # bytes of it as it is sent: the API takes 8 MiB with what is asked


def dump(survive: Survive = None) -> None:
    """Print the world as the planner sees it, to be kept, looked at and asked with: hosts, VMs, what each has.

    Examples:
      bocage plan dump > dump.json
    """
    with session.connect() as api:
        world = api.plan.world(survive=survive)
    output.line(json_.dumps(world, indent=1, ensure_ascii=False))


def place(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A VM that is there, or what a new one is called.")],
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="A new one's; all options below are a new one's.")
    ] = None,
    cpus: Annotated[int | None, typer.Option(metavar="N", min=1, help="vCPUs; 1 when not given.")] = None,
    disk: Annotated[str | None, typer.Option(metavar="SIZE", help="Of local storage.")] = None,
    replica: Annotated[bool, typer.Option("--replica", help="With a replica of it on a second host.")] = False,
    storage: Annotated[
        list[str] | None,
        typer.Option(metavar="STORAGE", help="That it lies on.", autocompletion=complete.storage),
    ] = None,
    network: Annotated[
        list[str] | None,
        typer.Option(metavar="NETWORK", help="That it is on.", autocompletion=complete.networks),
    ] = None,
    host_tag: Annotated[list[str] | None, typer.Option(metavar="TAG", help="That its host has.")] = None,
    apart: Annotated[
        list[str] | None, typer.Option(metavar="GROUP", help="Those of one group are on different hosts.")
    ] = None,
    together: Annotated[
        list[str] | None, typer.Option(metavar="GROUP", help="Those of one group are on one host.")
    ] = None,
    source: From = None,
    survive: Survive = None,
    project: options.Project = options.DEFAULT,
    json: options.Json = False,
) -> None:
    """Say where a VM would be placed, were it nowhere, and what speaks for and against each host.

    Examples:
      bocage plan place web1
      bocage plan place web9 --memory 4G --cpus 2 --storage local
      bocage plan place web9 --memory 4G --apart web --survive 1 --from dump.json
    """
    request: dict[str, Any] = _asked(source, survive)
    wishes = {"storages": storage, "networks": network, "host_tags": host_tag, "apart": apart, "together": together}
    new = {key: value for key, value in wishes.items() if value}
    new |= rest.given(vcpus=cpus, disk=disk, replicated=replica or None)
    if memory is not None:
        request["new"] = {"name": name, "project": project, "memory": memory, **new}
    elif new:
        option = _OPTIONS[next(iter(new))]
        right = "give --memory with it; without, a VM that is there is looked at as it is"
        raise failure.Usage(option=option, wrong="it is a new VM's, and a new one has --memory", right=right)
    else:
        request["vm"] = name if "/" in name or project == options.DEFAULT else f"{project}/{name}"
    with session.connect(project) as api:
        placed = api.plan.place(request)
    if json:
        output.document(placed)
    else:
        _tell_placed(placed)


def rebalance(
    moves: Annotated[int | None, typer.Option(metavar="N", min=0, help="So many moves at most.")] = None,
    least: Annotated[
        float | None,
        typer.Option(metavar="SCORE", help="What a move must gain; 0.01 when not given, less with many hosts."),
    ] = None,
    source: From = None,
    survive: Survive = None,
    json: options.Json = False,
) -> None:
    """Say which moves would balance the hosts, step by step, and who would run again then if a host died.

    Examples:
      bocage plan rebalance --survive 1
      bocage plan rebalance --moves 10 --from dump.json
    """
    with session.connect() as api:
        found = api.plan.rebalance(_asked(source, survive) | rest.given(moves=moves, least=least))
    if json:
        output.document(found)
    else:
        _tell_plan(found)


def _asked(source: str | None, survive: int | None) -> dict[str, Any]:
    """What is asked with."""
    if source is None:
        return rest.given(survive=survive)
    right = "give a file that 'bocage plan dump' made"
    try:
        world = json_.loads(read.text_file("--from", source, most=_LARGEST))
        size = len(json_.dumps(world))
    except ValueError as error:
        raise failure.Usage(option="--from", wrong=f"{source} is no JSON: {error}", right=right) from error
    except RecursionError as error:
        raise failure.Usage(option="--from", wrong=f"{source} is nested too deeply", right=right) from error
    if not isinstance(world, dict):
        raise failure.Usage(option="--from", wrong=f"{source} has no world: it is no JSON object", right=right)
    if size > _SENT:
        wrong = f"{source} has {people.size(size)} as it is sent, and a plan takes {people.size(_SENT)} at most"
        raise failure.Usage(option="--from", wrong=wrong, right="leave out VMs or hosts")
    return rest.given(world=world, survive=survive)


def _tell_placed(placed: rest.Document) -> None:
    chosen = placed["host"] or "nowhere"
    output.line(f"{placed['vm']}: {chosen}" + (f", its replica {placed['replica']}" if placed.get("replica") else ""))
    output.line(table.paragraph(people.saying(placed["because"]), lead="because "))
    could = [one for one in placed["verdicts"] if not one["reasons"]]
    if could:
        output.line("")
        output.line(_without_empty(_VERDICTS, [_verdict(one, first=one is could[0]) for one in could]))
    _tell_refusals(one for one in placed["verdicts"] if one["reasons"])


def _verdict(verdict: rest.Document, *, first: bool) -> tuple[str, ...]:
    return (
        verdict["host"],
        "best" if first else "could",
        f"{verdict['score']:.4f}",
        people.size(verdict["memory_left"]),
        str(verdict["vcpus"]),
        verdict.get("replica") or "",
    )


def _tell_refusals(verdicts: Any) -> None:
    for verdict in verdicts:
        output.line("")
        output.line(f"{verdict['host']}: no")
        _tell_reasons(verdict["reasons"])


def _tell_reasons(reasons: list[rest.Document]) -> None:
    for reason in reasons:
        output.line(table.paragraph(people.saying(reason), lead="  "))
        if hint := people.hint(reason):
            output.line(table.paragraph(hint, lead="    → "))


def _tell_plan(found: rest.Document) -> None:
    moves = found["moves"]
    end = "nothing more gains enough" if found["complete"] else "more would gain"
    count = f"{len(moves)} move{'' if len(moves) == 1 else 's'}"
    output.line(f"score {found['before']:.4f}{_ARROW}{found['after']:.4f} with {count}; {end}")
    if moves:
        output.line("")
        _tell_moves(moves)
        output.line("")
        pairs = zip(found["hosts_before"], found["hosts_after"], strict=True)
        output.line(table.render(_SHARES, [_share(before, after) for before, after in pairs]))
    for stuck in found["stuck"]:
        output.line("")
        output.line(f"{stuck['vm']} is on {stuck['host']}, must not be, and cannot leave:")
        _tell_reasons(stuck["reasons"])
        for verdict in stuck["verdicts"]:
            for reason in verdict["reasons"]:
                output.line(table.paragraph(people.saying(reason), lead="  and "))
    if found["unsurvived"]:
        output.line("")
        output.line("would not run again:")
    for one in found["unsurvived"]:
        said = f"{one['vm']}, if {' and '.join(one['hosts'])} died: {people.saying(one['reason'])}"
        output.line(table.paragraph(said, lead="  "))


def _tell_moves(moves: list[rest.Document]) -> None:
    """As a table, with the reason below where it is another than the score."""
    rows = [_move(number, one) for number, one in enumerate(moves, 1)]
    lines = table.render(_MOVES, rows).splitlines()
    output.line(lines[0])
    for line, move in zip(lines[1:], moves, strict=True):
        output.line(line)
        if move["because"]["type"] != "move-balances":
            output.line(table.paragraph(people.saying(move["because"]), lead="      "))


def _move(number: int, move: rest.Document) -> tuple[str, ...]:
    origin, to = move["origin"], move["to"]
    if move.get("replica_to"):
        origin, to = f"{origin}+{move['replica_from']}", f"{to}+{move['replica_to']}"
    return (str(number), move["vm"], origin, to, f"{move['score']:.4f}")


def _share(before: rest.Document, after: rest.Document) -> tuple[str, ...]:
    return (
        after["host"],
        _change(before["vms"], after["vms"]),
        _change(people.size(before["memory"]), people.size(after["memory"])),
        people.size(after["memory_room"]),
        _change(before["vcpus"], after["vcpus"]),
    )


def _change(before: object, after: object) -> str:
    return f"{before}{_ARROW}{after}" if before != after else f"{after}"


def _without_empty(columns: tuple[table.Column, ...], rows: list[tuple[str, ...]]) -> str:
    """The table without columns that say nothing in any row."""
    kept = [index for index in range(len(columns)) if any(row[index] for row in rows)]
    return table.render([columns[index] for index in kept], [[row[index] for index in kept] for row in rows])


NOUN = lazy.Group(
    "plan",
    help="What would be done, and why, without doing it.",
    verbs={
        "Plans": {
            "place": "plan:place",
            "rebalance": "plan:rebalance",
            "dump": "plan:dump",
        },
    },
)
