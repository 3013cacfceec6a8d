"""Options and arguments that many commands have."""

from __future__ import annotations

from typing import Annotated

import typer

from bocage.cli import complete

EVERYWHERE = "As everywhere"  # the panel of these options
DEFAULT = "default"

Json = Annotated[bool, typer.Option("--json", help="Print what the API answers.", rich_help_panel=EVERYWHERE)]
Project = Annotated[
    str,
    typer.Option(
        "--project", metavar="PROJECT", envvar="BOCAGE_PROJECT", help="Whose it is.", rich_help_panel=EVERYWHERE
    ),
]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is done.", rich_help_panel=EVERYWHERE)]
Replaced = Annotated[
    list[str] | None,
    typer.Option(
        "--network", metavar="OLD=NEW", help="Put NICs that were on OLD on the network NEW of here. Can be repeated."
    ),
]
VMName = Annotated[str, typer.Argument(metavar="NAME", help="The VM.", autocompletion=complete.vms)]
VMNames = Annotated[list[str], typer.Argument(metavar="NAME...", help="The VMs.", autocompletion=complete.vms)]
