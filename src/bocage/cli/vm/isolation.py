"""What a VM's process really may."""

from __future__ import annotations

import collections
from typing import Annotated, Any

import typer

from bocage.cli import options, output, people, session, table

_MOUNTS = (table.Column("IT SEES", least=20), table.Column("FROM", least=20), table.Column("MAY"))
_OPENED = (table.Column("HAS OPEN", least=20), table.Column("TIMES", right=True), table.Column("MAY"))
_NAMES = {"mnt": "files", "net": "network", "ipc": "IPC", "uts": "host name", "pid": "processes", "user": "users"}


def isolation(
    name: options.VMName,
    brief: Annotated[bool, typer.Option("--brief", help="Without what it sees and has open.")] = False,
    project: options.Project = options.DEFAULT,
    json: options.Json = False,
) -> None:
    """Show what a running VM's QEMU process really may, read from the kernel.

    Its user, rights, system calls, files, network: as they are, not as they were meant. What
    holds it less than it could be held is told as a gap.

    Examples:
      bocage vm isolation web1
      bocage vm isolation web1 --json | jq -r '.opened[].what'
    """
    with session.connect(project) as api:
        found = api.vms.isolation(name)
    if json:
        output.document(found)
        return
    output.line(table.facts(_facts(found)))
    if not brief:
        mounts = [(one["path"], one["source"], _may(one)) for one in found["mounts"]]
        output.line("\n" + table.render(_MOUNTS, mounts))
        opened = collections.Counter((one["what"], _may(one)) for one in found["opened"])
        output.line("\n" + table.render(_OPENED, [(what, times, may) for (what, may), times in opened.items()]))


def _facts(found: dict[str, Any]) -> list[tuple[str, object]]:
    groups = ", ".join(map(str, found["groups"])) or "none"
    held = found["threads"] - found["threads_unfiltered"]
    gaps = [people.saying(gap) + _advice(gap) for gap in found["gaps"]]
    return [
        ("process", found["pid"]),
        ("user", f"uid {found['uid']}, gid {found['gid']}, further groups: {groups}"),
        ("capabilities", _capabilities(found["capabilities"])),
        ("set-uid programs", "give it nothing" if not found["new_privileges"] else "could give it more rights"),
        ("system calls", f"{found['seccomp']}: {held} of {found['threads']} threads are held by it"),
        ("its own", ", ".join(_NAMES.get(one, one) for one in found["own_namespaces"])),
        ("shared", ", ".join(_NAMES.get(one, one) for one in found["shared_namespaces"])),
        ("interfaces", ", ".join(found["interfaces"]) or "none"),
        ("control groups", "\n".join(found["groups_of_control"]) or "none of its own"),
        ("gaps", "\n".join(gaps) or "none"),
    ]


def _capabilities(sets: dict[str, list[str]]) -> str:
    told = [f"{kind}: {', '.join(names)}" for kind, names in sets.items() if names]
    return "\n".join(told) or "none, and none can be gained"


def _advice(gap: dict[str, Any]) -> str:
    return f" ({hint})" if (hint := people.hint(gap)) else ""


def _may(one: dict[str, Any]) -> str:
    return "write" if one["writable"] else "read"
