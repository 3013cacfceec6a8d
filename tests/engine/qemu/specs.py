"""Plans of many kinds for the engine's tests."""

import contextlib
import pathlib
import subprocess
from typing import Any

from bocage.engine import base, block
from bocage.model import board as boards
from bocage.model import vm as model
from bocage.model.units import Size
from bocage.planner import hardware

MACHINES = {"q35": "pc-q35-7.2", "pc": "pc-i440fx-7.2", "isapc": "isapc"}
STORAGE = "0b1e4c8e-1111-4222-8333-444455556666"
KINDS = (
    "bare",
    "virtio",
    "scsi",
    "sata",
    "i440fx",
    "ide",
    "uefi",
    "old-nics",
    "express-nics",
    "cpus",
    "install",
    "linked",
    "seeded",
    "named-with-commas",
    "isapc",
    "tulip",
    "lsi",
    "sas",
    "megasas",
    "pvscsi",
    "sb16",
    "ac97",
    "es1370",
    "hda",
    "vmware",
    "windows",
    "floppies",
    "ports",
    "tpm",
    "secure-boot",
    "watchdog",
)
_ON_PC = ("i440fx", "ide", "lsi", "sas", "sb16", "ac97", "es1370", "vmware")
_FITTED: dict[str, dict[str, Any]] = {
    "isapc": {"scsi": "none", "usb": "none", "pointer": "ps2", "video": "cirrus", "sound": "sb16", "disk_bus": "ide"},
    "lsi": {"scsi": "lsi"},
    "sas": {"scsi": "sas"},
    "megasas": {"scsi": "megasas"},
    "pvscsi": {"scsi": "pvscsi", "usb": "ehci"},
    "sb16": {"sound": "sb16", "usb": "none", "pointer": "ps2"},
    "ac97": {"sound": "ac97", "video": "cirrus"},
    "es1370": {"sound": "es1370", "video": "none"},
    "hda": {"sound": "hda"},
    "vmware": {"video": "vmware", "usb": "ehci"},
    "windows": {
        "hyperv": ("relaxed", "vapic", "spinlocks", "vpindex", "runtime", "time", "synic", "stimer", "frequencies"),
        "rtc": {"base": "localtime", "drift": "slew"},
        "hpet": False,
    },
    "tpm": {"tpm": "crb"},
    "secure-boot": {"firmware": "uefi", "secure_boot": True, "tpm": "tis"},
    "watchdog": {"watchdog": {"action": "pause"}},
    "uefi": {"firmware": "uefi"},
}


def spec(kind: str, **more: Any) -> model.VMSpec:
    """A spec of one of `KINDS`."""
    alias: hardware.Alias = "isapc" if kind == "isapc" else "pc" if kind in _ON_PC else "q35"
    fittings = boards.Fittings.model_validate(
        _FITTED.get(kind, {}) | {"nic_model": "ne2k" if kind == "isapc" else "virtio"}
    )
    smbios = model.Smbios(
        uuid="5f0c9f1e-6f0a-4c53-9c1e-0d1f5a3f7c11",
        serial="SN,1 = one",
        oem_strings=("first, with a comma", "second"),
    )
    board = hardware.lay_out(
        alias=alias,
        machines=MACHINES,
        cpu_model="pentium" if kind == "isapc" else "Westmere",
        smbios=smbios,
        fittings=fittings,
        paravirtual=kind not in ("isapc", "sb16"),
    )
    fields: dict[str, Any] = {"storage": STORAGE, "hardware": board, "memory": Size.parse("64M")}
    fields |= _KINDS[kind](board) | more
    made = model.VMSpec(**fields)
    hardware.check(made)
    return made


def plan(root: pathlib.Path, of: model.VMSpec, *, name: str = "web1", linked: bool = False) -> base.Plan:
    """A plan below `root`; its files are not made."""
    directory = root / "vms" / "uid"
    chains = {
        disk.name: (
            block.File(directory / f"{disk.name}.qcow2", "qcow2"),
            *([block.File(root / "images" / "base,1.qcow2", "qcow2")] if linked else []),
        )
        for disk in of.disks
    }
    return base.Plan(
        uid="5f0c9f1e-6f0a-4c53-9c1e-0d1f5a3f7c12",
        name=name,
        project="default",
        spec=of,
        directory=directory,
        runtime=root / "run",
        chains=chains,
        cds={cd.name: root / "images" / "cd.iso" if cd.image else None for cd in of.cds},
        nics={nic.name: base.UserMode(nic.publish) for nic in of.nics},
        accelerator="tcg",
        seed=directory / "seed.iso" if of.seed else None,
    )


def make_files(of: base.Plan) -> None:
    """What a plan says is there: disks, images, CDs, directories."""
    of.directory.mkdir(parents=True, exist_ok=True)
    of.runtime.mkdir(parents=True, exist_ok=True)
    for files in of.chains.values():
        below: block.File | None = None
        for file in reversed(files):
            file.path.parent.mkdir(parents=True, exist_ok=True)
            if not file.path.exists():
                backing = ["-b", str(below.path), "-F", below.format] if below else []
                make = ["qemu-img", "create", "-q", "-f", file.format, *backing, str(file.path), "64M"]
                subprocess.run(make, check=True, timeout=20)
            below = file
    for image in (*of.cds.values(), of.seed):
        if image:
            image.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError), image.open("xb") as content:
                content.truncate(2 << 20)


def disk(board: model.Hardware, number: int, bus: model.Bus = model.Bus.VIRTIO, **more: Any) -> model.Disk:
    """Disk `number` of a spec whose disks are all on one bus."""
    virtio = bus is model.Bus.VIRTIO
    place = {"address": hardware.places(board)[number]} if virtio else {"unit": number}
    return model.Disk(
        name=f"disk{number}",
        volume=f"00000000-0000-4000-8000-00000000000{number}",
        bus=bus,
        serial=f"serial{number}",
        **place,
        **more,
    )


