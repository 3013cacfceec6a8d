"""`bocage network`: what NICs are plugged into."""

from __future__ import annotations

from typing import Annotated

import typer

from bocage.cli import complete, lazy, options, output, people, session, table, waiting
from bocage.client import rest

NetworkName = Annotated[str, typer.Argument(metavar="NAME", help="The network.", autocompletion=complete.networks)]
_COLUMNS = (
    table.Column("NAME", least=16),
    table.Column("KIND"),
    table.Column("STATE"),
    table.Column("SUBNET", least=14),
    table.Column("BRIDGE"),
    table.Column("CARRIED BY"),
)


def list_networks(project: options.Project = options.DEFAULT, json: options.Json = False) -> None:
    """List the networks.

    Examples:
      bocage network list
    """
    with session.connect(project) as api:
        found = api.networks.list()
    if json:
        output.document(found)
    else:
        output.line(table.render(_COLUMNS, [_row(one) for one in sorted(found["items"], key=output.named)]))


def _row(network: rest.Document) -> tuple[str, ...]:
    spec, status = network["spec"], network["status"]
    return (
        output.named(network),
        spec["kind"],
        status["state"],
        status.get("subnet") or spec.get("subnet") or people.NOTHING,
        status.get("bridge") or people.NOTHING,
        status.get("backend") or people.NOTHING,
    )


def show(name: NetworkName, project: options.Project = options.DEFAULT, json: options.Json = False) -> None:
    """Show one network.

    Examples:
      bocage network show default
    """
    with session.connect(project) as api:
        network = api.networks.get(name)
    if json:
        output.document(network)
        return
    spec, status, about = network["spec"], network["status"], network["metadata"]
    output.line(
        table.facts(
            [
                ("name", about["name"]),
                *people.described(about),
                ("uid", about["uid"]),
                ("state", status["state"]),
                ("reason", people.saying(status.get("reason"))),
                ("kind", spec["kind"]),
                ("subnet", status.get("subnet") or spec.get("subnet")),
                ("dhcp", people.yes(spec["dhcp"]) if spec["kind"] in ("nat", "isolated") else ""),
                ("NIC", " ".join(one for one in (spec.get("nic"), status.get("nic")) if one)),
                ("bond", spec.get("bond_mode") or ("active-backup" if "," in (spec.get("nic") or "") else "")),
                ("goes back", people.ago(status["confirm_by"]) if status.get("confirm_by") else ""),
                ("IPv6", "yes" if spec.get("ipv6") else ""),
                ("VLANs", "yes" if spec.get("vlans") else ""),
                ("mtu", spec.get("mtu")),
                ("bridge", status.get("bridge")),
                ("carried by", status.get("backend")),
            ]
        )
    )


def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is called.")],
    kind: Annotated[
        str | None,
        typer.Option(metavar="user|nat|isolated|bridge", help="user needs no rights; the others need root."),
    ] = None,
    subnet: Annotated[str | None, typer.Option(metavar="CIDR", help="10.80.1.0/24; chosen when not given.")] = None,
    dhcp: Annotated[bool, typer.Option("--dhcp/--no-dhcp", help="Give addresses.")] = True,
    nic: Annotated[
        str | None,
        typer.Option(metavar="NIC[,NIC]", help="For kind bridge: the host's NIC, by name or MAC; or several."),
    ] = None,
    bond_mode: Annotated[
        str | None, typer.Option(metavar="active-backup|balance-xor|802.3ad", help="How several NICs are one.")
    ] = None,
    ipv6: Annotated[bool, typer.Option("--ipv6", help="Advertise an IPv6 prefix of its own.")] = False,
    vlans: Annotated[bool, typer.Option("--vlans", help="NICs can be on VLANs of it.")] = False,
    mtu: Annotated[int | None, typer.Option(metavar="BYTES", help="The largest packet; 1500 when not given.")] = None,
    project: options.Project = options.DEFAULT,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Make a network.

    Examples:
      bocage network create lan --kind nat
      bocage network create lab --kind isolated --subnet 10.80.7.0/24
      bocage network create office --kind bridge --nic eth0
      bocage network create office --kind bridge --nic eno1,eno2 --bond-mode 802.3ad
    """
    request = rest.given(name=name, kind=kind, subnet=subnet, dhcp=None if dhcp else False, nic=nic, mtu=mtu)
    request |= rest.given(bond_mode=bond_mode)
    request |= {field: True for field, asked in (("vlans", vlans), ("ipv6", ipv6)) if asked}
    said = f"network {name} is ready"
    if kind == "bridge":
        said = f"network {name} is there; within a minute 'bocage network confirm {name}', or {nic} is as it was before"
    with session.connect(project) as api:
        waiting.finish(api, api.networks.create(request), wait=wait, json=json, said=said)


def confirm(
    name: NetworkName,
    project: options.Project = options.DEFAULT,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Let a network stay on the host's NIC that it was put onto; you still reach the host, then.

    Examples:
      bocage network confirm office
    """
    with session.connect(project) as api:
        waiting.finish(api, api.networks.confirm(name), wait=wait, json=json, said=f"network {name} stays")


def delete(
    name: NetworkName,
    project: options.Project = options.DEFAULT,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Delete a network; refused while a VM has a NIC on it.

    Examples:
      bocage network delete lab
    """
    with session.connect(project) as api:
        waiting.finish(api, api.networks.delete(name), wait=wait, json=json, said=f"network {name} is gone")


NOUN = lazy.Group(
    "network",
    help="Networks: what NICs are plugged into.",
    verbs={
        "Networks": {
            "list": "network:list_networks",
            "show": "network:show",
            "create": "network:create",
            "confirm": "network:confirm",
            "set": "describe:network",
            "delete": "network:delete",
        }
    },
)
