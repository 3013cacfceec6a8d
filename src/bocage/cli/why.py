"""`bocage why`: one chain of causes, each with the command that helps."""

from __future__ import annotations

from bocage.cli import options, output, session, table


def why(name: options.VMName, project: options.Project = options.DEFAULT, json: options.Json = False) -> None:
    """Say why a VM is stopped, slow to start, or not what was asked for.

    Examples:
      bocage why web1
    """
    with session.connect(project) as api:
        chain = api.vms.why(name)
    if json:
        output.document({"chain": chain})
        return
    for depth, cause in enumerate(chain):
        output.line(table.paragraph(cause["text"], lead="because " if depth else ""))
        if cause.get("hint"):
            output.line(table.paragraph(cause["hint"], lead="  → "))