def nic(board: model.Hardware, number: int, kind: model.NicModel = model.NicModel.VIRTIO, **more: Any) -> model.Nic:
    """NIC `number` of a spec, at the end of the places so that disks have the beginning."""
    return model.Nic(
        name=f"nic{number}",
        network="00000000-0000-4000-8000-0000000000ff",
        model=kind,
        mac=f"52:54:00:00:00:{number:02x}",
        address=hardware.places(board, kind)[-1 - number],
        **more,
    )


def _virtio(board: model.Hardware) -> dict[str, Any]:
    caches = [model.Cache.WRITEBACK, model.Cache.NONE, model.Cache.UNSAFE]
    disks = tuple(disk(board, n, cache=cache, discard=n != 1) for n, cache in enumerate(caches))
    return {"disks": disks, "nics": (nic(board, 0),)}


def _on(bus: model.Bus, cache: model.Cache) -> Any:
    return lambda board: {"disks": (disk(board, 0, bus, cache=cache), disk(board, 1, bus, discard=False))}


def _nics(*kinds: model.NicModel) -> Any:
    return lambda board: {"nics": tuple(nic(board, number, kind) for number, kind in enumerate(kinds))}


def _install(board: model.Hardware) -> dict[str, Any]:
    cds = (
        model.Cd(name="cd0", image="00000000-0000-4000-8000-0000000000aa", unit=0),
        model.Cd(name="cd1", unit=1),
        model.Cd(name="cd2", bus=model.Bus.SCSI, image="00000000-0000-4000-8000-0000000000ab", unit=0),
    )
    return {"disks": (disk(board, 0),), "cds": cds, "boot": model.Boot(order=("disk0",), once="cd0")}


def _seeded(board: model.Hardware) -> dict[str, Any]:
    publish = (model.Publish(host_port=42222, guest_port=22),)
    return {
        "disks": (disk(board, 0),),
        "nics": (nic(board, 0, publish=publish),),
        "seed": model.Seed(hostname="web1"),
        "boot": model.Boot(order=("nic0", "disk0")),
    }


def _isapc(board: model.Hardware) -> dict[str, Any]:
    return {
        "disks": (disk(board, 0, model.Bus.IDE), disk(board, 1, model.Bus.IDE)),
        "cds": (
            model.Cd(name="cd0", bus=model.Bus.IDE, unit=2),
            model.Cd(name="floppy0", bus=model.Bus.FLOPPY, unit=0),
            model.Cd(name="floppy1", bus=model.Bus.FLOPPY, unit=1),
        ),
        "nics": (nic(board, 0, model.NicModel.NE2K), nic(board, 1, model.NicModel.NE2K)),
        "boot": model.Boot(order=("floppy0", "cd0", "disk0"), once="floppy0"),
    }


def _floppies(board: model.Hardware) -> dict[str, Any]:
    drives = tuple(model.Cd(name=f"floppy{n}", bus=model.Bus.FLOPPY, unit=n) for n in range(2))
    return {"cds": drives, "boot": model.Boot(order=("floppy0", "floppy1"))}


def _ports(board: model.Hardware) -> dict[str, Any]:
    leads: list[dict[str, Any]] = [
        {"name": "com2", "number": 2, "to": "file"},
        {"name": "com3", "number": 3, "to": "connect", "address": "127.0.0.1:49", "telnet": True},
        {"name": "lpt1", "kind": "parallel", "number": 1, "to": "connect", "address": "[::1]:9100"},
        {"name": "lpt2", "kind": "parallel", "number": 2, "to": "file"},
    ]
    return {"ports": tuple(map(boards.GuestPort.model_validate, leads))}


_KINDS: dict[str, Any] = {
    "isapc": _isapc,
    "lsi": _on(model.Bus.SCSI, model.Cache.WRITEBACK),
    "sas": _on(model.Bus.SCSI, model.Cache.WRITEBACK),
    "megasas": _on(model.Bus.SCSI, model.Cache.WRITEBACK),
    "pvscsi": _on(model.Bus.SCSI, model.Cache.WRITEBACK),
    **dict.fromkeys(("sb16", "ac97", "es1370", "hda", "vmware", "windows", "tpm", "watchdog"), lambda _: {}),
    "floppies": _floppies,
    "ports": _ports,
    "secure-boot": lambda _: {"memory": Size.parse("128M")},
    "bare": lambda _: {},
    "virtio": _virtio,
    "scsi": _on(model.Bus.SCSI, model.Cache.DIRECTSYNC),
    "sata": _on(model.Bus.SATA, model.Cache.WRITETHROUGH),
    "i440fx": lambda board: {"disks": (disk(board, 0),), "nics": (nic(board, 0, model.NicModel.RTL8139),)},
    "ide": _on(model.Bus.IDE, model.Cache.WRITEBACK),
    "uefi": lambda board: {"disks": (disk(board, 0),), "memory": Size.parse("128M")},
    "old-nics": _nics(model.NicModel.E1000, model.NicModel.RTL8139, model.NicModel.PCNET, model.NicModel.NE2K),
    "tulip": _nics(model.NicModel.TULIP),
    "express-nics": _nics(model.NicModel.VIRTIO, model.NicModel.E1000E, model.NicModel.VMXNET3),
    "cpus": lambda _: {"cpus": model.Cpus(sockets=2, cores=2, threads=2), "memory": Size.parse("256M")},
    "install": _install,
    "linked": lambda board: {"disks": (disk(board, 0),)},
    "seeded": _seeded,
    "named-with-commas": lambda board: {"disks": (disk(board, 0),)},
}
