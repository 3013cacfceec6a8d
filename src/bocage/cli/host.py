"""`bocage host`: the machines that VMs run on."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from bocage.cli import complete, failover, lazy, options, output, people, session, table, waiting
from bocage.client import problems, rest

_FAILOVERS = 50  # among the newest of which a host's last one is looked for
HostName = Annotated[
    str | None,
    typer.Argument(metavar="NAME", help="The host; the only one when not given.", autocompletion=complete.hosts),
]
_COLUMNS = (
    table.Column("NAME", least=16),
    table.Column("CPUS", right=True),
    table.Column("MEMORY", right=True),
    table.Column("RUNS ON"),
    table.Column("QEMU"),
    table.Column("BOCAGE"),
    table.Column("SEEN"),
)
_BEATS = table.Column("BEATS")


_DISKS = (
    table.Column("DISK", least=8),
    table.Column("SIZE", right=True),
    table.Column("KIND"),
    table.Column("MODEL"),
    table.Column("SERIAL"),
    table.Column("HEALTH"),
    table.Column("HOLDS"),
)
_USB = (
    table.Column("DEVICE"),
    table.Column("PORT"),
    table.Column("SERIAL"),
    table.Column("MAKER", least=8),
    table.Column("MODEL", least=8),
    table.Column("USED BY"),
)
_USB_PARTS = ("id", "port", "serial", "maker", "model")


def list_hosts(json: options.Json = False) -> None:
    """List the hosts.

    Examples:
      bocage host list
    """
    with session.connect() as api:
        found = api.hosts.list()
        stands = {} if json else standing(api)
    if json:
        output.document(found)
        return
    hosts = sorted(found["items"], key=output.named)
    if not stands:
        output.line(table.render(_COLUMNS, [_row(one) for one in hosts]))
        return
    rows = [(*_row(one), beats(stands.get(one["metadata"]["uid"]))) for one in hosts]
    output.line(table.render((*_COLUMNS, _BEATS), rows))
    output.complain(f"{stands['']} leads")


def standing(api: rest.Client) -> dict[str, Any]:
    """How each host of a cluster stands, by its uid, and under "" who leads; empty outside of one."""
    try:
        found = api.failovers.standing()
    except problems.Error:
        return {}
    if not found["leader"]:
        return {}
    return {"": found["leader"], **{one["host"]: one for one in found["hosts"]}}


def beats(stands: rest.Document | None) -> str:
    """Whether a host beats, and since when it does not."""
    if stands is None or stands["state"] == "never":
        return "never did"
    if stands["state"] == "beats":
        return "yes"
    ended = {"silent": "", "fenced": "; fenced", "proven-dead": "; proven dead"}[stands["state"]]
    return f"silent since {people.clock(stands['since'])}{ended}"


def _row(host: rest.Document) -> tuple[str, ...]:
    status = host["status"]
    return (
        output.named(host),
        str(status["cpus"]),
        people.size(status["memory_bytes"]),
        status.get("accelerator") or "?",
        status.get("qemu") or "none",
        status.get("version") or "?",
        people.ago(status.get("seen")),
    )


def show(
    name: HostName = None,
    json: options.Json = False,
) -> None:
    """Show a host: what it has, which accelerator VMs run on, and why.

    Examples:
      bocage host show
    """
    with session.connect() as api:
        host = api.hosts.get(name) if name else _the_only(api)
        use = _use(api, host) if not json else []
        stands = standing(api) if not json else {}
        lost = _lost(api, host) if stands else ""
    if json:
        output.document(host)
        return
    status, about = host["status"], host["metadata"]
    output.line(
        table.facts(
            [
                ("name", about["name"]),
                *people.described(about),
                ("uid", about["uid"]),
                ("problem", people.saying(status.get("problem"))),
                ("accelerator", status.get("accelerator")),
                ("because", people.saying(status.get("accelerator_reason"))),
                ("what helps", people.hint(status.get("accelerator_reason"))),
                ("qemu", status.get("qemu") or "none is installed"),
                ("machines", ", ".join(f"{alias}: {full}" for alias, full in (status.get("machines") or {}).items())),
                ("CPU model", status.get("cpu_model")),
                ("firmware", ", ".join(status.get("firmware") or ())),
                ("CPUs", status.get("cpus")),
                ("memory", people.size(status.get("memory_bytes")) + _aside(host["spec"])),
                *use,
                *_bmc(host),
                *_stands(stands, host["metadata"]["uid"]),
                ("last lost", lost),
                ("kernel", status.get("kernel")),
                ("runs as root", people.yes(status.get("privileged"))),
                ("drained", "gets no VMs until 'bocage host undrain'" if host["spec"].get("drained") else ""),
                ("its VMs", "are off until the machine's next start" if status.get("leaving") else ""),
                ("home", status.get("home")),
                ("bocage", status.get("version")),
                ("seen", people.ago(status.get("seen"))),
            ]
        )
    )


def _lost(api: rest.Client, host: rest.Document) -> str:
    """The VMs that its last failover gave to others, and when."""
    uid = host["metadata"]["uid"]
    of_it = [one for one in api.failovers.list(limit=_FAILOVERS)["items"] if one["spec"]["host"] == uid]
    if not of_it:
        return ""
    newest = of_it[-1]
    names = [one["vm"]["name"] for one in newest["status"]["vms"] if one.get("to") and one["to"]["uid"] != uid]
    since = people.clock(newest["status"].get("silent_since"))
    return f"{', '.join(names) or 'nothing'} at {since}: 'bocage failover show {output.named(newest)}'"


def _bmc(host: rest.Document) -> list[tuple[str, object]]:
    """Its BMC, and whether it is seen to be its own."""
    bmc, status = host["spec"].get("bmc"), host["status"]
    own = status.get("smbios_uuid") or "not known"
    if not bmc:
        return [("BMC", "none is set"), ("system UUID", own)]
    system = f", system {bmc['system']}" if bmc["system"] else ""
    seen = status.get("bmc") or {}
    if (seen.get("address"), seen.get("system")) != (bmc["address"], bmc["system"]):
        told = "not asked yet"
    elif seen.get("problem"):
        told = people.saying(seen["problem"])
    elif seen["own"]:
        told = f"{seen['uuid']}: this machine's"
    else:
        told = f"{seen['uuid'] or 'none'}: NOT this machine's, so nothing is switched off by it"
    where = f"{bmc['kind']} at {bmc['address']} as {bmc['user']}{system}"
    return [("BMC", where), ("its system UUID", told), ("system UUID", own)]


def _stands(stands: dict[str, Any], uid: str) -> list[tuple[str, object]]:
    """Whether it beats, who leads, and what could prove its death."""
    if not stands:
        return []
    one = stands.get(uid)
    told = failover.proofs(one["proofs"]) if one else []
    return [("beats", beats(one)), ("the leader is", stands[""]), *told]


def _aside(spec: dict[str, Any]) -> str:
    size = spec.get("memory_for_vms", "usual")
    return "" if size == "usual" else f", {size} of it for VMs"


def disks(name: HostName = None, json: options.Json = False) -> None:
    """List the disks of a host: what each is, how it is, and what lies on it. An empty one may become a storage.

    Examples:
      bocage host disks
    """
    with session.connect() as api:
        found = api.hosts.disks(name or output.named(_the_only(api)))
    if json:
        output.document(found)
    else:
        output.line(table.render(_DISKS, [_disk(one) for one in found]))


def _disk(disk: rest.Document) -> tuple[str, ...]:
    kind = " ".join(filter(None, (disk["transport"], "disk" if disk["rotational"] else "flash")))
    worn = f", {disk['worn_percent']} % worn" if disk.get("worn_percent") is not None else ""
    warm = f", {disk['temperature']} °C" if disk.get("temperature") is not None else ""
    about = (disk["model"], disk["serial"], f"{disk['health']}{worn}{warm}", ", ".join(disk["content"]) or "empty")
    return (disk["path"], people.size(disk["size_bytes"]), kind, *about)


def usb(name: HostName = None, json: options.Json = False) -> None:
    """List what is plugged into the USB ports of a host.

    Examples:
      bocage host usb
    """
    with session.connect() as api:
        found = api.hosts.usb(name or output.named(_the_only(api)))
    if json:
        output.document(found)
    elif found:
        output.line(table.render(_USB, [_device(one) for one in found]))
    else:
        output.complain("nothing is plugged into its USB ports")


def _device(one: rest.Document) -> tuple[str, ...]:
    user = _user(one["vm"]) if one.get("vm") else "the host" if one.get("in_use") else ""
    return tuple(part or people.NOTHING for part in (*(one[name] for name in _USB_PARTS), user))


def _user(vm: rest.Document) -> str:
    return str(vm["name"]) if vm["project"] in (None, "default") else f"{vm['project']}/{vm['name']}"


def power(name: HostName = None, json: options.Json = False) -> None:
    """Say whether a host has power: its BMC is asked.

    Examples:
      bocage host power host2
    """
    with session.connect() as api:
        found = api.hosts.power(name or output.named(_the_only(api)))
    if json:
        output.document({"power": found})
    else:
        output.line(found)


def stop_vms(name: HostName = None, wait: options.Wait = True, json: options.Json = False) -> None:
    """Have the VMs of a host go off in order, those first that start last: before the machine goes down.

    Each guest has the time of its stop policy; then its plug is pulled. They start again with the machine.

    Examples:
      bocage host stop-vms
    """
    _act(name, "stop-vms", "the VMs are off until the machine's next start", wait=wait, json=json)


def start_vms(name: HostName = None, wait: options.Wait = True, json: options.Json = False) -> None:
    """Have the VMs run again that 'bocage host stop-vms' stopped, in their order.

    Examples:
      bocage host start-vms
    """
    _act(name, "start-vms", "the VMs that should run do", wait=wait, json=json)


def drain(
    name: HostName = None,
    at_once: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=16, help="VMs that are on their way at a time; 2.")
    ] = None,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Have the VMs of a host go to others, while they run, and give it none any more.

    What has to stay is said before the first one goes, and why.

    Examples:
      bocage host drain host2
      bocage host drain host2 --at-once 4
    """
    with session.connect() as api:
        host = name or output.named(_the_only(api))
        task = api.hosts.drain(host, at_once=at_once)
        try:
            waiting.finish(api, task, wait=wait, json=json, said=f"{host} has no VMs, and gets none")
        finally:
            if wait and not json:
                _tell_who_stays(api, task)


