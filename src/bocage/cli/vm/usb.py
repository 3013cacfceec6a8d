"""A VM's USB devices: attach, detach."""

from __future__ import annotations

from typing import Annotated

import typer

from bocage.cli import failure, lazy, options, read, session
from bocage.cli.vm import carried
from bocage.client import rest


def attach(
    name: options.VMName,
    device: Annotated[
        str | None,
        typer.Argument(metavar="VENDOR:PRODUCT", help="What it is, as 'bocage host usb' lists it: 0529:0001."),
    ] = None,
    serial: Annotated[str | None, typer.Option(metavar="SERIAL", help="Which of them it is.")] = None,
    port: Annotated[
        str | None, typer.Option(metavar="PORT", help="Where on the host it is plugged in: 1-2.3; else anywhere.")
    ] = None,
    project: options.Project = options.DEFAULT,
    json: options.Json = False,
) -> None:
    """Give a VM a USB device of its host. The VM may run.

    The device may be away: the VM gets it as soon as it is plugged in, and again each time.

    Examples:
      bocage vm usb attach till 0529:0001
      bocage vm usb attach till 0403:6001 --serial A50285BI
      bocage vm usb attach till --port 1-2
    """
    if device is None and port is None:
        raise failure.Usage(
            option="VENDOR:PRODUCT", wrong="it does not say which device", right="0529:0001, or --port 1-2"
        )
    if device is not None and not read.USB_ID.fullmatch(device):
        raise failure.Usage(option="VENDOR:PRODUCT", wrong=f"{device!r} names no device", right="0529:0001")
    with session.connect(project) as api:
        request = rest.given(id=device.lower() if device else None, serial=serial, port=port)
        made = api.vms.attach_usb(name, request)
        one = made["spec"]["usb"][-1]
        carried.told(api, made, f"{name} has {one['name']} ({one.get('id') or one['port']})", json=json)


def detach(
    name: options.VMName,
    device: Annotated[
        str, typer.Argument(metavar="DEVICE", help="The device, as 'bocage vm show' calls it, or VENDOR:PRODUCT.")
    ],
    project: options.Project = options.DEFAULT,
    json: options.Json = False,
) -> None:
    """Take a USB device from a VM. The VM may run.

    Examples:
      bocage vm usb detach till usb0
      bocage vm usb detach till 0529:0001
    """
    with session.connect(project) as api:
        carried.told(api, api.vms.detach_usb(name, device.lower()), f"{name} no longer has {device}", json=json)


USB = lazy.Group(
    "vm usb",
    help="A VM's USB devices.",
    verbs={"USB devices": {"attach": "vm.usb:attach", "detach": "vm.usb:detach"}},
)
