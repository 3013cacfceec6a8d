"""Looking at VMs: the list, one in full, the QEMU command line."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from bocage.cli import options, output, people, session, table
from bocage.cli.vm import dynamic, share, wishes
from bocage.client import problems, rest

_COLUMNS = (
    table.Column("NAME", least=20),
    table.Column("STATE"),
    table.Column("CPUS", right=True),
    table.Column("MEMORY", right=True),
    table.Column("ADDRESSES", least=15),
    table.Column("SINCE"),
)
_HOST_AT = 2  # its place where there are several hosts
BUILT = ("running", "paused", "saved")  # states of a machine that changes of its hardware wait beside
_TRASH = (
    table.Column("NAME", least=20),
    table.Column("CPUS", right=True),
    table.Column("MEMORY", right=True),
    table.Column("DELETED"),
    table.Column("GOES FOR GOOD"),
)


def list_vms(
    state: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Only those in this state: running, stopped, …")
    ] = None,
    tag: Annotated[str | None, typer.Option(metavar="TEXT", help="Only those with this tag.")] = None,
    trash: Annotated[bool, typer.Option("--trash", help="Those in the trash.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Names only.")] = False,
    project: options.Project = options.DEFAULT,
    json: options.Json = False,
) -> None:
    """List the VMs.

    Examples:
      bocage vm list --state running
      bocage vm list --json | jq -r '.items[].metadata.name'
    """
    with session.connect(project) as api:
        found = api.vms.list(state=state, tag=tag, trash=trash or None)
        told = not (json or quiet or trash)
        alarmed = _alarmed(api.alarms.list()) if told and found["items"] else set[str]()
        hosts = session.look_up(api.hosts.list()) if told and found["items"] else {}
    if trash:
        found["items"] = [vm for vm in found["items"] if vm["metadata"].get("deleted")]
    shown = sorted(found["items"], key=output.named)
    if json:
        output.document(found)
    elif quiet:
        for vm in shown:
            output.line(output.named(vm))
    elif not shown:
        output.complain(_nothing(trash=trash, filtered=bool(state or tag)))
    elif trash:
        output.line(table.render(_TRASH, [_trashed(vm) for vm in shown]))
        output.complain("'bocage vm undelete NAME' brings one back")
    else:
        troubled = [vm for vm in shown if vm["metadata"]["uid"] in alarmed or _is_amiss(vm)]
        rows = [_row(vm, "!" if vm in troubled else "") for vm in shown]
        columns = list(_COLUMNS)
        if len(hosts) > 1:
            columns.insert(_HOST_AT, table.Column("HOST"))
            rows = [(*row[:_HOST_AT], _host(vm, hosts), *row[_HOST_AT:]) for vm, row in zip(shown, rows, strict=True)]
        output.line(table.render(columns, rows))
        _tell_troubled(troubled)


def _host(vm: rest.Document, hosts: dict[str, rest.Document]) -> str:
    host = hosts.get(vm["status"].get("host") or "")
    return output.named(host) if host else people.NOTHING


def _nothing(*, trash: bool, filtered: bool) -> str:
    if filtered:
        return "no VM is like that"
    return "the trash is empty" if trash else "no VM yet: 'bocage vm create --help' shows how one is made"


def _row(vm: rest.Document, mark: str) -> tuple[str, ...]:
    status, spec = vm["status"], vm["spec"]
    return (
        output.named(vm),
        status["state"] + (", rescue" if spec.get("rescue") else "") + mark,
        str(people.vcpus(spec["cpus"])),
        people.memory(spec),
        people.first(addresses(vm)),
        people.ago(status.get("since")),
    )


def _trashed(vm: rest.Document) -> tuple[str, ...]:
    about, spec = vm["metadata"], vm["spec"]
    cpus, memory = str(people.vcpus(spec["cpus"])), people.memory(spec)
    return (output.named(vm), cpus, memory, people.ago(about["deleted"]), people.ago(about.get("goes")))


def _alarmed(alarms: rest.Document) -> set[str]:
    """The uids that open alarms are about."""
    return {(one["spec"].get("subject") or {}).get("uid", "") for one in alarms["items"] if people.is_open(one)}


def _is_amiss(vm: rest.Document) -> bool:
    """Whether something keeps a VM from being what it should be."""
    status, power = vm["status"], vm["spec"].get("power")
    held = status["state"] == "paused" and power == "running"  # such as by a storage without room
    return bool(status.get("problem")) or status["state"] in ("crashed", "unknown") or held


def addresses(vm: rest.Document) -> list[str]:
    """Its IP addresses, IPv4 first, those that reach no further than the link left out."""
    found = [one for nic in vm["status"].get("nics") or () for one in nic.get("addresses") or ()]
    return sorted((one for one in found if not one.lower().startswith("fe80:")), key=lambda one: ":" in one)


def _tell_troubled(vms: list[rest.Document]) -> None:
    if vms:
        more = f" (and {len(vms) - 1} more)" if len(vms) > 1 else ""
        output.complain(f"! is not as it should be: 'bocage why {output.named(vms[0])}' says why{more}")


def show(
    name: options.VMName,
    yaml: Annotated[bool, typer.Option("--yaml", help="Its vm.yaml, as it lies in its directory.")] = False,
    project: options.Project = options.DEFAULT,
    json: options.Json = False,
) -> None:
    """Show one VM: what was asked for, what it is made of, what it does.

    Examples:
      bocage vm show web1
      bocage vm show web1 --yaml
    """
    with session.connect(project) as api:
        if yaml:
            output.line(api.vms.yaml(name).rstrip("\n"))
            return
        vm = api.vms.get(name)
        if json:
            output.document(vm)
            return
        volumes, images = session.look_up(api.volumes.list()), session.look_up(api.images.list())
        networks, hosts = session.look_up(api.networks.list()), session.look_up(api.hosts.list())
        waiting = api.vms.diff(name)["pending"] if _may_wait(vm) else []
        moving = dynamic.of(api, vm)
        survives = _survives(api, name)
        vms = session.look_up(api.vms.list()) if vm["spec"]["autostart"].get("after") else {}
    output.line(table.facts([*_identity(vm), *_state(vm, hosts, waiting), *_machine(vm, vms), *moving]))
    if survives:
        output.line("\nWhat it survives\n" + _grid(survives))
    for title, lines in (
        ("Disks", [_disk(disk, volumes) for disk in vm["spec"]["disks"]]),
        ("CDs and floppies", [_cd(cd, images) for cd in vm["spec"]["cds"]]),
        ("Network", [_nic(nic, vm, networks) for nic in vm["spec"]["nics"]]),
        ("Ports", [_outlet(port) for port in vm["spec"].get("ports") or ()]),
        ("USB", [_usb(one, vm) for one in vm["spec"].get("usb") or ()]),
        ("Published", [_port(port, nic) for nic in vm["spec"]["nics"] for port in nic.get("publish") or ()]),
    ):
        if lines:
            output.line(f"\n{title}\n" + _grid(lines))


_LOSSES = {"disk": "its disk", "host": "its host", "site": "the site", "slip": "a slip of the hand"}


def _survives(api: rest.Client, name: str) -> list[tuple[str, ...]]:
    """Each loss with its answer; nothing where the daemon is too old to say."""
    try:
        found = api.vms.survives(name)
    except problems.Error:
        return []
    return [
        (
            _LOSSES[one["loss"]],
            {"yes": "survives", "no": "lost", "partly": "partly"}[one["answer"]],
            people.saying(one["said"]),
            f"shown {people.clock(one['shown'])}" if one.get("shown") else "never shown",
        )
        for one in found
    ]


def _usb(one: dict[str, Any], vm: rest.Document) -> tuple[str, ...]:
    now: dict[str, Any] = next((at for at in vm["status"].get("usb") or () if at["name"] == one["name"]), {})
    where = now.get("node") or ("waits for it" if now else "")
    serial = f"serial {one['serial']}" if one.get("serial") else ""
    return one["name"], one.get("id") or "", serial, f"port {one['port']}" if one.get("port") else "", where


def _grid(lines: list[tuple[str, ...]]) -> str:
    blank = [table.Column("", least=8) for _ in lines[0]]
    drawn = table.render(blank, lines, within=table.width() - 2)
    return "\n".join("  " + line for line in drawn.splitlines()[1:])


def _identity(vm: rest.Document) -> list[tuple[str, object]]:
    about = vm["metadata"]
    return [
        ("name", about["name"]),
        *people.described(about),
        ("uid", about["uid"]),
        ("created", people.ago(about["created"])),
        ("protected", "yes: it cannot be deleted" if about.get("protected") else ""),
        ("deleted", _deleted(about)),
    ]


def _deleted(about: dict[str, Any]) -> str:
    if not about.get("deleted"):
        return ""
    goes = f", goes for good {people.ago(about['goes'])}" if about.get("goes") else ""
    return people.ago(about["deleted"]) + goes


def _may_wait(vm: rest.Document) -> bool:
    """Whether it runs as it was defined earlier; what of that matters is for the node to say."""
    status = vm["status"]
    applied = status.get("applied_generation")
    return status["state"] in BUILT and bool(applied) and applied < vm["metadata"]["generation"]


def _state(
    vm: rest.Document, hosts: dict[str, rest.Document], waiting: list[dict[str, Any]]
) -> list[tuple[str, object]]:
    status, spec = vm["status"], vm["spec"]
    should = "" if spec["power"] == status["state"] else f", should be {spec['power']}"
    since = f", {people.ago(status['since'])}" if status.get("since") else ""
    host = hosts.get(status.get("host") or "")
    qemu = status.get("qemu") or {}
    waits = ", ".join(dict.fromkeys(str(one["path"]).split(".")[0] for one in waiting))
    return [
        ("state", f"{status['state']}{since}{should}"),
        ("rescue", f"'bocage vm rescue {output.named(vm)} --end' ends it" if spec.get("rescue") else ""),
        ("reason", _reason(status)),
        ("problem", people.saying(status.get("problem"))),
        ("last end", _last_end(status)),
        ("pending", f"{waits}: from the next cold start on ('bocage vm reboot {output.named(vm)}')" if waits else ""),
        ("host", output.named(host) if host else ""),
        ("accelerator", status.get("accelerator")),
        ("qemu", _qemu(qemu)),
        ("pid", status.get("pid")),
        ("isolation", _isolation(status.get("isolation") or {})),
        ("directory", status.get("directory")),
    ]


def _reason(status: dict[str, Any]) -> str:
    """Why it is in its state, where that says more than the state."""
    reason = status.get("reason") or {}
    return "" if reason.get("type") in ("vm-stopped", "vm-paused", "vm-resumed") else people.saying(reason or None)


def _last_end(status: dict[str, Any]) -> str:
    """How it last ended by itself, where that is not its reason."""
    end = status.get("last_end")
    if not end or end["reason"] == status.get("reason"):
        return ""
    return f"{people.ago(end['when'])}: {people.saying(end['reason'])}"


def _qemu(qemu: dict[str, Any]) -> str:
    running, installed = qemu.get("running"), qemu.get("installed")
    if running and installed and running != installed:
        return f"{running} (installed is {installed}: the next cold start takes it)"
    return running or installed or ""


def _isolation(isolation: dict[str, Any]) -> str:
    parts = ", ".join(isolation.get("parts") or ())
    missing = [people.saying(one) for one in isolation.get("missing") or ()]
    return "\n".join([parts, *(f"missing: {one}" for one in missing)]) if parts or missing else ""


def _machine(vm: rest.Document, vms: dict[str, rest.Document]) -> list[tuple[str, object]]:
    spec = vm["spec"]
    hardware, boot = spec["hardware"], spec["boot"]
    once = f"; the next start from {boot['once']}" if boot.get("once") else ""
    restart, autostart = spec["restart"], spec["autostart"]
    return [
        ("vCPUs", people.cpus(spec["cpus"]) + _room(hardware.get("max_cpus"), people.vcpus(spec["cpus"]))),
        ("memory", dynamic.told(spec) + _room(hardware.get("max_memory"), spec["memory"])),
        ("share", share.described(spec)),
        ("to be", wishes.described(spec)),
        ("replica", _replica(vm)),
        ("made for", hardware.get("os") or ""),
        ("machine", f"{hardware['machine']}, {hardware['cpu_model']}, {hardware['firmware']}"),
        ("board", _board(hardware)),
        ("drivers", "virtio's once its guest drives its virtio disk" if spec.get("virtio_when_driven") else ""),
        ("boot", ", ".join(boot.get("order") or ()) + once),
        ("restart", f"{restart['policy']}, {restart['limit']} tries in a row"),
        ("with host", f"starts, order {autostart['order']}" if autostart["enabled"] else ""),
        ("starts after", _after(autostart, vms)),
        ("answers", _answers(autostart.get("answers", "runs"), vm["status"])),
    ]


def _after(autostart: dict[str, Any], vms: dict[str, rest.Document]) -> str:
    """Whom it waits for when it starts by itself."""
    names = [output.named(vms[uid]) if uid in vms else uid for uid in autostart.get("after") or ()]
    return f"{', '.join(names)}, within {people.span(round(autostart['within']))}" if names else ""


def _answers(wanted: str | int, status: dict[str, Any]) -> str:
    """When those that start after it may go on, and whether that is so."""
    if wanted == "runs":
        return ""
    by = "its guest agent" if wanted == "agent" else f"its port {wanted}"
    return f"by {by}: {'it does' if status.get('answers') else 'not yet'}"


def _replica(vm: rest.Document) -> str:
    """How its second copy stands."""
    kept, seen = vm["spec"].get("replica"), vm["status"].get("replica") or {}
    if not kept:
        return ""
    state = seen.get("state", "stale")
    if state == "copying":
        return f"{kept['mode']}, {seen.get('percent') or 0} % copied"
    since = f" {people.ago(seen['since'])}" if seen.get("since") else ""
    why = f"\n{people.saying(seen['reason'])}" if seen.get("reason") else ""
    return f"{kept['mode']}, {'in sync' if state == 'in-sync' else 'stale'} since{since}{why}"


def _board(hardware: dict[str, Any]) -> str:
    """What it is fitted with beyond what every VM has."""
    usual = {"video": "vga", "sound": "none", "pointer": "tablet", "scsi": "virtio", "tpm": "none"}
    found = [f"{name} {hardware[name]}" for name, value in usual.items() if hardware.get(name, value) != value]
    found += ["memory that comes later as DIMMs"] if hardware.get("added_memory") == "dimm" else []
    found += ["Secure Boot"] if hardware.get("secure_boot") else []
    clock = hardware.get("rtc") or {}
    found += ["clock in local time"] if clock.get("base") == "localtime" else []
    if watchdog := hardware.get("watchdog"):
        found.append(f"watchdog {watchdog['model']}, which does {watchdog['action']}")
    return ", ".join(found)


def _outlet(port: dict[str, Any]) -> tuple[str, ...]:
    where = port.get("device") or port.get("address") or f"{port['name']}.out in its directory"
    how = {"listen": "listens on ", "connect": "connects to "}.get(port["to"], "")
    spoken = [name for name in ("telnet", "rfc2217") if port.get(name)]
    return (port["name"], ", ".join([f"{how}{where}", *spoken]))


def _room(most: object, present: object) -> str:
    return f" (up to {most} while it runs)" if most and most != present else ""


def _disk(disk: dict[str, Any], volumes: dict[str, rest.Document]) -> tuple[str, ...]:
    volume = volumes.get(disk["volume"])
    if volume is None:
        return (disk["name"], "?", "", disk["bus"], disk["serial"])
    taken = people.size(volume["status"].get("allocated_bytes"))
    kind = volume["spec"]["format"] + (", linked" if volume["spec"].get("linked") else "")
    limits = share.limited(disk.get("limits") or {})
    size = f"{volume['spec']['size']} ({taken} taken)"
    return (disk["name"], size, kind, disk["bus"], f"{disk['serial']}{f', {limits}' if limits else ''}")


def _cd(cd: dict[str, Any], images: dict[str, rest.Document]) -> tuple[str, ...]:
    if not cd.get("image"):
        return (cd["name"], "empty", cd["bus"])
    image = images.get(cd["image"])
    return (cd["name"], output.named(image) if image else cd["image"], cd["bus"])


def _nic(nic: dict[str, Any], vm: rest.Document, networks: dict[str, rest.Document]) -> tuple[str, ...]:
    network = networks.get(nic["network"])
    now: dict[str, Any] = next((one for one in vm["status"].get("nics") or () if one["name"] == nic["name"]), {})
    found = people.first(addresses({"status": {"nics": [now]}}))
    where = output.named(network) if network else "?"
    rate = share.rated(nic.get("rate") or {})
    found = f"{found}{f', {rate}' if rate else ''}"
    held = [f"firewall {', '.join(nic['firewall'])}"] if nic.get("firewall") else []
    held += ["may pass for anybody"] if nic.get("spoofing") == "allow" else []
    return (nic["name"], where, nic["model"], nic["mac"], found, "; ".join(held))


def _port(port: dict[str, Any], nic: dict[str, Any]) -> tuple[str, ...]:
    host = f"[{port['host_address']}]" if ":" in port["host_address"] else port["host_address"]
    protocol = "" if port["protocol"] == "tcp" else f"/{port['protocol']}"
    return (nic["name"], f"{host}:{port['host_port']} → {port['guest_port']}{protocol}")


def command(name: options.VMName, project: options.Project = options.DEFAULT, json: options.Json = False) -> None:
    """Print the QEMU command line, as a script that starts the VM by hand.

    It makes what the line needs first (sockets, taps). The same one lies in the VM's
    directory as 'start-by-hand', for the day when Bocage is gone. Never start a VM
    that runs.

    Examples:
      bocage vm command web1 | less
      bocage vm command web1 --json | jq -r .line
    """
    with session.connect(project) as api:
        answer = api.vms.command(name)
    if json:
        output.document(answer)
    else:
        output.line(answer["script"].rstrip("\n"))
