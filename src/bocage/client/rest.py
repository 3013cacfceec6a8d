"""The API's nouns and verbs. Answers are plain documents, as the API sends them; `typed` turns them into the model.

What takes long answers with its task's document: `client.tasks.wait(task)` waits for its end.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from bocage.client.connection import ANSWER_WITHIN, Address, Connection, segment

if TYPE_CHECKING:
    from pydantic import BaseModel

Document = dict[str, Any]
Documents = list[Document]
Request: TypeAlias = "Mapping[str, Any] | BaseModel"
_PAGE = 500
_PLANNED_WITHIN = 300.0  # seconds that a plan for many hosts may take
_OS_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_USB_DEVICE = re.compile(r"[a-z0-9-]{1,63}|[0-9a-f]{4}:[0-9a-f]{4}")  # its name, or what it is


def connect(address: Address | None = None, *, project: str = "default", language: str = "") -> Client:
    """A client for `address`, or for what the environment says (`BOCAGE_URL`, `BOCAGE_HOME`)."""
    return Client(Connection(address or Address.from_environment(), language=language), project=project)


class Nouns:
    """The resources of one kind."""

    def __init__(self, connection: Connection, path: str) -> None:
        self.connection = connection
        self.path = path

    def list(self, *, limit: int | None = None, within: float = ANSWER_WITHIN, **filters: Any) -> Document:
        """All of them under `items`, fetched page after page at one `revision`; `limit` bounds how many."""
        whole: Document = {"items": []}
        after: str | None = None
        while True:
            left = _PAGE if limit is None else limit - len(whole["items"])
            query = {**filters, "limit": min(left, _PAGE), "after": after}
            answer = self.connection.request("GET", self.path, query=query, within=within).document
            answer["items"] = [*whole["items"], *answer["items"]]
            whole, after = answer, answer.get("after")
            if not after or (limit is not None and len(whole["items"]) >= limit):
                return whole

    def get(self, name: str) -> Document:
        document: Document = self._get(self._of(name))
        return document

    def create(self, request: Request) -> Document:
        return self._post(self.path, request)

    def change(self, name: str, changes: Request, *, etag: int | None = None) -> Document:
        """Change the fields that are given; with `etag` only when it is still that revision."""
        return self._send("PATCH", self._of(name), changes, etag=etag)

    def delete(self, name: str) -> Document:
        return self._send("DELETE", self._of(name))

    def _of(self, name: str, *rest: str) -> str:
        return "/".join((self.path, segment(name), *rest))

    def _get(self, path: str, **query: Any) -> Any:
        return self.connection.request("GET", path, query=query).document

    def _post(self, path: str, request: Request | None = None) -> Document:
        return self._send("POST", path, request)

    def _send(
        self, method: str, path: str, request: Request | None = None, *, etag: int | None = None, **query: Any
    ) -> Document:
        headers = {} if etag is None else {"If-Match": f'"{etag}"'}
        body = None if request is None else plain(request)
        answer = self.connection.request(method, path, query=query, document=body, headers=headers)
        document: Document = answer.document or {}
        return document


class VMs(Nouns):
    def start(self, name: str, *, boot: str | None = None, paused: bool = False) -> Document:
        return self._post(self._of(name, "start"), given(boot=boot, paused=paused or None))

    def stop(self, name: str, *, within: float | None = None, kill: bool = False) -> Document:
        """Ask the guest to shut down; `within` is its time in seconds, `kill` pulls the plug at that bound."""
        return self._post(self._of(name, "stop"), given(within=within, kill=kill or None))

    def act(self, name: str, verb: str) -> Document:
        """`kill`, `reboot`, `reset`, `pause`, `resume`, `save` or `undelete`."""
        return self._post(self._of(name, verb), {})

    def rescue(self, name: str, *, image: str | None = None, end: bool = False) -> Document:
        """Boot a rescue system on the disks of a VM that is off, or end that."""
        return self._post(self._of(name, "rescue"), given(image=image, end=end or None))

    def clone(self, name: str, copy: str, *, start: bool = False) -> Document:
        return self._post(self._of(name, "clone"), {"name": copy, "start": start})

    def move(self, name: str, *, storage: str) -> Document:
        """Carry a VM to another storage, while it runs or not."""
        return self._post(self._of(name, "move"), {"storage": storage})

    def flatten(self, name: str) -> Document:
        """Make its disks independent of their images."""
        return self._post(self._of(name, "flatten"))

    def rename(self, name: str, to: str) -> Document:
        return self._post(self._of(name, "rename"), {"name": to})

    def remove(self, name: str, *, force: bool = False, purge: bool = False) -> Document:
        """Delete: into the trash, or at once with `purge`; with `force` also while it runs."""
        return self._send("DELETE", self._of(name), force=force, purge=purge)

    def replace(self, name: str, document: Request, *, etag: int | None = None) -> Document:
        return self._send("PUT", self._of(name), document, etag=etag)

    def why(self, name: str) -> Documents:
        chain: Documents = self._get(self._of(name, "why"))["chain"]
        return chain

    def command(self, name: str) -> Document:
        answer: Document = self._get(self._of(name, "command"))
        return answer

    def diff(self, name: str) -> Document:
        answer: Document = self._get(self._of(name, "diff"))
        return answer

    def yaml(self, name: str) -> str:
        return self.connection.request("GET", self._of(name, "yaml")).body.decode()

    def take_edit(self, name: str) -> Document:
        """Take the hand edit of the VM's `vm.yaml`."""
        return self._post(self._of(name, "apply"))

    def attach(self, name: str, disk: Request) -> Document:
        return self._post(self._of(name, "disks"), disk)

    def detach(self, name: str, disk: str) -> Document:
        return self._send("DELETE", self._of(name, "disks", segment(disk)))

    def grow(self, name: str, disk: str, size: str) -> Document:
        return self._post(self._of(name, "disks", segment(disk), "grow"), {"size": size})

    def upgrade_hardware(self, name: str) -> Document:
        """Move it to the newest machine type of its host."""
        return self._post(self._of(name, "upgrade-hardware"))

    def change_disk(self, name: str, disk: str, patch: Request) -> Document:
        return self._send("PATCH", self._of(name, "disks", segment(disk)), patch)

    def attach_nic(self, name: str, nic: Request) -> Document:
        return self._post(self._of(name, "nics"), nic)

    def change_nic(self, name: str, nic: str, patch: Request) -> Document:
        return self._send("PATCH", self._of(name, "nics", segment(nic)), patch)

    def detach_nic(self, name: str, nic: str) -> Document:
        return self._send("DELETE", self._of(name, "nics", segment(nic)))

    def attach_usb(self, name: str, device: Mapping[str, Any]) -> Document:
        return self._post(self._of(name, "usb"), device)

    def detach_usb(self, name: str, device: str) -> Document:
        return self._send("DELETE", self._of(name, "usb", segment(device, form=_USB_DEVICE)))

    def change_cd(self, name: str, cd: str, image: str | None) -> Document:
        return self._send("PUT", self._of(name, "cds", segment(cd)), {"image": image})

    def insert_upload(self, name: str, cd: str, key: str) -> Document:
        """Put an ISO image that was uploaded for it into a drive."""
        return self._send("PUT", self._of(name, "cds", segment(cd)), {"upload": key})

    def snapshots(self, name: str) -> Document:
        document: Document = self._get(self._of(name, "snapshots"))
        return document

    def snapshot(self, name: str, snapshot: str) -> Document:
        document: Document = self._get(self._of(name, "snapshots", segment(snapshot)))
        return document

    def describe_snapshot(self, name: str, snapshot: str, changes: Request) -> Document:
        """Change what is said of a snapshot."""
        return self._send("PATCH", self._of(name, "snapshots", segment(snapshot)), changes)

    def keep(self, name: str, request: Request) -> Document:
        """Take a snapshot."""
        return self._post(self._of(name, "snapshots"), request)

    def revert(self, name: str, snapshot: str, *, force: bool = False, start: bool = False) -> Document:
        """Go back to a snapshot; `force` throws away what runs or is saved."""
        return self._post(self._of(name, "snapshots", segment(snapshot), "revert"), {"force": force, "start": start})

    def schedule(self, name: str, **other: str | bool | None) -> Document:
        """What its schedule would do now, or another one: `keep`, `at`, `zone`, `memory`."""
        document: Document = self._get(self._of(name, "schedule"), **other)
        return document

    def forget(self, name: str, snapshot: str) -> Document:
        """Delete a snapshot."""
        return self._send("DELETE", self._of(name, "snapshots", segment(snapshot)))

    def clone_snapshot(self, name: str, snapshot: str, copy: str, *, start: bool = False) -> Document:
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
        answer = self.connection.request(
            "POST",
            self._of(name, "expect"),
            document={"send": send, "pattern": pattern, "timeout": timeout},
            within=timeout + 30,
        )
        return str(answer.document["line"])

    def stats(self, name: str, *, span: float, most: int) -> Document:
        """What it has used in the last `span` seconds, in `most` steps at most."""
        answer: Document = self._get(self._of(name, "stats"), span=round(span), most=most)
        return answer

    def isolation(self, name: str) -> Document:
        """What its process really may."""
        answer: Document = self._get(self._of(name, "isolation"))
        return answer

    def set_password(self, name: str, user: str, password: str) -> None:
        """Give an account of the guest another password, through its agent."""
        self._post(self._of(name, "password"), {"user": user, "password": password})

    def take_import(self, request: Request) -> Document:
        return self._post(self.path + "/import", request)


