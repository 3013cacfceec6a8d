"""QEMU's command line as a pure function of the plan: the same plan gives the same machine, years later too."""

from __future__ import annotations

import itertools
import json
import os
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from bocage.engine import base
from bocage.engine.qemu import added_memory, chain, comports, devices, dimms, paths, tpm, vcpus
from bocage.model import board as boards
from bocage.model import units
from bocage.model import vm as model
from bocage.planner import adaptation, hardware

PROGRAM = "qemu-system-x86_64"
_WITH_WHOLE_SMBIOS = (2, 1)
_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
SHUTDOWN_TRACE = "qemu_system_shutdown_request"
"""The line in QEMU's log that says why it ended, `… reason=N`, for whoever was not there to hear the event."""


def command(plan: base.Plan, *, taps: Mapping[str, int] | None = None) -> list[str]:
    """The line that starts a VM and lets it run.

    With `taps`, descriptors by NIC name, it is the one that we start: QEMU then waits for who carries
    its NICs. Without, it can be typed, and finds them there.
    """
    at = paths.Paths(plan.directory, plan.runtime)
    return [
        PROGRAM,
        *(
            "-name",
            _joined(f"guest={escaped(plan.name)}", f"process={escaped(f'vm:{plan.name}'[:15])}", "debug-threads=on"),
        ),
        *("-uuid", plan.spec.hardware.smbios.uuid),
        *("-nodefaults", "-no-user-config"),
        *_machine(plan),
        *_smbios(plan.spec.hardware),
        *_firmware(plan.spec.hardware, at),
        *_clock(plan.spec.hardware),
        *("-action", "panic=pause"),
        *("-display", "none"),
        *("-vnc", f"unix:{escaped(at.vnc)}"),
        *_channels(at),
        *_behind(plan.spec.hardware, at),
        *_ports(plan.spec, at),
        *_devices(plan),
        *_secrets(plan, at),
        *_disks(plan),
        *_cds(plan),
        *_nics(plan, taps),
        *("-sandbox", _SANDBOX),
        *("-msg", "timestamp=on"),
        *("-trace", f"enable={SHUTDOWN_TRACE}"),
    ]


def accelerator_of(arguments: Sequence[str]) -> str:
    """What a line of `command` accelerates with; empty when it does not say."""
    return next((kind for option, kind in itertools.pairwise(arguments) if option == "-accel"), "")


def by_hand(plan: base.Plan) -> str:
    """A shell script that starts the VM without Bocage; where its bridge is gone, the NIC leads nowhere."""
    at = paths.Paths(plan.directory, plan.runtime)
    keys, log, start = (shlex.quote(str(path)) for path in (at.keys, at.serial_log, at.by_hand_start))
    lines = [
        "#!/bin/sh",
        "set -e",
        shlex.join(["mkdir", "-p", str(at.io)]),
        f"[ -p {keys} ] || mkfifo -m 600 {keys}",
        shlex.join(["ln", "-sfn", os.devnull, str(at.said)]),
        f"stat -c %s {log} >{start} || true",
        f"echo {shlex.quote(f'tail -f {log} shows its console, cat >{keys} types on it')} >&2",
    ]
    lines += [f"echo {shlex.quote(_left_out(device))} >&2" for device in plan.spec.usb]
    if plan.spec.hardware.tpm is not boards.Tpm.NONE:
        swtpm = shlex.join(tpm.command(at, f"path={at.tpm}"))
        lines.append(
            f"( umask 077; cd {shlex.quote(str(at.directory))} && touch {at.tpm_state.name} && exec {swtpm} ) &"
        )
        lines.append(f"until [ -S {shlex.quote(str(at.tpm))} ]; do sleep 0.1; done")
    for port in plan.spec.ports:
        if port.address:
            serving = shlex.join(comports.command(port, f"path={at.port_socket(port.name)}", comports.peers(port)))
            lines.append(f"( umask 077; exec {serving} ) &")
    for name, backend in plan.nics.items():
        socket = str(at.nic(name))
        match backend:
            case base.Passt():
                lines.append(f"{shlex.join([*backend.command, '--socket', socket])} &")
                lines.append(f"until [ -S {shlex.quote(socket)} ]; do sleep 0.1; done")
            case base.Tap():
                tap = backend.name
                lines.append(f"ip link show {tap} >/dev/null 2>&1 || ip tuntap add dev {tap} mode tap")
                lines.append(f"ip link set {tap} alias {shlex.quote(backend.alias)}")
                lines.append(f"ip link set {tap} master {backend.bridge} || true")
                lines.append(f"ip link set {tap} up")
    return "\n".join([*lines, f"exec {shlex.join(command(plan))}", ""])


