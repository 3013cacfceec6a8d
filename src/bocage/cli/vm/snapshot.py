"""`bocage vm snapshot`: moments of a VM to which it can go back."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from bocage.cli import describe, failure, lazy, options, output, people, read, session, table, waiting
from bocage.client import rest

Label = Annotated[str, typer.Argument(metavar="SNAPSHOT", help="The snapshot, as 'bocage vm snapshot list' calls it.")]
_COLUMNS = (
    table.Column("SNAPSHOT", least=20),
    table.Column("TAKEN"),
    table.Column("SIZE", right=True),
    table.Column("HOLDS"),
    table.Column("TITLE", least=12),
)
_HOLDS = {
    "memory": "disks, memory",
    "filesystem": "disks (guest asked)",
    "crash": "disks (as at a crash)",
    "stopped": "disks (it was off)",
}


def create(
    name: options.VMName,
    snapshot: Annotated[str, typer.Argument(metavar="SNAPSHOT", help="What it is called.")],
    memory: Annotated[bool, typer.Option("--memory", help="What runs, too: going back goes on from there.")] = False,
    title: Annotated[str | None, typer.Option(metavar="TEXT", help="What it is for.")] = None,
    project: options.Project = options.DEFAULT,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Keep this moment of a VM, running or not: all its disks at one instant.

    Where the guest's agent answers, the guest writes out what it holds first; else the
    disks are as after a power cut, and that is said.

    Examples:
      bocage vm snapshot create web1 before-upgrade
      bocage vm snapshot create web1 running --memory
    """
    with session.connect(project) as api:
        task = api.vms.keep(name, rest.given(name=snapshot, title=title, memory=memory or None))
        waiting.finish(api, task, wait=wait, json=json, said=lambda _: _made(api, name, snapshot))


def _made(api: rest.Client, name: str, snapshot: str) -> str:
    status = api.vms.snapshot(name, snapshot)["status"]
    line = f"{snapshot} of {name} holds {_HOLDS.get(status.get('consistency') or '', 'its disks')}"
    why = people.saying(status.get("reason"))
    return f"{line}: {why}" if why else line


def list_snapshots(
    name: options.VMName, project: options.Project = options.DEFAULT, json: options.Json = False
) -> None:
    """List a VM's snapshots as the tree that they are; `*` is where it has gone on from.

    Examples:
      bocage vm snapshot list web1
    """
    with session.connect(project) as api:
        found = api.vms.snapshots(name)
        present = None if json else api.vms.get(name)["status"].get("snapshot")
    if json:
        output.document(found)
    elif not found["items"]:
        output.complain(f"{name} has no snapshot: 'bocage vm snapshot create {name} NAME' takes one")
    else:
        output.line(table.render(_COLUMNS, list(_tree(found["items"], present))))


def _tree(items: rest.Documents, present: str | None) -> list[tuple[str, ...]]:
    """One row each, children below what they came from."""
    known = {one["metadata"]["uid"] for one in items}
    below: dict[str | None, rest.Documents] = {}
    for one in items:
        parent = one["status"].get("parent")
        below.setdefault(parent if parent in known else None, []).append(one)
    rows: list[tuple[str, ...]] = []
    waiting_ = [(one, 0) for one in reversed(below.get(None, []))]
    while waiting_:
        one, depth = waiting_.pop()
        rows.append(_row(one, depth, present))
        children = below.get(one["metadata"]["uid"], [])
        waiting_ += [(child, depth + (len(children) > 1)) for child in reversed(children)]
    return rows


def _row(one: rest.Document, depth: int, present: str | None) -> tuple[str, ...]:
    status, about = one["status"], one["metadata"]
    mark = " *" if about["uid"] == present else ""
    holds = _HOLDS.get(status.get("consistency") or "", people.NOTHING)
    return (
        "  " * depth + output.named(one) + mark,
        people.ago(status.get("taken")),
        people.size(status.get("size_bytes")),
        holds if status["state"] == "ready" else status["state"],
        about.get("title") or "",
    )


def show(
    name: options.VMName, snapshot: Label, project: options.Project = options.DEFAULT, json: options.Json = False
) -> None:
    """Show one snapshot.

    Examples:
      bocage vm snapshot show web1 before-upgrade
    """
    with session.connect(project) as api:
        one = api.vms.snapshot(name, snapshot)
        others: rest.Documents = [] if json else api.vms.snapshots(name)["items"]
    if json:
        output.document(one)
        return
    status, about, was = one["status"], one["metadata"], one["spec"]["machine"]
    names = {other["metadata"]["uid"]: output.named(other) for other in others}
    output.line(table.facts(_facts(one, status, about, was, names)))


def _facts(one: rest.Document, status: Any, about: Any, was: Any, names: dict[str, str]) -> list[tuple[str, object]]:
    return [
        ("name", output.named(one)),
        ("uid", about["uid"]),
        *people.described(about),
        ("state", status["state"]),
        ("taken", people.clock(status.get("taken"))),
        ("came from", names.get(status.get("parent") or "", "")),
        ("holds", _HOLDS.get(status.get("consistency") or "", "")),
        ("why not better", people.saying(status.get("reason"))),
        ("size", people.size(status.get("size_bytes"))),
        ("vCPUs, memory", f"{people.cpus(was['cpus'])}, {was['memory']}"),
        ("disks", "\n".join(f"{disk['disk']}: {disk['size']}, {disk['file']}" for disk in status["disks"])),
    ]