class Hosts(Nouns):
    def disks(self, name: str) -> Documents:
        disks: Documents = self._get(self._of(name, "disks"))["disks"]
        return disks

    def usb(self, name: str) -> Documents:
        devices: Documents = self._get(self._of(name, "usb"))["devices"]
        return devices

    def act(self, name: str, verb: str) -> Document:
        """`stop-vms` or `start-vms`."""
        return self._post(self._of(name, verb))

    def use(self, name: str) -> Document:
        """What it does now."""
        answer: Document = self._get(self._of(name, "use"))
        return answer

    def stats(self, name: str, *, span: float, most: int) -> Document:
        answer: Document = self._get(self._of(name, "stats"), span=round(span), most=most)
        return answer


class Images(Nouns):
    def build(self, request: Request) -> Document:
        return self._post(self.path + "/build", request)


class Volumes(Nouns):
    def grow(self, name: str, size: str) -> Document:
        return self._post(self._of(name, "grow"), {"size": size})


class Networks(Nouns):
    def confirm(self, name: str) -> Document:
        """Let it stay on the host's NIC that it was put onto."""
        return self._post(self._of(name, "confirm"))


class Storages(Nouns):
    def repair(self, name: str, *, disk: str) -> Document:
        """Put a disk into a mirror that lacks one."""
        return self._post(self._of(name, "repair"), {"disk": disk})


