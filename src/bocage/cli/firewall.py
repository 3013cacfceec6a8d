"""`bocage firewall`: groups of rules, which NICs refer to."""

from __future__ import annotations

from typing import Annotated

import typer

from bocage.cli import complete, describe, failure, lazy, options, output, people, session, table, waiting
from bocage.client import rest

GroupName = Annotated[str, typer.Argument(metavar="GROUP", help="The group.", autocompletion=complete.firewall_groups)]
Protocol = Annotated[str, typer.Argument(metavar="PROTOCOL", help="tcp, udp, icmp or any.")]
Ports = Annotated[str, typer.Argument(metavar="PORTS", help="80, or 80,443,8000-8100; all when not given.")]
From = Annotated[
    list[str] | None, typer.Option("--from", metavar="CIDR", help="From whom; everybody when not given. Repeatable.")
]
To = Annotated[
    list[str] | None,
    typer.Option("--to", metavar="CIDR", help="For what goes out: to whom; 0.0.0.0/0 and ::/0 for everybody."),
]
_COLUMNS = (
    table.Column("NAME", least=16),
    table.Column("RULES", right=True),
    table.Column("STATE"),
    table.Column("TITLE", least=12),
)


def create(
    name: Annotated[str, typer.Argument(metavar="GROUP", help="What it is called.")],
    title: Annotated[str, typer.Option(metavar="TEXT", help="What it is, in free text.")] = "",
    project: options.Project = options.DEFAULT,
    json: options.Json = False,
) -> None:
    """Make a group. NICs that refer to it let in what its rules allow, and no more.

    Examples:
      bocage firewall group create web
    """
    with session.connect(project) as api:
        made = api.firewall_groups.create({"name": name, "title": title})
    if json:
        output.document(made)
    else:
        output.line(f"firewall group {name} is there: 'bocage firewall rule add {name} tcp 80,443' lets something in")


def list_groups(project: options.Project = options.DEFAULT, json: options.Json = False) -> None:
    """List the groups.

    Examples:
      bocage firewall group list
    """
    with session.connect(project) as api:
        found = api.firewall_groups.list()
    if json:
        output.document(found)
    elif not found["items"]:
        output.complain("no firewall group: 'bocage firewall group create NAME' makes one")
    else:
        output.line(table.render(_COLUMNS, [_row(one) for one in sorted(found["items"], key=output.named)]))


def _row(group: rest.Document) -> tuple[str, ...]:
    return (
        output.named(group),
        str(len(group["spec"]["rules"])),
        group["status"]["state"],
        group["metadata"].get("title") or "",
    )


def show(name: GroupName, project: options.Project = options.DEFAULT, json: options.Json = False) -> None:
    """Show a group and its rules.

    Examples:
      bocage firewall group show web
    """
    with session.connect(project) as api:
        group = api.firewall_groups.get(name)
    if json:
        output.document(group)
        return
    status, about = group["status"], group["metadata"]
    facts: list[tuple[str, object]] = [("name", about["name"]), *people.described(about), ("state", status["state"])]
    facts.append(("reason", people.saying(status.get("reason"))))
    facts += [("" if number else "rules", _written(rule)) for number, rule in enumerate(group["spec"]["rules"])]
    output.line(table.facts(facts))


def _written(rule: rest.Document) -> str:
    """As it is typed: `tcp 80,443 --from 10.0.0.0/8`."""
    words = [rule["protocol"], ",".join(rule["ports"])]
    option = "--from" if rule["direction"] == "in" else "--to"
    peers = rule["peers"] or ([] if rule["direction"] == "in" else ["0.0.0.0/0", "::/0"])
    words += [f"{option} {peer}" for peer in peers]
    return " ".join(word for word in words if word)


