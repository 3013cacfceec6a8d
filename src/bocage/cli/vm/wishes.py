"""Which hosts a VM may be on, and with whom, as options and as it is shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from bocage.cli import read

PANEL = "Where it may be ('none' for anywhere)"
_NONE = "none"


def _option(metavar: str, help_: str) -> Any:
    return typer.Option(metavar=metavar, help=help_, rich_help_panel=PANEL)


Apart = Annotated[list[str] | None, _option("GROUP", "Never on one host with others of this group.")]
Together = Annotated[list[str] | None, _option("GROUP", "Always on one host with others of this group.")]
HostTag = Annotated[list[str] | None, _option("TAG", "Only on hosts with this tag.")]


def given(*, apart: list[str] | None, together: list[str] | None, host_tag: list[str] | None) -> dict[str, list[str]]:
    """What of the wishes is given: each list whole."""
    asked = {"apart": apart, "together": together, "host_tags": host_tag}
    found = {key: several(values) for key, values in asked.items()}
    return {key: values for key, values in found.items() if values is not None}


def several(values: list[str] | None) -> list[str] | None:
    """A list whole; empty for 'none', None where nothing was given."""
    found = read.several(values) if values else None
    return [] if found == [_NONE] else found


def described(spec: Mapping[str, Any]) -> str:
    """In words; empty for anywhere."""
    wishes = spec.get("placement") or {}
    parts = [
        f"apart from others of {', '.join(wishes['apart'])}" if wishes.get("apart") else "",
        f"together with others of {', '.join(wishes['together'])}" if wishes.get("together") else "",
        f"on hosts with {', '.join(wishes['host_tags'])}" if wishes.get("host_tags") else "",
    ]
    return "; ".join(filter(None, parts))
