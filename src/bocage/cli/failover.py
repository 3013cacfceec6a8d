"""`bocage failover`: what was done about hosts that fell silent, step by step, and what would be."""

from __future__ import annotations

import datetime
from typing import Annotated

import typer

from bocage.cli import complete, failure, lazy, options, output, people, session, table
from bocage.client import rest

_FAILOVERS = (
    table.Column("FAILOVER", least=12),
    table.Column("HOST", least=12),
    table.Column("SILENT SINCE"),
    table.Column("STATE"),
    table.Column("PROOF"),
    table.Column("VMS", right=True),
    table.Column("TOOK", right=True),
)
_VMS = (
    table.Column("VM", least=12),
    table.Column("TO", least=12),
    table.Column("GIVEN", right=True),
    table.Column("RUNS", right=True),
)
_WOULD = (
    table.Column("VM", least=12),
    table.Column("TO", least=12),
    table.Column("AND THERE"),
    table.Column("TURN", right=True),
)
HostName = Annotated[
    str, typer.Argument(metavar="HOST", help="The host.", autocompletion=complete.hosts, show_default=False)
]


def list_failovers(json: options.Json = False) -> None:
    """List the failovers, the newest last: a host that fell silent, and what became of it.

    Examples:
      bocage failover list
    """
    with session.connect() as api:
        found = api.failovers.list()
    if json:
        output.document(found)
    elif found["items"]:
        output.line(table.render(_FAILOVERS, [_row(one) for one in found["items"]]))
    else:
        output.complain("no host has fallen silent yet")


def _row(one: rest.Document) -> tuple[str, ...]:
    status = one["status"]
    since = status.get("silent_since")
    return (
        output.named(one),
        one["spec"]["host_name"],
        people.clock(since),
        status["state"],
        status.get("proof") or people.NOTHING,
        str(len(status["vms"])),
        _after(since, status.get("ended")),
    )


def show(
    failover: Annotated[
        str | None, typer.Argument(metavar="FAILOVER", help="The newest when not given.", show_default=False)
    ] = None,
    json: options.Json = False,
) -> None:
    """Show a failover: silent since when, what proved its death, decided what, started when, step by step.

    Examples:
      bocage failover show
      bocage failover show host2-4
    """
    with session.connect() as api:
        if failover is not None:
            one = api.failovers.get(failover)
        elif newest := api.failovers.list(limit=1)["items"]:
            one = newest[-1]
        else:
            raise failure.Usage(option="FAILOVER", wrong="no host has fallen silent yet")
    if json:
        output.document(one)
    else:
        _tell(one)


def _tell(one: rest.Document) -> None:
    spec, status = one["spec"], one["status"]
    since = status.get("silent_since") or (status["steps"][0]["time"] if status["steps"] else None)
    output.line(
        table.facts(
            [
                ("failover", f"{output.named(one)}: {_STATES[status['state']].format(host=spec['host_name'])}"),
                ("silent since", people.clock(since)),
                ("led by", status["leader"]),
                ("waits", people.saying(status.get("waits"))),
                ("what helps", people.hint(status.get("waits"))),
            ]
        )
    )
    if status["steps"]:
        output.line("")
        steps = [(_after(since, step["time"]), people.saying(step["said"])) for step in status["steps"]]
        output.line(table.facts(steps))
    if status["vms"]:
        output.line("")
        output.line(table.render(_VMS, [_moved(vm, since) for vm in status["vms"]]))
        for vm in status["vms"]:
            if vm.get("problem"):
                output.line(table.paragraph(people.saying(vm["problem"]), lead=f"{vm['vm']['name']}: "))


_STATES = {
    "proving": "it is not proven yet that {host} is off",
    "moving": "what {host} had is given to others",
    "done": "all that others could have of {host} is where it should be",
    "returned": "{host} came back, and had everything again",
}


def _moved(vm: rest.Document, since: str | None) -> tuple[str, ...]:
    to = vm["to"]["name"] if vm.get("to") else people.NOTHING
    runs = _after(since, vm.get("started")) if vm["runs"] else "is off"
    return (vm["vm"]["name"], to, _after(since, vm.get("given")), runs)