def set_(
    name: GroupName,
    title: describe.Title = None,
    notes: describe.Notes = None,
    tag: describe.Tags = None,
    project: options.Project = options.DEFAULT,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Say what a group is: title, notes, tags.

    Examples:
      bocage firewall group set web --title "What the shop needs"
    """
    changes = describe.given(title=title, notes=notes, tag=tag)
    with session.connect(project) as api:
        task = api.firewall_groups.change(name, changes)
        waiting.finish(api, task, wait=wait, json=json, said=f"firewall group {name} is changed")


def delete(name: GroupName, project: options.Project = options.DEFAULT) -> None:
    """Delete a group that no NIC refers to.

    Examples:
      bocage firewall group delete web
    """
    with session.connect(project) as api:
        api.firewall_groups.delete(name)
    output.line(f"firewall group {name} is gone")


def add(
    name: GroupName,
    protocol: Protocol,
    ports: Ports = "",
    peers: From = None,
    to: To = None,
    project: options.Project = options.DEFAULT,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Let something in, or with --to let something out; at once, also for VMs that run.

    What goes out is free until a group of the NIC has a rule with --to: then only that goes out.

    Examples:
      bocage firewall rule add web tcp 80,443
      bocage firewall rule add office tcp 22 --from 192.168.7.0/24
      bocage firewall rule add quiet udp 53 --to 0.0.0.0/0
    """
    rule = _rule(protocol, ports, peers, to)
    with session.connect(project) as api:
        group = api.firewall_groups.get(name)
        present = group["spec"]["rules"]
        rules = present if any(_same(one, rule) for one in present) else [*present, rule]
        task = api.firewall_groups.change(name, {"rules": rules}, etag=group["metadata"]["revision"])
        waiting.finish(api, task, wait=wait, json=json, said=f"{name} lets through: {_written(rule)}")


def remove(
    name: GroupName,
    protocol: Protocol,
    ports: Ports = "",
    peers: From = None,
    to: To = None,
    project: options.Project = options.DEFAULT,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Take a rule away, given as 'bocage firewall group show' prints it.

    Examples:
      bocage firewall rule remove web tcp 80,443
    """
    rule = _rule(protocol, ports, peers, to)
    with session.connect(project) as api:
        group = api.firewall_groups.get(name)
        left = [one for one in group["spec"]["rules"] if not _same(one, rule)]
        if len(left) == len(group["spec"]["rules"]):
            raise failure.Usage(
                option="RULE",
                wrong=f"{name} has no rule '{_written(rule)}'",
                right=f"'bocage firewall group show {name}' prints what it has",
            )
        task = api.firewall_groups.change(name, {"rules": left}, etag=group["metadata"]["revision"])
        waiting.finish(api, task, wait=wait, json=json, said=f"{name} no longer has: {_written(rule)}")


def _rule(protocol: str, ports: str, peers: list[str] | None, to: list[str] | None) -> rest.Document:
    if protocol not in ("tcp", "udp", "icmp", "any"):
        raise failure.Usage(option="PROTOCOL", wrong=f"'{protocol}' is none", right="tcp, udp, icmp or any")
    if peers and to:
        raise failure.Usage(option="--to", wrong="a rule is for what comes in or for what goes out", right="two rules")
    return {
        "direction": "out" if to else "in",
        "protocol": protocol,
        "ports": [one.strip() for one in ports.split(",") if one.strip()],
        "peers": list(to or peers or []),
    }


def _same(one: rest.Document, other: rest.Document) -> bool:
    """Whether two rules say the same, however they are written."""
    from bocage.model import firewall

    return firewall.FirewallRule.model_validate(one) == firewall.FirewallRule.model_validate(other)


GROUP = lazy.Group(
    "firewall group",
    help="Named groups of rules.",
    verbs={
        "Groups": {
            "create": "firewall:create",
            "list": "firewall:list_groups",
            "show": "firewall:show",
            "set": "firewall:set_",
            "delete": "firewall:delete",
        }
    },
)
RULE = lazy.Group(
    "firewall rule",
    help="What a group lets through.",
    verbs={"Rules": {"add": "firewall:add", "remove": "firewall:remove"}},
)
NOUN = lazy.Group(
    "firewall",
    help="What comes in to NICs: groups of rules.",
    verbs={"Firewall": {"group": "firewall:GROUP", "rule": "firewall:RULE"}},
)
