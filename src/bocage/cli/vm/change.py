"""Changing what a VM is: by options, in an editor, from a file."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from bocage.cli import complete, describe, failure, options, output, people, read, session
from bocage.cli.vm import carried, share, wishes
from bocage.client import rest

_START = "Starting and ending"


def set_(
    name: options.VMName,
    cpus: Annotated[str | None, typer.Option(metavar="N", help="vCPUs: 2, or sockets=1,cores=2,threads=2.")] = None,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="1G; dynamic: minimum=512M,maximum=4G,buffer=20,weight=100.")
    ] = None,
    max_cpus: Annotated[int | None, typer.Option(metavar="N", help="How many it can have while it runs.")] = None,
    max_memory: Annotated[str | None, typer.Option(metavar="SIZE", help="How much it can have while it runs.")] = None,
    boot: Annotated[list[str] | None, typer.Option(metavar="DEVICE,…", help="Boot order: cd0,disk0.")] = None,
    board: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="A part of the board: video=cirrus, sound=ac97.")
    ] = None,
    cpu_model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="QEMU's name of one; 'host', 'baseline'.")
    ] = None,
    serial: Annotated[
        list[str] | None, typer.Option(metavar="TO", help="Where COM2 and on lead, in place of all ports there were.")
    ] = None,
    parallel: Annotated[list[str] | None, typer.Option(metavar="TO", help="Where LPT1 and on lead, likewise.")] = None,
    drivers: Annotated[
        str | None, typer.Option(metavar="virtio|inbox", help="What drives its disks and NICs in the guest.")
    ] = None,
    driver_cd: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGE|URL", help="With --drivers virtio: put this in, and wait for the guest to have them."
        ),
    ] = None,
    sha256: Annotated[str | None, typer.Option(metavar="HEX", help="With a URL: what its publisher prints.")] = None,
    now: Annotated[bool, typer.Option("--now", help="With --driver-cd: do not wait, they are installed.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With a URL: download it without asking.")] = False,
    boot_once: Annotated[str | None, typer.Option(metavar="DEVICE", help="The next start only.")] = None,
    title: describe.Title = None,
    notes: describe.Notes = None,
    tag: describe.Tags = None,
    protected: Annotated[
        bool | None, typer.Option("--protected/--unprotected", help="Whether it cannot be deleted.")
    ] = None,
    restart: Annotated[
        str | None, typer.Option(metavar="POLICY", help="never, on-crash, always.", rich_help_panel=_START)
    ] = None,
    restart_limit: Annotated[
        int | None, typer.Option(metavar="N", help="Tries in a row.", rich_help_panel=_START)
    ] = None,
    autostart: Annotated[
        bool | None, typer.Option("--autostart/--no-autostart", help="Start with the host.", rich_help_panel=_START)
    ] = None,
    autostart_order: Annotated[
        int | None, typer.Option(metavar="N", help="Lower starts earlier.", rich_help_panel=_START)
    ] = None,
    autostart_delay: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Wait before it.", rich_help_panel=_START)
    ] = None,
    autostart_after: Annotated[
        list[str] | None,
        typer.Option(
            metavar="VM",
            help="Once these run and answer; 'none' for none.",
            rich_help_panel=_START,
        ),
    ] = None,
    autostart_within: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="How long it waits for them at most.", rich_help_panel=_START),
    ] = None,
    answers: Annotated[
        str | None,
        typer.Option(metavar="runs|agent|PORT", help="When those after it may start.", rich_help_panel=_START),
    ] = None,
    stop_within: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="The guest's time to stop.", rich_help_panel=_START)
    ] = None,
    stop_then: Annotated[
        str | None, typer.Option(metavar="leave|kill", help="At that bound.", rich_help_panel=_START)
    ] = None,
    cpu_weight: share.CpuWeight = None,
    cpu_cap: share.CpuCap = None,
    cpu_pin: share.CpuPin = None,
    cpu_reserve: share.CpuReserve = None,
    numa_node: share.NumaNode = None,
    memory_overhead: share.MemoryOverhead = None,
    disk_iops: share.DiskIops = None,
    disk_rate: share.DiskRate = None,
    disk_burst_iops: share.DiskBurstIops = None,
    disk_burst_rate: share.DiskBurstRate = None,
    disk_burst_seconds: share.DiskBurstSeconds = None,
    net_rate: share.NetRate = None,
    apart: wishes.Apart = None,
    together: wishes.Together = None,
    host_tag: wishes.HostTag = None,
    replica: Annotated[
        str | None,
        typer.Option(
            metavar="HOST[/STORAGE]|none",
            help="Keep a second copy of its disks there, from which that host can start it.",
            autocompletion=complete.hosts,
        ),
    ] = None,
    project: options.Project = options.DEFAULT,
    json: options.Json = False,
) -> None:
    """Change a VM: at once as far as the guest gives way, the rest at its next cold start.

    Examples:
      bocage vm set web1 --memory 1G --cpus 4
      bocage vm set web1 --memory minimum=512M,maximum=4G
      bocage vm set web1 --autostart --restart always
      bocage vm set web1 --cpu-cap 0.5 --cpu-weight 300 --disk-iops 500
      bocage vm set nt4 --board sound=sb16,video=cirrus
      bocage vm set erp --drivers virtio --driver-cd virtio-win
    """
    whole = rest.given(
        cpus=read.cpus(cpus) if cpus is not None else None,
        memory=read.memory(memory) if memory is not None else None,
        max_cpus=max_cpus,
        max_memory=max_memory,
        title=title,
        notes=notes,
        tags=[one for one in tag if one] if tag else None,
        protected=protected,
        board=read.board(board) if board else None,
        cpu_model=cpu_model,
        ports=read.ports(serial, parallel),
        drivers=drivers,
        replica=_replica(replica) if replica else None,
        share=share.patch(
            cpu_weight=cpu_weight,
            cpu_cap=cpu_cap,
            cpu_pin=cpu_pin,
            cpu_reserve=cpu_reserve,
            numa_node=numa_node,
            memory_overhead=memory_overhead,
            disk_iops=disk_iops,
            disk_rate=disk_rate,
            disk_burst_iops=disk_burst_iops,
            disk_burst_rate=disk_burst_rate,
            disk_burst_seconds=disk_burst_seconds,
            net_rate=net_rate,
        ),
    )
    parts = {
        "boot": rest.given(order=read.several(boot) if boot else None, once=boot_once),
        "restart": rest.given(policy=restart, limit=restart_limit),
        "autostart": rest.given(
            enabled=autostart,
            order=autostart_order,
            delay=autostart_delay,
            after=wishes.several(autostart_after),
            within=autostart_within,
            answers=int(answers) if answers and answers.isdecimal() else answers,
        ),
        "stop": rest.given(within=stop_within, then=stop_then),
        "placement": wishes.given(apart=apart, together=together, host_tag=host_tag),
    }
    parts = {key: value for key, value in parts.items() if value}
    if not whole and not parts:
        raise failure.Usage(option="OPTIONS", wrong="nothing to change was given", right="--memory 1G, --cpus 2, …")
    if driver_cd is None and (sha256 or now):
        raise failure.Usage(option="--sha256" if sha256 else "--now", wrong="it goes with --driver-cd")
    if driver_cd is not None and drivers != "virtio":
        raise failure.Usage(option="--driver-cd", wrong="it goes with --drivers virtio")
    with session.connect(project) as api:
        etag = None
        if driver_cd is not None:
            from bocage.cli.vm import driving

            tell = output.complain if json else output.line
            whole["drivers"] = driving.prepare(api, name, driver_cd, sha256=sha256, yes=yes, now=now, tell=tell)
        if parts:
            vm = api.vms.get(name)
            etag = vm["metadata"]["revision"]
            whole |= {key: {**vm["spec"].get(key, {}), **value} for key, value in parts.items()}
        changed = api.vms.change(name, whole, etag=etag)
        carried.told(api, changed, f"{output.named(changed)} is changed", json=json)


def upgrade_hardware(
    name: options.VMName,
    project: options.Project = options.DEFAULT,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Move a VM to the newest machine type that this host's QEMU builds, from its next cold start on.

    A copy of it, on throw-away disks and without a network, runs so first. Its devices stay what and where they are.

    Examples:
      bocage vm upgrade-hardware web1
    """
    from bocage.cli import waiting

    with session.connect(project) as api:
        before = api.vms.get(name)["spec"]["hardware"]["machine"]
        task = api.vms.upgrade_hardware(name)

        def said(_: rest.Document) -> str:
            return f"{name}: {before} becomes {api.vms.get(name)['spec']['hardware']['machine']} at its next cold start"

        waiting.finish(api, task, wait=wait, json=json, said=said)