def _left_out(device: boards.UsbDevice) -> str:
    """QEMU by itself tells no serial numbers apart: who starts it by hand must see what they hand over."""
    bus, _, at = (device.port or "").partition("-")
    which = [f"hostbus={bus},hostport={at}"] if device.port else []
    which += [f"vendorid=0x{device.id[:4]},productid=0x{device.id[5:]}"] if device.id else []
    given = ",".join([f"usb-host,bus=board.usb.0,port={device.unit}", *which])
    return f"it is started without {device.name}, a USB device of the host: add -device {given} to have it"


def _machine(plan: base.Plan) -> list[str]:
    board = plan.spec.hardware
    options = [] if board.hpet or hardware.is_isa(board) else ["hpet=off"]
    options += ["smm=on"] if board.secure_boot else []
    flash = ["pflash0=board.firmware", "pflash1=board.vars"] if board.firmware is model.Firmware.UEFI else []
    return [
        *("-machine", _joined(board.machine, "usb=off", f"memory-backend={dimms.RAM}", *options, *flash)),
        *("-accel", plan.accelerator),
        *(
            "-cpu",
            _joined(board.cpu_model, *(_enlightened(name) for name in board.hyperv if plan.accelerator == "kvm")),
        ),
        *("-smp", _smp(plan)),
        *_memory(plan),
        *_no_suspend(board),
    ]


def _enlightened(name: str) -> str:
    """One of Hyper-V's enlightenments: it is KVM that has them, and QEMU refuses some of them without."""
    return "hv-spinlocks=0x1fff" if name == "spinlocks" else f"hv-{name}=on"


def _no_suspend(board: model.Hardware) -> list[str]:
    """A guest that suspends itself to RAM looks hung to everyone outside."""
    if hardware.is_isa(board):
        return []
    power = "ICH9-LPC" if hardware.is_express(board) else "PIIX4_PM"
    return ["-global", f"{power}.disable_s3=1", "-global", f"{power}.disable_s4=1"]


def _clock(board: model.Hardware) -> list[str]:
    drift = [] if board.rtc.drift == "none" else [f"driftfix={board.rtc.drift}"]
    return ["-rtc", _joined(f"base={board.rtc.base}", *drift)]


def _behind(board: model.Hardware, at: paths.Paths) -> list[str]:
    """What the board's devices lead to."""
    arguments: list[str] = []
    if "rng" in board.devices:
        arguments += ["-object", _json({"qom-type": "rng-builtin", "id": "rng"})]
    if board.sound is not boards.Sound.NONE:
        arguments += ["-audiodev", f"none,id={devices.AUDIO}"]
    if board.tpm is not boards.Tpm.NONE:
        arguments += ["-chardev", _joined("socket", "id=tpm", f"path={escaped(at.tpm)}")]
        arguments += ["-tpmdev", f"emulator,id={devices.TPM},chardev=tpm"]
    if board.watchdog:
        arguments += ["-action", f"watchdog={board.watchdog.action}"]
    return arguments


def _ports(spec: model.VMSpec, at: paths.Paths) -> list[str]:
    """Serial and parallel ports, and where each leads."""
    arguments: list[str] = []
    for port in spec.ports:
        arguments += ["-chardev", _joined(*_leads_to(port, at))]
        arguments += _each("-device", [devices.port(port)])
    return arguments


def _leads_to(port: boards.GuestPort, at: paths.Paths) -> list[str]:
    name = f"id={port.name}"
    match port.to:
        case "file":
            return ["file", name, f"path={escaped(at.port(port.name))}", "append=on"]
        case "device":
            return [port.kind, name, f"path={escaped(port.device)}"]
        case _:
            return ["socket", name, f"path={escaped(at.port_socket(port.name))}", "reconnect=1"]


def _first(plan: base.Plan) -> adaptation.First:
    return plan.first or adaptation.First.of(plan.spec)


