"""`bocage template`: sealed VMs that others are made from at once."""

from __future__ import annotations

from typing import Annotated

import typer

from bocage.cli import complete, describe, failure, lazy, options, output, people, session, table, waiting
from bocage.client import rest

TemplateName = Annotated[str, typer.Argument(metavar="NAME", help="The template.", autocompletion=complete.templates)]
_COLUMNS = (
    table.Column("NAME", least=16),
    table.Column("VERSIONS", right=True),
    table.Column("NEWEST"),
    table.Column("DISKS", right=True),
    table.Column("TITLE", least=12),
)


def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is called.")],
    vm: Annotated[str, typer.Option("--vm", metavar="VM", help="The VM, which is off.", autocompletion=complete.vms)],
    snapshot: Annotated[
        str | None, typer.Option(metavar="SNAPSHOT", help="As this snapshot has it; then it may run.")
    ] = None,
    title: describe.Title = None,
    project: options.Project = options.DEFAULT,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Seal a VM: what it holds now is kept for ever, and VMs are made from it at once.

    Under a name that is there already it becomes that template's next version. What tells
    one machine from the other (host keys, machine-id) is for you to take out first.

    Examples:
      bocage template create web --vm web1
      bocage template create web --vm web1 --snapshot patched
    """
    with session.connect(project) as api:
        task = api.templates.create(rest.given(name=name, vm=vm, snapshot=snapshot, title=title))
        waiting.finish(api, task, wait=wait, json=json, said=lambda done: _sealed(name, done))


def _sealed(name: str, task: rest.Document) -> str:
    number = (task["status"].get("result") or {}).get("version")
    return f"{name} has version {number}: 'bocage vm create NEW --from-template {name}'"


def list_templates(project: options.Project = options.DEFAULT, json: options.Json = False) -> None:
    """List the templates.

    Examples:
      bocage template list
    """
    with session.connect(project) as api:
        found = api.templates.list()
    if json:
        output.document(found)
    elif not found["items"]:
        output.complain("no template: 'bocage template create --help' shows how one is made")
    else:
        output.line(table.render(_COLUMNS, [_row(one) for one in sorted(found["items"], key=output.named)]))


def _row(one: rest.Document) -> tuple[str, ...]:
    newest = one["spec"]["versions"][-1]
    return (
        output.named(one),
        str(len(one["spec"]["versions"])),
        f"{newest['number']} ({people.ago(newest['made'])})",
        str(len(newest["disks"])),
        one["metadata"].get("title") or "",
    )


def show(name: TemplateName, project: options.Project = options.DEFAULT, json: options.Json = False) -> None:
    """Show a template and its versions.

    Examples:
      bocage template show web
    """
    with session.connect(project) as api:
        one = api.templates.get(name)
    if json:
        output.document(one)
        return
    about = one["metadata"]
    facts: list[tuple[str, object]] = [("name", output.named(one)), ("uid", about["uid"]), *people.described(about)]
    for version in one["spec"]["versions"]:
        disks = ", ".join(f"{disk['disk']} {disk['size']}" for disk in version["disks"])
        was = version["machine"]
        facts.append(
            (
                f"version {version['number']}",
                f"{people.clock(version['made'])}: {people.cpus(was['cpus'])} vCPUs, {was['memory']}, {disks}",
            )
        )
    output.line(table.facts(facts))


def delete(
    name: Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="The template, or one version: web@1.")],
    project: options.Project = options.DEFAULT,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Delete a template, or one version of it, that no VM is linked to.

    Examples:
      bocage template delete web@1
    """
    label, at, number = name.partition("@")
    if at and not number.isdigit():
        raise failure.Usage(option="NAME", wrong=f"'{name}' names no version", right="write web@1")
    with session.connect(project) as api:
        task = api.templates.remove(label, version=int(number) if at else None)
        waiting.finish(api, task, wait=wait, json=json, said=f"{name} is gone")


NOUN = lazy.Group(
    "template",
    help="Sealed VMs that others are made from at once.",
    verbs={
        "Templates": {
            "create": "template:create",
            "list": "template:list_templates",
            "show": "template:show",
            "set": "describe:template",
            "delete": "template:delete",
        },
    },
)
