"""`bocage os`: the operating systems that VMs can be made for."""

from __future__ import annotations

from typing import Annotated

import typer

from bocage.cli import complete, lazy, options, output, session, table
from bocage.client import rest

_COLUMNS = (
    table.Column("NAME", least=16),
    table.Column("RELEASED"),
    table.Column("MACHINE"),
    table.Column("DISK"),
    table.Column("NIC"),
    table.Column("VIDEO"),
    table.Column("TITLE"),
)


def list_systems(
    pattern: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="Only those with it in their names.", show_default=False)
    ] = None,
    json: options.Json = False,
) -> None:
    """List the operating systems that are known, with the hardware that a VM for each gets.

    Examples:
      bocage os list
      bocage os list win2k
    """
    with session.connect() as api:
        found = api.systems()
    if pattern:
        wanted = pattern.lower()
        found["items"] = [
            one
            for one in found["items"]
            if any(wanted in text.lower() for text in (one["name"], one["title"], *one["also"]))
        ]
    if json:
        output.document(found)
        return
    if not found["items"]:
        output.complain("none is known by that name")
        return
    output.line(table.render(_COLUMNS, [_row(one) for one in found["items"]]))


def _row(system: rest.Document) -> tuple[str, ...]:
    chosen = system["hardware"]
    return (
        system["name"],
        (system["released"] or "")[:4],
        chosen["machine"],
        chosen["disk_bus"],
        chosen["nic_model"],
        chosen["video"],
        system["title"],
    )


def show(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The system: win2k3, debian11.", autocompletion=complete.systems)
    ],
    json: options.Json = False,
) -> None:
    """Show an operating system and the hardware that a VM for it gets.

    Examples:
      bocage os show win2k3
    """
    with session.connect() as api:
        system = api.system(name)
    if json:
        output.document(system)
        return
    chosen = system["hardware"]
    limits = chosen.get("limits") or {}
    output.line(
        table.facts(
            [
                ("name", ", ".join([system["name"], *system["also"]])),
                ("title", system["title"]),
                ("released", system["released"]),
                ("ended", system["ended"]),
                ("machine", chosen["machine"]),
                ("firmware", chosen["firmware"]),
                ("CPU model", chosen["cpu_model"] or "the host's usual one"),
                ("CPUs", chosen["cpus"]),
                ("memory", chosen["memory"]),
                ("disk", f"{chosen['disk']}, {chosen['disk_bus']}"),
                ("NIC", chosen["nic_model"]),
                ("SCSI", chosen["scsi"]),
                ("USB", chosen.get("usb") or ""),
                ("video", chosen["video"]),
                ("sound", chosen["sound"]),
                ("pointer", chosen["pointer"]),
                ("memory later", chosen.get("added_memory") or ""),
                ("clock", chosen["rtc"]["base"] + (", slewed" if chosen["rtc"]["drift"] == "slew" else "")),
                ("Hyper-V", ", ".join(chosen["hyperv"])),
                ("at most", ", ".join(f"{value} {what}" for what, value in limits.items() if value)),
            ]
        )
    )


NOUN = lazy.Group(
    "os",
    help="Operating systems, and the hardware that VMs for them get.",
    verbs={"Operating systems": {"list": "systems:list_systems", "show": "systems:show"}},
)