def _smp(plan: base.Plan) -> str:
    """The vCPUs that it begins with, in a board that has places for more."""
    board, first = plan.spec.cpus.board(plan.spec.hardware.max_cpus), _first(plan).cpus.count
    most = f",maxcpus={board.count}" if board.count > first else ""
    return f"{first}{most},sockets={board.sockets},cores={board.cores},threads={board.threads}"


def _memory(plan: base.Plan) -> list[str]:
    """What it starts with and, where there is room for more, the device that the guest takes it from, or slots."""
    begun, first = _first(plan), _first(plan).memory
    room = added_memory.room(plan.spec, first)
    largest = f",maxmem={(first + room) // units.MiB}M" if room else ""
    if begun.slots:
        largest = f",slots={begun.slots},maxmem={(plan.spec.hardware.max_memory or 0) // units.MiB}M"
    arguments = ["-m", f"{first // units.MiB}M{largest}"]
    # Not `bind`: a guest that outgrows the node is slow, and not killed.
    near = {} if plan.memory_node is None else {"host-nodes": [plan.memory_node], "policy": "preferred"}
    how = {"merge": plan.merge, **near}
    arguments += ["-object", _json({"qom-type": "memory-backend-ram", "id": dimms.RAM, "size": int(first), **how})]
    if room:
        further = {"qom-type": "memory-backend-ram", "id": added_memory.BACKEND, "size": room, **how}
        arguments += ["-object", _json(further)]
    backs, modules = dimms.command(begun, how)
    return [*arguments, *_each("-object", backs), *_each("-device", modules)]


def _smbios(board: model.Hardware) -> list[str]:
    """System (type 1), base board (2), chassis (3) and OEM strings (11) of SMBIOS 3; early machines have the first."""
    identity = board.smbios
    maker = ("manufacturer", identity.manufacturer)
    product, serial, version = ("product", identity.product), ("serial", identity.serial), ("version", identity.version)
    rest = (("sku", identity.sku), ("family", identity.family))
    tables: list[tuple[int, tuple[tuple[str, str], ...]]] = [
        (1, (maker, product, version, serial, *rest)),
        (2, (maker, product, version, serial)),
        (3, (maker, version, serial)),
        (11, tuple(("value", value) for value in identity.oem_strings)),
    ]
    arguments: list[str] = []
    for number, fields in tables if hardware.machine_version(board) >= _WITH_WHOLE_SMBIOS else tables[:1]:
        if given := [f"{key}={escaped(value)}" for key, value in fields if value]:
            arguments += ["-smbios", _joined(f"type={number}", *given)]
    return arguments


def _firmware(board: model.Hardware, at: paths.Paths) -> list[str]:
    if board.firmware is not model.Firmware.UEFI:
        return []
    arguments: list[str] = []
    code = paths.OVMF_SECURE if board.secure_boot else paths.OVMF_CODE
    for name, path, fixed in (("board.firmware", code, True), ("board.vars", at.firmware_vars, False)):
        below = {"driver": "file", "node-name": f"{name}.file", "filename": str(path), "read-only": fixed}
        arguments += ["-blockdev", _json(below)]
        arguments += [
            "-blockdev",
            _json({"driver": "raw", "node-name": name, "file": f"{name}.file", "read-only": fixed}),
        ]
    if board.secure_boot:  # its variables are written in system management mode alone
        arguments += ["-global", "driver=cfi.pflash01,property=secure,value=on"]
    return arguments


def _channels(at: paths.Paths) -> list[str]:
    arguments: list[str] = []
    for name, path in (("qmp", at.qmp), ("hmp", at.hmp), ("agent", at.agent)):
        arguments += ["-chardev", _joined("socket", f"id={name}", f"path={escaped(path)}", "server=on", "wait=off")]
    # What is said goes to the log alone: of a socket that does not take it QEMU logs the same bytes again.
    tty = (f"path={escaped(at.tty)}", f"logfile={escaped(at.serial_log)}", "logappend=on")
    arguments += ["-chardev", _joined("pipe", "id=tty", *tty)]
    arguments += ["-mon", "chardev=qmp,mode=control", "-mon", "chardev=hmp,mode=readline"]
    return [*arguments, "-serial", "chardev:tty"]