def set_(
    name: options.VMName,
    snapshot: Label,
    title: describe.Title = None,
    notes: describe.Notes = None,
    tag: describe.Tags = None,
    project: options.Project = options.DEFAULT,
    json: options.Json = False,
) -> None:
    """Say what a snapshot is: title, notes, tags.

    Examples:
      bocage vm snapshot set web1 before-upgrade --title "With the old Java"
    """
    with session.connect(project) as api:
        changes = describe.given(title=title, notes=notes, tag=tag)
        changed = api.vms.describe_snapshot(name, snapshot, changes)
    if json:
        output.document(changed)
    else:
        output.line(f"the snapshot {snapshot} of {name} is changed")


def revert(
    name: options.VMName,
    snapshot: Label,
    force: Annotated[bool, typer.Option("--force", help="Also while it runs: what it does is thrown away.")] = False,
    start: Annotated[bool, typer.Option("--start", help="Start it afterwards.")] = False,
    project: options.Project = options.DEFAULT,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Bring a VM back to a snapshot: disks and board as they were.

    With memory in the snapshot it is saved afterwards, and its next start goes on from
    that moment. What it was before is gone, unless a snapshot has it.

    Examples:
      bocage vm snapshot revert web1 before-upgrade --force --start
    """
    with session.connect(project) as api:
        task = api.vms.revert(name, snapshot, force=force, start=start)
        said = f"{name} is back at {snapshot}" + (", and starts" if start else "")
        waiting.finish(api, task, wait=wait, json=json, said=said)


def delete(
    name: options.VMName,
    snapshot: Label,
    project: options.Project = options.DEFAULT,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Delete a snapshot. The VM may run; what came afterwards stays.

    Examples:
      bocage vm snapshot delete web1 before-upgrade
    """
    with session.connect(project) as api:
        task = api.vms.forget(name, snapshot)
        waiting.finish(api, task, wait=wait, json=json, said=f"{name} has no snapshot {snapshot} any more")


def clone(
    name: options.VMName,
    snapshot: Label,
    copy: Annotated[str, typer.Argument(metavar="NEW", help="What the new VM is called.")],
    start: Annotated[bool, typer.Option("--start", help="Start it, too.")] = False,
    project: options.Project = options.DEFAULT,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Make a VM of its own of what a snapshot holds; the VM may run meanwhile.

    Examples:
      bocage vm snapshot clone web1 before-upgrade web1-test
    """
    with session.connect(project) as api:
        task = api.vms.clone_snapshot(name, snapshot, copy, start=start)
        waiting.finish(api, task, wait=wait, json=json, said=f"{copy} is a copy of {name} at {snapshot}")


def schedule(
    name: options.VMName,
    keep: Annotated[
        str | None, typer.Argument(metavar="KEEP", help="How many of each period: hourly=24,daily=7; off: none.")
    ] = None,
    at: Annotated[str | None, typer.Option(metavar="HH:MM", help="When its days begin: 00:00.")] = None,
    zone: Annotated[str | None, typer.Option(metavar="ZONE", help="Its time zone; else the host's.")] = None,
    memory: Annotated[bool, typer.Option("--memory", help="With the memory of a VM that runs.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what it would do now, and change nothing.")] = False,
    project: options.Project = options.DEFAULT,
    json: options.Json = False,
) -> None:
    """Have snapshots taken by themselves, and the old ones let go.

    One is taken whenever the shortest period begins; the first one of each period is
    kept for as many periods as you say: hourly, daily, weekly, monthly, yearly.

    Examples:
      bocage vm snapshot schedule web1 hourly=24,daily=7 --zone Europe/Paris
      bocage vm snapshot schedule web1 hourly=24,daily=7 --dry-run
      bocage vm snapshot schedule web1 off
    """
    if keep is None and not dry_run and (at or zone or memory):
        raise failure.Usage(option="KEEP", wrong="it is missing: how many of each period", right="hourly=24,daily=7")
    with session.connect(project) as api:
        if keep is not None and not dry_run:
            wanted: Any = keep if keep == "off" else _schedule(keep, at, zone, memory)
            changed = api.vms.change(name, {"snapshots": wanted})
            if keep == "off" or json:
                output.document(changed) if json else output.line(f"{name} has no schedule of snapshots any more")
                return
            at = zone = keep = None
            memory = False
        plan = api.vms.schedule(name, keep=keep, at=at, zone=zone, memory=memory or None)
    if json:
        output.document(plan)
    else:
        output.line(table.facts(_planned(plan)))


def _schedule(keep: str, at: str | None, zone: str | None, memory: bool) -> rest.Document:
    counts = read.counts(keep, option="KEEP")
    return rest.given(keep=counts, at=at, zone=zone, memory=memory or None)


def _planned(plan: rest.Document) -> list[tuple[str, object]]:
    kept = [f"{one['name']}: {', '.join(one['periods']) or 'of a time to come'}" for one in plan["keep"]]
    return [
        ("now", "takes one" if plan["take"] else "takes none"),
        ("next", f"{people.clock(plan['next'])} ({people.ago(plan['next'])})"),
        ("time zone", plan["zone"]),
        ("takes", "disks; of a VM that runs memory, too" if plan["memory"] else "disks"),
        ("keeps", "\n".join(kept)),
        ("lets go", "\n".join(plan["drop"])),
    ]


SNAPSHOT = lazy.Group(
    "vm snapshot",
    help="Moments of a VM to which it can go back.",
    verbs={
        "Snapshots": {
            "create": "vm.snapshot:create",
            "list": "vm.snapshot:list_snapshots",
            "show": "vm.snapshot:show",
            "set": "vm.snapshot:set_",
            "revert": "vm.snapshot:revert",
            "delete": "vm.snapshot:delete",
            "clone": "vm.snapshot:clone",
            "schedule": "vm.snapshot:schedule",
        },
    },
)