def _tell_who_stays(api: rest.Client, task: rest.Document) -> None:
    for line in api.tasks.get(task["metadata"]["uid"])["status"].get("log") or ():
        if line["said"]["type"] == "drain-has-to-stay":
            output.complain(table.paragraph(people.saying(line["said"])))


def undrain(name: HostName = None, json: options.Json = False) -> None:
    """Give a drained host VMs again; none comes back by itself.

    Examples:
      bocage host undrain host2
    """
    with session.connect() as api:
        host = name or output.named(_the_only(api))
        found = api.hosts.undrain(host)
    if json:
        output.document(found)
    else:
        output.line(f"{host} gets VMs again")


def _act(name: str | None, verb: str, said: str, *, wait: bool, json: bool) -> None:
    with session.connect() as api:
        host = name or output.named(_the_only(api))
        waiting.finish(api, api.hosts.act(host, verb), wait=wait, json=json, said=said)


def _use(api: rest.Client, host: rest.Document) -> list[tuple[str, object]]:
    """What it does now; nothing while its node does not answer."""
    try:
        use = api.hosts.use(output.named(host))
    except problems.Error:
        return []
    ksm = use.get("ksm")
    part = "those of VMs, too" if host["spec"].get("merge_pages") else "not those of VMs"
    merged = f"{'merged' if ksm['on'] else 'not merged'}, {part}; saves {people.size(ksm['saved'])}" if ksm else ""
    given = use["given"]
    vcpus, room = given["vcpus"], given["vcpus_room"]
    return [
        ("given to VMs", _given(given["memory"], given["memory_room"])),
        ("", f"{vcpus} vCPUs" + (f" of {room}, {max(room - vcpus, 0)} left" if room is not None else "")),
        ("", f"{given['cpus_reserved']:g} CPUs reserved, {max(use['cpus'] - given['cpus_reserved'], 0):g} left"),
        ("in use", f"{people.cores(use['now'].get('cpu'))} CPUs, {people.size(use['memory_used'])} of memory"),
        ("waiting", f"{told} of the last 10 s" if (told := people.pressure(use.get("pressure") or {})) else ""),
        ("equal pages", merged),
    ]


def _given(memory: int, room: int) -> str:
    return f"{people.size(memory)} of {people.size(room)} of memory, {people.size(max(room - memory, 0))} left"


def _the_only(api: rest.Client) -> rest.Document:
    hosts = api.hosts.list()["items"]
    if len(hosts) == 1:
        return dict(hosts[0])
    from bocage.cli import failure

    names = ", ".join(output.named(host) for host in hosts)
    raise failure.Usage(option="NAME", wrong=f"there are {len(hosts)} hosts", right=f"name one of {names}")


NOUN = lazy.Group(
    "host",
    help="Hosts: the machines that VMs run on.",
    verbs={
        "Hosts": {
            "list": "host:list_hosts",
            "show": "host:show",
            "disks": "host:disks",
            "usb": "host:usb",
            "set": "describe:host",
            "power": "host:power",
        },
        "Empty it": {"drain": "host:drain", "undrain": "host:undrain"},
        "Before the machine goes down": {"stop-vms": "host:stop_vms", "start-vms": "host:start_vms"},
    },
)
