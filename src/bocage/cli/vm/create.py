"""Making a VM."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from bocage import errors
from bocage.cli import complete, describe, failure, options, read, session, waiting
from bocage.cli import image as image_names
from bocage.cli.vm import power, share, wishes
from bocage.client import rest
from bocage.words import N_

_ASK = "-"


class NotStarted(failure.Error):
    """The VM is there; only its start did not work."""

    type = "vm-made-not-started"
    text = N_("{name} is made, but did not start: {reason}")
    hint = N_("{advice}, then 'bocage vm start {name}'")
    name: str
    reason: str
    advice: str


_GUEST = "Inside the guest (cloud-init)"
_BOARD = "The machine"
_POLICY = "What becomes of it"


def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is called: web1, db-2.")],
    image: Annotated[
        str | None, typer.Option(metavar="IMAGE", help="What its disk is made from.", autocompletion=complete.images)
    ] = None,
    from_template: Annotated[
        str | None,
        typer.Option(
            "--from-template",
            metavar="TEMPLATE",
            help="Made like it at once, linked to it: web, or web@2 for its version 2.",
            autocompletion=complete.templates,
        ),
    ] = None,
    count: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=1000, help="So many: NAME-1, NAME-2 and on.")
    ] = None,
    cpus: Annotated[str | None, typer.Option(metavar="N", help="vCPUs: 2, or sockets=1,cores=2,threads=2.")] = None,
    memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="512M when not given; dynamic: startup=1G,minimum=512M,maximum=4G."),
    ] = None,
    disk: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SIZE",
            help="The system disk's size; once more for each further disk: 20G, or 20G,bus=sata,cache=none.",
        ),
    ] = None,
    network: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NETWORK",
            help="A NIC on it: default, or default,model=e1000,mac=52:54:00:12:34:56; 'none' for no NIC.",
            autocompletion=complete.networks,
        ),
    ] = None,
    publish: Annotated[
        list[str] | None, typer.Option(metavar="HOST:GUEST", help="A port of the host that leads inside: 2222:22.")
    ] = None,
    cd: Annotated[
        list[str] | None,
        typer.Option(metavar="IMAGE", help="A CD in a drive of its own.", autocompletion=complete.images),
    ] = None,
    floppy: Annotated[
        list[str] | None,
        typer.Option(metavar="IMAGE", help="A floppy disk in a drive of its own.", autocompletion=complete.images),
    ] = None,
    start: Annotated[bool, typer.Option("--start", help="Start it, too.")] = False,
    storage: Annotated[
        str | None, typer.Option(metavar="STORAGE", help="Where it lies: local.", autocompletion=complete.storage)
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="A full copy of the image in place of a link.")] = False,
    title: describe.Title = None,
    notes: describe.Notes = None,
    tag: Annotated[list[str] | None, typer.Option(metavar="TAG", help="A tag; as often as wanted.")] = None,
    user: Annotated[
        str | None, typer.Option(metavar="USER", help="A user to make, with sudo.", rich_help_panel=_GUEST)
    ] = None,
    ssh_key: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="A public key, or the file it is in.", rich_help_panel=_GUEST),
    ] = None,
    password: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help="The user's; '-' asks for it. Only its hash is kept.", rich_help_panel=_GUEST
        ),
    ] = None,
    user_data: Annotated[
        str | None, typer.Option(metavar="FILE", help="cloud-init user data.", rich_help_panel=_GUEST)
    ] = None,
    hostname: Annotated[
        str | None, typer.Option(metavar="NAME", help="The VM's name when not given.", rich_help_panel=_GUEST)
    ] = None,
    address: Annotated[
        list[str] | None,
        typer.Option(
            metavar="IP/BITS",
            help="A static address: 10.0.0.5/24,gateway=10.0.0.1,dns=10.0.0.1 (nic=nic1 for another NIC).",
            rich_help_panel=_GUEST,
        ),
    ] = None,
    os: Annotated[
        str | None,
        typer.Option(
            "--os",
            metavar="SYSTEM",
            help="What it is to run (see 'bocage os list'): its hardware is what that drives.",
            autocompletion=complete.systems,
        ),
    ] = None,
    firmware: Annotated[str | None, typer.Option(metavar="bios|uefi", help="bios.", rich_help_panel=_BOARD)] = None,
    machine: Annotated[
        str | None,
        typer.Option(metavar="q35|pc|isapc", help="q35; pc, isapc for old systems.", rich_help_panel=_BOARD),
    ] = None,
    board: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="A part of it: video=cirrus, sound=sb16, scsi=lsi, pointer=ps2, usb=uhci, rtc=localtime, …",
            rich_help_panel=_BOARD,
        ),
    ] = None,
    max_cpus: Annotated[
        int | None,
        typer.Option(metavar="N", help="vCPUs that it can have while it runs.", rich_help_panel=_BOARD),
    ] = None,
    max_memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Memory that it can have while it runs.", rich_help_panel=_BOARD),
    ] = None,
    cpu_model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="QEMU's name; 'host'; 'baseline'.", rich_help_panel=_BOARD)
    ] = None,
    secure_boot: Annotated[
        bool, typer.Option("--secure-boot", help="UEFI that boots what is signed.", rich_help_panel=_BOARD)
    ] = False,
    tpm: Annotated[bool, typer.Option("--tpm", help="A TPM 2.0.", rich_help_panel=_BOARD)] = False,
    watchdog: Annotated[
        str | None,
        typer.Option(
            metavar="ACTION", help="A watchdog, and what it does: reset, poweroff, pause.", rich_help_panel=_BOARD
        ),
    ] = None,
    serial: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TO",
            help="COM2 and on: file, /dev/ttyS0, listen:127.0.0.1:4001, connect:HOST:PORT.",
            rich_help_panel=_BOARD,
        ),
    ] = None,
    parallel: Annotated[
        list[str] | None,
        typer.Option(metavar="TO", help="LPT1 and on: connect:printer:9100, file.", rich_help_panel=_BOARD),
    ] = None,
    usb: Annotated[
        list[str] | None,
        typer.Option(
            metavar="VENDOR:PRODUCT",
            help="A USB device of the host: 0529:0001, perhaps with ,serial=…; or port=1-2.3.",
            rich_help_panel=_BOARD,
        ),
    ] = None,
    boot: Annotated[
        list[str] | None, typer.Option(metavar="DEVICE,…", help="Order: cd0,disk0.", rich_help_panel=_BOARD)
    ] = None,
    smbios: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="An identity to keep: uuid=…, serial=….", rich_help_panel=_BOARD),
    ] = None,
    restart: Annotated[
        str | None,
        typer.Option(metavar="POLICY", help="When it ends unasked: never, on-crash, always.", rich_help_panel=_POLICY),
    ] = None,
    autostart: Annotated[
        bool, typer.Option("--autostart", help="Start with the host.", rich_help_panel=_POLICY)
    ] = False,
    protected: Annotated[
        bool, typer.Option("--protected", help="It cannot be deleted while it is.", rich_help_panel=_POLICY)
    ] = False,
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
    project: options.Project = options.DEFAULT,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Make a VM: from an image, or blank for an installation from CD.

    Examples:
      bocage vm create web1 --image tiny --cpus 2 --memory 512M --disk 4G --start
      bocage vm create web2 --image debian --ssh-key key.pub --publish 2222:22
      bocage vm create win --cd windows.iso --cd drivers.iso --disk 80G --memory 4G
      bocage vm create nt4 --os winnt4.0 --cd nt4.iso
      bocage vm create shop --os win2k3 --cd win2k3.iso --memory 1G
      bocage vm create db --image tiny --memory startup=1G,minimum=512M,maximum=4G
      bocage vm create web --from-template web --count 20 --start
    """
    disks = [read.disk(one) for one in disk or ()]
    request = rest.given(
        name=name,
        image=image,
        template=from_template,
        full=full or None,
        storage=storage,
        cpus=read.cpus(cpus) if cpus is not None else None,
        memory=read.memory(memory) if memory is not None else None,
        max_cpus=max_cpus,
        max_memory=max_memory,
        cds=[_image_of(one) for one in cd] if cd else None,
        floppies=[_image_of(one) for one in floppy] if floppy else None,
        ports=read.ports(serial, parallel),
        usb=[read.usb(one) for one in usb] if usb else None,
        nics=_nics(network, publish),
        os=os,
        firmware=firmware or ("uefi" if secure_boot else None),
        machine=machine,
        board=_board(board, secure_boot=secure_boot, tpm=tpm, watchdog=watchdog),
        cpu_model=cpu_model,
        boot=read.several(boot) if boot else None,
        smbios=read.smbios(smbios) if smbios else None,
        title=title,
        notes=notes,
        tags=tag,
        protected=protected or None,
        restart={"policy": restart} if restart else None,
        autostart={"enabled": True} if autostart else None,
        seed=_seed(
            user=user, ssh_key=ssh_key, password=password, user_data=user_data, hostname=hostname, address=address
        ),
        share=share.fresh(
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
        placement=wishes.given(apart=apart, together=together, host_tag=host_tag) or None,
        start=start or None,
    )
    request |= _disks(disks)
    if count is not None:
        made = [f"{name}-{number}" for number in range(1, count + 1)]
        said_of = "{name} is made and running" if start else "{name} is made"
        power.each(
            made,
            lambda api, one: api.vms.create({**request, "name": one}),
            said_of,
            project=project,
            wait=wait,
            json=json,
        )
        return
    with session.connect(project) as api:
        task = api.vms.create(request)
        said = f"{name} is made and running" if start else f"{name} is made; 'bocage vm start {name}' starts it"
        try:
            waiting.finish(api, task, wait=wait, json=json, said=said)
        except failure.TaskFailed as failed:
            if start and _is_made(api, name):
                raise NotStarted(name=name, reason=failed.sentence, advice=failed.advice) from failed
            raise


def _is_made(api: rest.Client, name: str) -> bool:
    try:
        return bool(api.vms.get(name)["status"].get("ready"))
    except errors.Problem:
        return False


def _image_of(cd: str) -> str:
    """The image that a CD is: by its name, or by that of the file which it was added from."""
    return image_names.name_for(cd) if "." in cd or "/" in cd else cd


def _board(given: list[str] | None, *, secure_boot: bool, tpm: bool, watchdog: str | None) -> dict[str, Any] | None:
    short = [
        *(["secure-boot=yes"] if secure_boot else []),
        *(["tpm=crb"] if tpm else []),
        *([f"watchdog={watchdog}"] if watchdog else []),
    ]
    return read.board([*short, *(given or [])]) or None


def _disks(disks: list[dict[str, Any]]) -> dict[str, Any]:
    """The first is the system disk."""
    if not disks:
        return {}
    first, *others = disks
    return {"disk": first["size"] if set(first) == {"size"} else first, **({"disks": others} if others else {})}


def _nics(networks: list[str] | None, publish: list[str] | None) -> list[dict[str, Any]] | None:
    ports = [read.publish(one) for one in publish or ()]
    if networks == ["none"] and not ports:
        return []
    if not networks and not ports:
        return None
    nics = [read.nic(one) for one in networks or ["default"]]
    if ports:
        nics[0]["publish"] = ports
    return nics


def _asked() -> str:
    return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))


def _seed(
    *,
    user: str | None,
    ssh_key: list[str] | None,
    password: str | None,
    user_data: str | None,
    hostname: str | None,
    address: list[str] | None,
) -> dict[str, Any] | None:
    seed = rest.given(
        user=user,
        hostname=hostname,
        password=_asked() if password == _ASK else password,
        ssh_keys=[key for one in ssh_key for key in read.ssh_keys(one)] if ssh_key else None,
        user_data=read.text_file("--user-data", user_data) if user_data else None,
        network=[read.address(one) for one in address] if address else None,
    )
    return seed or None