class Templates(Nouns):
    def remove(self, name: str, *, version: int | None = None) -> Document:
        """Delete it, or one version of it."""
        return self._send("DELETE", self._of(name), version=version)


class Tasks(Nouns):
    def get(self, name: str, *, wait: float | None = None) -> Document:
        """A task by its uid; with `wait`, as it is when it ended or after so many seconds."""
        path = "/tasks/" + segment(name)
        answer = self.connection.request("GET", path, query={"wait": wait}, within=60 + (wait or 0))
        document: Document = answer.document
        return document

    def cancel(self, name: str) -> Document:
        return self._post(f"/tasks/{segment(name)}/cancel")

    def wait(
        self,
        task: Document,
        *,
        on_progress: Callable[[Document], None] | None = None,
        every: float = 20.0,
        timeout: float | None = None,
    ) -> Document:
        """The task as it ended, or as it is after `timeout` seconds.

        `on_progress` is called with it at least each `every` seconds.
        """
        bound = None if timeout is None else time.monotonic() + timeout
        while not ended(task):
            left = every if bound is None else min(every, bound - time.monotonic())
            if left <= 0:
                break
            task = self.get(task["metadata"]["uid"], wait=left)
            if on_progress:
                on_progress(task)
        return task


class Alarms(Nouns):
    def acknowledge(self, uid: str) -> Document:
        return self._post(self._of(uid, "acknowledge"))