def _after(since: str | None, then: str | None) -> str:
    """How long after the beginning of the silence: `+2.4 s`."""
    begin, end = people.moment(since), people.moment(then)
    if begin is None or end is None:
        return people.NOTHING
    span = (end - begin) / datetime.timedelta(seconds=1)
    return f"+{span:.1f} s" if span < 600 else f"+{people.span(round(span))}"


def simulate(host: HostName, json: options.Json = False) -> None:
    """Say what would become of a host's VMs if it died now, and what would prove its death. Nothing is done.

    Examples:
      bocage failover simulate host2
    """
    with session.connect() as api:
        found = api.failovers.simulate(host)
    if json:
        output.document(found)
        return
    takes = _forecast(found.get("forecast"))
    output.line(table.facts([("host", found["host"]), *proofs(found["proofs"]), ("its VMs go", takes)]))
    if found["vms"]:
        output.line("")
        output.line(table.render(_WOULD, [_would(one) for one in found["vms"]]))
        for one in found["vms"]:
            if one.get("reason"):
                output.line(table.paragraph(people.saying(one["reason"]), lead=f"{one['vm']['name']}: "))
    else:
        output.complain(f"{found['host']} has no VMs")


def _would(one: rest.Document) -> tuple[str, ...]:
    does = ("is started" if one["runs"] else "stays off") if one.get("to") else "waits for a host"
    return (one["vm"]["name"], one.get("to") or people.NOTHING, does, str(one.get("stage") or people.NOTHING))


def _forecast(takes: rest.Document | None) -> str:
    """How long it would take."""
    if takes is None:
        return ""  # the daemon is an older one
    if takes["proof"] is None:
        return "when a person has confirmed that it is off"
    if takes["given"] is None:
        return "as soon as its BMC has switched it off; how long that takes was not seen yet"
    runs = f", and the first runs there after {takes['started']} s" if takes["started"] is not None else ""
    seen = f" (as seen in {takes['seen']} {'failover' if takes['seen'] == 1 else 'failovers'})" if takes["seen"] else ""
    return f"to others {takes['given']} s after its last beat{runs}{seen}"


def proofs(found: rest.Documents) -> list[tuple[str, object]]:
    """What could prove a host's death, for the facts that `show` prints."""
    there = [one for one in found if one["there"]]
    lacking = [one for one in found if not one["there"]]
    lines = [people.saying(one["said"]) for one in there]
    missing = [people.saying(one["said"]) for one in lacking]
    return [("its death is proven by", "\n".join(lines)), ("and not by", "\n".join(missing))]


def confirm(
    host: HostName,
    is_off: Annotated[
        str | None, typer.Option("--is-off", metavar="HOST", help="The host's name again, in place of the question.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Answer for it that a host has no power: its VMs start elsewhere then. Your name is kept with it.

    Go and look, or pull its plug. If it still runs, its VMs run twice and lose what they hold.

    Examples:
      bocage failover confirm host2
    """
    if is_off is None:
        told = f"Its VMs are started elsewhere. If {host} still has power, they will run twice and lose what they hold."
        output.complain(told)
        is_off = str(typer.prompt(f"Type the host's name if you have made sure that {host} is off", err=True))
    if is_off != host:
        raise failure.Usage(option="--is-off", wrong=f"'{is_off}' is not '{host}'; nothing was done")
    with session.connect() as api:
        found = api.failovers.confirm(host)
    if json:
        output.document(found)
    else:
        output.line(f"noted; 'bocage failover show {output.named(found)}' tells what becomes of its VMs")


NOUN = lazy.Group(
    "failover",
    help="Failovers: what was done about hosts that fell silent.",
    verbs={
        "Failovers": {"list": "failover:list_failovers", "show": "failover:show"},
        "Before and meanwhile": {"simulate": "failover:simulate", "confirm": "failover:confirm"},
    },
)