def _devices(plan: base.Plan) -> list[str]:
    board, first = plan.spec.hardware, _first(plan)
    further = vcpus.devices(plan.spec, first.cpus.count)
    if added_memory.room(plan.spec, first.memory):
        further.append(added_memory.device(plan.spec, first.memory))
    return _each("-device", [*devices.root_ports(board), *devices.board(board, deflates=first.deflates), *further])


def _secrets(plan: base.Plan, at: paths.Paths) -> list[str]:
    """The password for a LUN, read from a file: a command line is for everybody to read."""
    if not plan.password:
        return []
    return ["-object", _json({"qom-type": "secret", "id": "chap", "file": str(at.chap)})]


def _disks(plan: base.Plan) -> list[str]:
    boot = devices.first_order(plan.spec)
    arguments: list[str] = []
    for disk in plan.spec.disks:
        files = plan.chains[disk.name]
        arguments += _each("-blockdev", chain.nodes(disk.name, files, cache=disk.cache, discard=disk.discard))
        arguments += _each("-device", [devices.disk(disk, files, boot=boot.get(disk.name))])
    return arguments


def _cds(plan: base.Plan) -> list[str]:
    boot = devices.first_order(plan.spec)
    built_in, controllers = devices.floppy_controller(plan.spec)
    arguments = [part for name, index in built_in.items() for part in ("-global", f"isa-fdc.{name}={index}")]
    arguments += _each("-device", controllers)
    floppies = {"floppies": f"{controllers[0]['id']}.0"} if controllers else {}
    for cd in plan.spec.cds:
        image = plan.cds.get(cd.name)
        if image:
            arguments += _each("-blockdev", chain.read_only(cd.name, str(image)))
        arguments += _each("-device", [devices.cd(cd, loaded=image is not None, boot=boot.get(cd.name), **floppies)])
    if plan.seed:
        arguments += _each("-blockdev", chain.read_only(devices.SEED, str(plan.seed)))
        arguments += _each("-device", [devices.seed()])
    return arguments


def _nics(plan: base.Plan, taps: Mapping[str, int] | None) -> list[str]:
    at = paths.Paths(plan.directory, plan.runtime)
    boot = devices.first_order(plan.spec)
    arguments: list[str] = []
    inside = itertools.count()  # cards carried inside QEMU, whose networks differ
    for nic in plan.spec.nics:
        carried = plan.nics[nic.name]
        number = next(inside) if isinstance(carried, base.UserMode) else 0
        carrier = netdev(nic.name, carried, at.nic(nic.name), number=number, taps=taps)
        arguments += _each("-netdev", [carrier])
        arguments += _each("-device", [devices.nic(nic, boot=boot.get(nic.name))])
    return arguments


def escaped(value: object) -> str:
    """A value as it stands within an option of the form `key=value,…`, where a comma is written twice."""
    return str(value).replace(",", ",,")


def netdev(
    name: str, backend: base.Backend, socket: pathlib.Path, *, number: int = 0, taps: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """What carries a NIC, as `-netdev` and `netdev_add` take it; `number` tells user-mode networks apart."""
    match backend:
        case base.Tap() if taps and name in taps:
            return {"type": "tap", "id": name, "fd": str(taps[name])}
        case base.Tap():
            return {"type": "tap", "id": name, "ifname": backend.name, "script": "no", "downscript": "no"}
        case base.Passt():
            address = {"type": "unix", "path": str(socket)}
            # As the server it takes another passt after one that died; as a client it would try only once.
            return {"type": "stream", "id": name, "server": taps is not None, "addr": address}
        case base.UserMode():
            published = [{"str": _forward(publish)} for publish in backend.publish]
            own: dict[str, Any] = {"type": "user", "id": name, "net": f"10.0.{2 + number}.0/24"}
            own |= {"restrict": True} if backend.apart else {}
            return {**own, **({"hostfwd": published} if published else {})}


def _forward(publish: model.Publish) -> str:
    return f"{publish.protocol}:{publish.host_address}:{publish.host_port}-:{publish.guest_port}"


def _each(option: str, values: list[dict[str, Any]]) -> list[str]:
    return [argument for value in values for argument in (option, _json(value))]


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _joined(*parts: str) -> str:
    return ",".join(parts)