class Plans(Nouns):
    """What would be done, without doing it."""

    def world(self, *, survive: int = 0) -> Document:
        """The world as a planner sees it now."""
        document: Document = self._get(self.path + "/world", survive=survive)
        return document

    def place(self, request: Request) -> Document:
        """Where a VM would be, and what speaks of every host."""
        return self._asked("place", request)

    def rebalance(self, request: Request) -> Document:
        """Which moves would balance the hosts."""
        return self._asked("rebalance", request)

    def _asked(self, verb: str, request: Request) -> Document:
        path = f"{self.path}/{verb}"
        answer = self.connection.request("POST", path, document=plain(request), within=_PLANNED_WITHIN)
        document: Document = answer.document
        return document


class Client:
    """The whole API, as one project sees it."""

    def __init__(self, connection: Connection, *, project: str = "default") -> None:
        self.connection = connection
        self.project = project
        inside = f"/projects/{segment(project)}"
        self.vms = VMs(connection, inside + "/vms")
        self.images = Images(connection, inside + "/images")
        self.templates = Templates(connection, inside + "/templates")
        self.volumes = Volumes(connection, inside + "/volumes")
        self.networks = Networks(connection, inside + "/networks")
        self.firewall_groups = Nouns(connection, inside + "/firewall-groups")
        self.tasks = Tasks(connection, inside + "/tasks")
        self.all_tasks = Tasks(connection, "/tasks")
        self.hosts = Hosts(connection, "/hosts")
        self.storage = Storages(connection, "/storage")
        self.events = Nouns(connection, "/events")
        self.alarms = Alarms(connection, "/alarms")
        self.tokens = Nouns(connection, "/tokens")
        self.plan = Plans(connection, "/plan")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def version(self, *, within: float = 10.0) -> Document:
        document: Document = self.connection.request("GET", "/version", within=within).document
        return document

    def extensions(self) -> list[str]:
        names: list[str] = self.connection.request("GET", "/extensions").document
        return names

    def whoami(self) -> Document:
        document: Document = self.connection.request("GET", "/whoami").document
        return document

    def systems(self) -> Document:
        """The operating systems that are known, each with the hardware that a VM for it gets."""
        document: Document = self.connection.request("GET", "/os").document
        return document

    def system(self, name: str) -> Document:
        document: Document = self.connection.request("GET", f"/os/{segment(name, form=_OS_NAME)}").document
        return document

    def top(self) -> Document:
        """What the running VMs use now, and their host."""
        document: Document = self.connection.request("GET", self.vms.path.rpartition("/")[0] + "/top").document
        return document

    def doctor(self) -> Any:
        return self.connection.request("GET", "/doctor").document

    def adopt(self, request: Request) -> Document:
        document: Document = self.connection.request("POST", "/adopt", document=plain(request)).document
        return document


def ended(task: Document) -> bool:
    """Whether a task's document says that it came to its end."""
    return task["status"]["state"] in ("done", "failed", "cancelled")


def given(**values: Any) -> Document:
    """What of `values` is not None."""
    return {key: value for key, value in values.items() if value is not None}


def plain(request: Request) -> Any:
    """A request as JSON holds it; of a model only what was set."""
    if isinstance(request, Mapping):
        return request
    return request.model_dump(mode="json", exclude_unset=True)


def language_of_environment() -> str:
    """The reader's language by the POSIX locale variables, as an HTTP `Accept-Language`."""
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        if value := os.environ.get(name):
            tag = value.partition(".")[0].partition("@")[0]
            return "" if tag in ("C", "POSIX") else tag.replace("_", "-")
    return ""