def edit(name: options.VMName, project: options.Project = options.DEFAULT, json: options.Json = False) -> None:
    """Edit a VM in $EDITOR; it is checked before it is taken.

    Examples:
      EDITOR=nano bocage vm edit web1
    """
    from bocage.cli import documents, editing

    with session.connect(project) as api:
        vm = api.vms.get(name)
        before = documents.write(documents.editable(vm))

        def take(text: str) -> rest.Document:
            found = documents.read(text, where="what you wrote")
            if len(found) != 1:
                raise documents.NotYaml(where="what you wrote", reason=f"one document is expected, not {len(found)}")
            return api.vms.replace(name, found[0], etag=vm["metadata"]["revision"])

        changed = editing.edit(before, name=name, take=take)
        if changed is None:
            output.complain("nothing was changed")
        else:
            carried.told(api, changed, f"{output.named(changed)} is changed", json=json)


def apply(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Take the hand edit of this VM's vm.yaml.")] = None,
    file: Annotated[
        str | None, typer.Option("--file", "-f", metavar="FILE", help="Take this file; '-' is standard input.")
    ] = None,
    project: options.Project = options.DEFAULT,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Take a hand edit of vm.yaml, or make VMs be what a file says.

    A file holds a VM as 'bocage vm edit' or 'bocage vm show --yaml' shows it, or the
    fields of a new VM (name, image, cpus, memory, …); several are set apart by '---'.
    What a VM is made from (image, disk, nics, …) is not compared when one of that name
    is there, and named.

    Examples:
      bocage vm apply -f web1.yaml
      bocage vm apply web1
    """
    if (name is None) == (file is None):
        raise failure.Usage(option="NAME, -f FILE", wrong="one of them is needed, and not both")
    with session.connect(project) as api:
        if name is not None:
            taken = api.vms.take_edit(name)
            carried.told(api, taken, f"{output.named(taken)} is changed", json=json)
            return
        from bocage.cli import documents

        assert file is not None
        where = "standard input" if file == "-" else file
        found = documents.read(read.text_file("--file", file), where=where)
        if not found:
            raise documents.NotYaml(where=where, reason="it is empty")
        for document in found:
            _apply(api, document, where=where, wait=wait, json=json)


OF_ITS_MAKING = frozenset(
    {
        *("image", "template", "full", "storage", "disk", "disks", "cds", "floppies", "nics", "usb", "os", "machine"),
        *("firmware", "smbios", "seed", "start"),
    }
)
"""What a short form says of a VM that is to be made, and no change of one that is there takes."""

_BESIDE_THE_VM = ("volumes", "networks", "names", "owner")  # what a vm.yaml holds for the day of an adoption


def _apply(api: rest.Client, document: dict[str, Any], *, where: str, wait: bool, json: bool) -> None:
    from bocage.cli import documents, waiting

    if "spec" not in document:
        called = str(document.get("name", ""))
        if present := _present(api, called):
            _change(api, present, document, json=json)
        else:
            waiting.finish(api, api.vms.create(document), wait=wait, json=json, said=f"{called} is made")
        return
    about = document.get("metadata")
    if not isinstance(about, dict) or not isinstance(about.get("name"), str):
        raise documents.NotYaml(where=where, reason="metadata.name is missing")
    document = {key: value for key, value in document.items() if key not in _BESIDE_THE_VM}
    present = api.vms.get(about["name"])
    changed = api.vms.replace(about["name"], document, etag=present["metadata"]["revision"])
    _tell_taken(api, present, changed, json=json)


def _present(api: rest.Client, name: str) -> rest.Document | None:
    from bocage.client import problems

    try:
        return api.vms.get(name) if name else None
    except problems.ProblemError as problem:
        if problem.http_status != 404:
            raise
        return None


def _change(api: rest.Client, present: rest.Document, document: dict[str, Any], *, json: bool) -> None:
    name = output.named(present)
    wanted = {key: value for key, value in document.items() if key not in OF_ITS_MAKING and key != "name"}
    if isinstance(wanted.get("boot"), list):  # the order alone, as a new VM is asked for
        wanted["boot"] = {**present["spec"]["boot"], "order": wanted["boot"]}
    if "snapshots" in wanted and wanted["snapshots"] is None:
        wanted["snapshots"] = "off"
    changed = api.vms.change(name, wanted, etag=present["metadata"]["revision"]) if wanted else present
    _tell_taken(api, present, changed, json=json)
    if left := [key for key in document if key in OF_ITS_MAKING]:
        output.complain(f"not compared, since a VM is made with it once: {', '.join(left)}")


def _tell_taken(api: rest.Client, present: rest.Document, changed: rest.Document, *, json: bool) -> None:
    if changed["metadata"]["revision"] == present["metadata"]["revision"] and not json:
        output.line(f"{output.named(changed)} is as the file says")
    else:
        carried.told(api, changed, f"{output.named(changed)} is changed", json=json)


def diff(name: options.VMName, project: options.Project = options.DEFAULT, json: options.Json = False) -> None:
    """Show what waits for a cold start, and what was edited by hand in vm.yaml.

    Examples:
      bocage vm diff web1
    """
    with session.connect(project) as api:
        found = api.vms.diff(name)
    if json:
        output.document(found)
        return
    for one in found["pending"]:
        output.line(f"{one['path']}: runs with {_plain(one['running'])}, wanted is {_plain(one['wanted'])}")
    for one in found["edited"]:
        output.line(f"{one['path']}: is {_plain(one['is'])}, vm.yaml says {_plain(one['edited'])}")
    if found["pending"]:
        output.complain(f"'bocage vm reboot {name}' makes it so")
    if found["edited"]:
        output.complain(f"'bocage vm apply {name}' takes what vm.yaml says")
    if not found["pending"] and not found["edited"]:
        output.complain("no difference")


def _plain(value: Any) -> str:
    import json

    return people.NOTHING if value is None else value if isinstance(value, str) else json.dumps(value)


def _replica(given: str) -> object:
    host, _, storage = given.partition("/")
    return "none" if given == "none" else rest.given(host=host, storage=storage or None)
