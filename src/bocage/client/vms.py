"""The verbs of VMs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from bocage.client import nouns
from bocage.client.connection import segment

_USB_DEVICE = re.compile(r"[a-z0-9-]{1,63}|[0-9a-f]{4}:[0-9a-f]{4}")  # its name, or what it is


class VMs(nouns.Nouns):
    def start(
        self, name: str, *, boot: str | None = None, paused: bool = False, anyway: bool = False
    ) -> nouns.Document:
        """`anyway`: also where that takes room which is kept for the VMs of hosts that may die."""
        return self._post(self._of(name, "start"), nouns.given(boot=boot, paused=paused or None, anyway=anyway or None))

    def stop(self, name: str, *, within: float | None = None, kill: bool = False) -> nouns.Document:
        """Ask the guest to shut down; `within` is its time in seconds, `kill` pulls the plug at that bound."""
        return self._post(self._of(name, "stop"), nouns.given(within=within, kill=kill or None))

    def act(self, name: str, verb: str) -> nouns.Document:
        """`kill`, `reboot`, `reset`, `pause`, `resume`, `save` or `undelete`."""
        return self._post(self._of(name, verb), {})

    def rescue(self, name: str, *, image: str | None = None, end: bool = False) -> nouns.Document:
        """Boot a rescue system on the disks of a VM that is off, or end that."""
        return self._post(self._of(name, "rescue"), nouns.given(image=image, end=end or None))

    def clone(self, name: str, copy: str, *, start: bool = False) -> nouns.Document:
        return self._post(self._of(name, "clone"), {"name": copy, "start": start})

    def move(self, name: str, *, storage: str) -> nouns.Document:
        """Carry a VM to another storage, while it runs or not."""
        return self._post(self._of(name, "move"), {"storage": storage})

    def migrate(
        self,
        name: str,
        *,
        to: str | None = None,
        bandwidth: str | None = None,
        downtime: float | None = None,
        live: bool | None = None,
    ) -> nouns.Document:
        """Have a VM go to another host, while it runs or not."""
        asked = nouns.given(to=to, bandwidth=bandwidth, downtime=downtime, live=live)
        return self._post(self._of(name, "migrate"), asked)

    def flatten(self, name: str) -> nouns.Document:
        """Make its disks independent of their images."""
        return self._post(self._of(name, "flatten"))

    def rename(self, name: str, to: str) -> nouns.Document:
        return self._post(self._of(name, "rename"), {"name": to})

    def remove(self, name: str, *, force: bool = False, purge: bool = False) -> nouns.Document:
        """Delete: into the trash, or at once with `purge`; with `force` also while it runs."""
        return self._send("DELETE", self._of(name), force=force, purge=purge)

    def replace(self, name: str, document: nouns.Request, *, etag: int | None = None) -> nouns.Document:
        return self._send("PUT", self._of(name), document, etag=etag)

    def why(self, name: str) -> nouns.Documents:
        chain: nouns.Documents = self._get(self._of(name, "why"))["chain"]
        return chain

    def survives(self, name: str) -> nouns.Documents:
        """What it survives, and when that was last shown."""
        found: nouns.Documents = self._get(self._of(name, "survives"))["losses"]
        return found

    def command(self, name: str) -> nouns.Document:
        return self._get(self._of(name, "command"))

    def diff(self, name: str) -> nouns.Document:
        return self._get(self._of(name, "diff"))

    def yaml(self, name: str) -> str:
        return self.connection.request("GET", self._of(name, "yaml")).body.decode()

    def take_edit(self, name: str) -> nouns.Document:
        """Take the hand edit of the VM's `vm.yaml`."""
        return self._post(self._of(name, "apply"))

    def attach(self, name: str, disk: nouns.Request) -> nouns.Document:
        return self._post(self._of(name, "disks"), disk)

    def detach(self, name: str, disk: str) -> nouns.Document:
        return self._send("DELETE", self._of(name, "disks", segment(disk)))

    def grow(self, name: str, disk: str, size: str) -> nouns.Document:
        return self._post(self._of(name, "disks", segment(disk), "grow"), {"size": size})

    def upgrade_hardware(self, name: str) -> nouns.Document:
        """Move it to the newest machine type of its host."""
        return self._post(self._of(name, "upgrade-hardware"))

    def change_disk(self, name: str, disk: str, patch: nouns.Request) -> nouns.Document:
        return self._send("PATCH", self._of(name, "disks", segment(disk)), patch)

    def attach_nic(self, name: str, nic: nouns.Request) -> nouns.Document:
        return self._post(self._of(name, "nics"), nic)

    def change_nic(self, name: str, nic: str, patch: nouns.Request) -> nouns.Document:
        return self._send("PATCH", self._of(name, "nics", segment(nic)), patch)

    def detach_nic(self, name: str, nic: str) -> nouns.Document:
        return self._send("DELETE", self._of(name, "nics", segment(nic)))

    def attach_usb(self, name: str, device: Mapping[str, Any]) -> nouns.Document:
        return self._post(self._of(name, "usb"), device)

    def detach_usb(self, name: str, device: str) -> nouns.Document:
        return self._send("DELETE", self._of(name, "usb", segment(device, form=_USB_DEVICE)))

    def change_cd(self, name: str, cd: str, image: str | None) -> nouns.Document:
        return self._send("PUT", self._of(name, "cds", segment(cd)), {"image": image})

    def insert_upload(self, name: str, cd: str, key: str) -> nouns.Document:
        """Put an ISO image that was uploaded for it into a drive."""
        return self._send("PUT", self._of(name, "cds", segment(cd)), {"upload": key})

    def snapshots(self, name: str) -> nouns.Document:
        return self._get(self._of(name, "snapshots"))

    def snapshot(self, name: str, snapshot: str) -> nouns.Document:
        return self._get(self._of(name, "snapshots", segment(snapshot)))

    def describe_snapshot(self, name: str, snapshot: str, changes: nouns.Request) -> nouns.Document:
        """Change what is said of a snapshot."""
        return self._send("PATCH", self._of(name, "snapshots", segment(snapshot)), changes)

    def keep(self, name: str, request: nouns.Request) -> nouns.Document:
        """Take a snapshot."""
        return self._post(self._of(name, "snapshots"), request)

    def revert(self, name: str, snapshot: str, *, force: bool = False, start: bool = False) -> nouns.Document:
        """Go back to a snapshot; `force` throws away what runs or is saved."""
        return self._post(self._of(name, "snapshots", segment(snapshot), "revert"), {"force": force, "start": start})

    def schedule(self, name: str, **other: str | bool | None) -> nouns.Document:
        """What its schedule would do now, or another one: `keep`, `at`, `zone`, `memory`."""
        return self._get(self._of(name, "schedule"), **other)

    def forget(self, name: str, snapshot: str) -> nouns.Document:
        """Delete a snapshot."""
        return self._send("DELETE", self._of(name, "snapshots", segment(snapshot)))

    def clone_snapshot(self, name: str, snapshot: str, copy: str, *, start: bool = False) -> nouns.Document:
        """Make a VM of its own of what a snapshot holds."""
        path = self._of(name, "snapshots", segment(snapshot), "clone")
        return self._post(path, {"name": copy, "start": start})

    def screenshot(self, name: str) -> bytes:
        """The screen as PNG."""
        return self.connection.request("GET", self._of(name, "screenshot")).body

    def send_keys(self, name: str, keys: tuple[str, ...]) -> None:
        self._post(self._of(name, "keys"), {"keys": keys})

    def expect(self, name: str, pattern: str, *, timeout: float, send: str | None = None) -> str:
        """Wait for a line of the serial console that matches, and return it; a problem `expect-timed-out` else."""
        request = {"send": send, "pattern": pattern, "timeout": timeout}
        return str(self._send("POST", self._of(name, "expect"), request, within=timeout + 30)["line"])

    def stats(self, name: str, *, span: float, most: int) -> nouns.Document:
        """What it has used in the last `span` seconds, in `most` steps at most."""
        return self._get(self._of(name, "stats"), span=round(span), most=most)

    def isolation(self, name: str) -> nouns.Document:
        """What its process really may."""
        return self._get(self._of(name, "isolation"))

    def set_password(self, name: str, user: str, password: str) -> None:
        """Give an account of the guest another password, through its agent."""
        self._post(self._of(name, "password"), {"user": user, "password": password})

    def take_import(self, request: nouns.Request) -> nouns.Document:
        return self._post(self.path + "/import", request)
