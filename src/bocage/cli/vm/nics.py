"""A VM's NICs: attach, detach, set."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from bocage.cli import complete, failure, lazy, options, read, session
from bocage.cli.vm import carried, share
from bocage.client import rest

NicName = Annotated[str, typer.Argument(metavar="NIC", help="The NIC, as 'bocage vm show' calls it: nic1.")]
Network = Annotated[
    str | None, typer.Option(metavar="NETWORK", help="The network it is on.", autocompletion=complete.networks)
]
Ip = Annotated[
    str | None, typer.Option("--ip", metavar="ADDRESS", help="The address that its network keeps for it, or 'any'.")
]
Allow = Annotated[
    list[str] | None,
    typer.Option(
        "--allow",
        metavar="CIDR",
        help="A further address or subnet that it may use; '' for none. Without DHCP of ours: each that it uses.",
    ),
]
Vlan = Annotated[
    str | None, typer.Option(metavar="ID", help="The VLAN of its untagged packets; 'none' for the network's own.")
]
Trunk = Annotated[
    str | None, typer.Option(metavar="ID,...", help="VLANs whose packets it sends and gets tagged; '' for none.")
]
Spoofing = Annotated[
    str | None, typer.Option(metavar="deny|allow", help="Whether it may pass for anybody: for a router.")
]
Firewall = Annotated[
    str | None,
    typer.Option(metavar="GROUP,...", help="The groups whose rules say what comes in; '' for none: everything does."),
]
Publish = Annotated[
    list[str] | None, typer.Option(metavar="HOST:GUEST", help="A port of the host that leads inside: 2222:22.")
]


def attach(
    name: options.VMName,
    network: Network = None,
    model: Annotated[str | None, typer.Option(metavar="MODEL", help="virtio, e1000, rtl8139, …")] = None,
    mac: Annotated[str | None, typer.Option(metavar="MAC", help="Its address; made when not given.")] = None,
    publish: Publish = None,
    unplugged: Annotated[bool, typer.Option("--unplugged", help="With its cable out.")] = False,
    ip: Ip = None,
    allow: Allow = None,
    vlan: Vlan = None,
    trunk: Trunk = None,
    spoofing: Spoofing = None,
    firewall: Firewall = None,
    project: options.Project = options.DEFAULT,
    json: options.Json = False,
) -> None:
    """Attach a NIC. The VM may run.

    Examples:
      bocage vm nic attach web1 --network default
      bocage vm nic attach web1 --network lab --model e1000
    """
    request = rest.given(
        network=network,
        model=model,
        mac=mac,
        publish=[read.publish(one) for one in publish] if publish else None,
        connected=False if unplugged else None,
        **_fence(None if ip == "any" else ip, allow, spoofing, firewall),
        **_vlans(None if vlan == "none" else vlan, trunk),
    )
    with session.connect(project) as api:
        made = api.vms.attach_nic(name, request)
        nic = made["spec"]["nics"][-1]
        carried.told(api, made, f"{name} has {nic['name']} ({nic['model']}, {nic['mac']})", json=json)


def detach(
    name: options.VMName, nic: NicName, project: options.Project = options.DEFAULT, json: options.Json = False
) -> None:
    """Take a NIC away from a VM. The VM may run.

    Examples:
      bocage vm nic detach web1 nic1
    """
    with session.connect(project) as api:
        carried.told(api, api.vms.detach_nic(name, nic), f"{name} no longer has {nic}", json=json)


def set_(
    name: options.VMName,
    nic: NicName,
    network: Network = None,
    link: Annotated[str | None, typer.Option(metavar="up|down", help="Put its cable in, or pull it out.")] = None,
    publish: Publish = None,
    rate: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Bytes a second: 10M, in=10M,out=2M, 'none' for no limit.")
    ] = None,
    ip: Ip = None,
    allow: Allow = None,
    vlan: Vlan = None,
    trunk: Trunk = None,
    spoofing: Spoofing = None,
    firewall: Firewall = None,
    project: options.Project = options.DEFAULT,
    json: options.Json = False,
) -> None:
    """Change a NIC: its network, cable, published ports, rate, addresses, firewall. The VM may run.

    Examples:
      bocage vm nic set web1 nic0 --network lab
      bocage vm nic set web1 nic0 --link down
      bocage vm nic set web1 nic0 --publish ''
      bocage vm nic set web1 nic0 --rate in=10M,out=2M
      bocage vm nic set web1 nic0 --firewall web,ssh
      bocage vm nic set web1 nic0 --vlan 10
      bocage vm nic set web1 nic0 --allow 10.80.1.200 --allow 10.9.0.0/16
    """
    if link not in (None, "up", "down"):
        raise failure.Usage(option="--link", wrong=f"{link!r} is neither", right="--link up, --link down")
    ports = None if publish is None else [read.publish(one) for one in publish if one]
    patch = rest.given(
        network=network,
        connected=None if link is None else link == "up",
        publish=ports,
        rate=None if rate is None else share.rate(rate, option="--rate"),
        **_fence(ip, allow, spoofing, firewall),
        **_vlans(vlan, trunk),
    )
    if not patch:
        raise failure.Usage(option="OPTIONS", wrong="nothing to change was given", right="--network lab, --link down")
    with session.connect(project) as api:
        carried.told(api, api.vms.change_nic(name, nic, patch), f"{nic} of {name} is changed", json=json)


def _fence(ip: str | None, allow: list[str] | None, spoofing: str | None, firewall: str | None) -> dict[str, Any]:
    if spoofing not in (None, "deny", "allow"):
        raise failure.Usage(option="--spoofing", wrong=f"{spoofing!r} is neither", right="deny, allow")
    groups = None if firewall is None else [one.strip() for one in firewall.split(",") if one.strip()]
    allowed = None if allow is None else [one for one in allow if one]
    return {"ip": ip, "allowed": allowed, "spoofing": spoofing, "firewall": groups}


def _vlans(vlan: str | None, trunk: str | None) -> dict[str, Any]:
    try:
        own = int(vlan) if vlan not in (None, "none") else vlan
        tagged = None if trunk is None else [int(one) for one in trunk.split(",") if one.strip()]
    except ValueError as error:
        raise failure.Usage(option="--vlan", wrong="a VLAN is a number", right="--vlan 10, --trunk 10,20") from error
    return {"vlan": own, "trunk": tagged}


NIC = lazy.Group(
    "vm nic",
    help="A VM's NICs.",
    verbs={"NICs": {"attach": "vm.nics:attach", "detach": "vm.nics:detach", "set": "vm.nics:set_"}},
)
