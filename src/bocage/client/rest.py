"""The API's nouns and verbs. Answers are plain documents, as the API sends them; `typed` turns them into the model.

What takes long answers with its task's document: `client.tasks.wait(task)` waits for its end.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from typing import Any

from bocage.client import nouns, vms
from bocage.client.connection import ANSWER_WITHIN, Address, Connection, segment

Document = nouns.Document
Documents = nouns.Documents
Request = nouns.Request
Nouns = nouns.Nouns
given = nouns.given
plain = nouns.plain
_PLANNED_WITHIN = 300.0  # seconds that a plan for many hosts may take
_JOINED_WITHIN = 120.0  # seconds that a host may take to become part of a cluster
_OS_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def connect(address: Address | None = None, *, project: str = "default", language: str = "") -> Client:
    """A client for `address`, or for what the environment says (`BOCAGE_URL`, `BOCAGE_HOME`)."""
    return Client(Connection(address or Address.from_environment(), language=language), project=project)


class Hosts(Nouns):
    def disks(self, name: str) -> Documents:
        disks: Documents = self._get(self._of(name, "disks"))["disks"]
        return disks

    def usb(self, name: str) -> Documents:
        devices: Documents = self._get(self._of(name, "usb"))["devices"]
        return devices

    def power(self, name: str) -> str:
        """`on`, `off` or `changing`, as its BMC says now."""
        return str(self._get(self._of(name, "power"))["power"])

    def act(self, name: str, verb: str) -> Document:
        """`stop-vms` or `start-vms`."""
        return self._post(self._of(name, verb))

    def drain(self, name: str, *, at_once: int | None = None) -> Document:
        """Have its VMs go to other hosts."""
        return self._post(self._of(name, "drain"), given(at_once=at_once))

    def undrain(self, name: str) -> Document:
        """It gets VMs again."""
        return self._post(self._of(name, "undrain"))

    def use(self, name: str) -> Document:
        """What it does now."""
        return self._get(self._of(name, "use"))

    def stats(self, name: str, *, span: float, most: int) -> Document:
        return self._get(self._of(name, "stats"), span=round(span), most=most)


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
        answer = self.connection.request("GET", path, query={"wait": wait}, within=ANSWER_WITHIN + (wait or 0))
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


class Failovers(Nouns):
    """What was done about hosts that fell silent, and what would be."""

    def standing(self) -> Document:
        """Who leads, which hosts beat, what could prove each one's death."""
        return self._get(self.path + "/standing")

    def simulate(self, host: str) -> Document:
        """What would become of a host's VMs if it died."""
        return self._get(self.path + "/simulation", host=host)

    def confirm(self, host: str) -> Document:
        """Answer for it that a host has no power."""
        return self._post(self.path + "/confirm", {"host": host, "off": True})


class Plans(Nouns):
    """What would be done, without doing it."""

    def world(self, *, survive: int | None = None) -> Document:
        """The world as a planner sees it now; `survive` as the cluster is set when not given."""
        return self._get(self.path + "/world", survive=survive)

    def place(self, request: Request) -> Document:
        """Where a VM would be, and what speaks of every host."""
        return self._asked("place", request)

    def rebalance(self, request: Request) -> Document:
        """Which moves would balance the hosts."""
        return self._asked("rebalance", request)

    def _asked(self, verb: str, request: Request) -> Document:
        return self._send("POST", f"{self.path}/{verb}", request, within=_PLANNED_WITHIN)


class Cluster:
    """The cluster that the host is part of."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def show(self) -> Document:
        document: Document = self._connection.request("GET", "/cluster").document
        return document

    def init(self, request: Request) -> Document:
        """Make one of this host alone."""
        return self._act("init", request)

    def invite(self) -> str:
        """A word for one more host."""
        return str(self._act("invite", {})["word"])

    def join(self, request: Request) -> Document:
        """Have this host become part of the one that a word is of."""
        return self._act("join", request)

    def shut_down(self, request: Request) -> Document:
        """Have all VMs go off, on purpose; `standstill` says how far that is."""
        return self._act("shutdown", request)

    def start(self) -> Document:
        """Have all start that ran before."""
        return self._act("start", {})

    def standstill(self) -> Document:
        """Whether it was shut down, and how far that is."""
        document: Document = self._connection.request("GET", "/cluster/standstill").document
        return document

    def policy(self) -> Document:
        """What is set for all hosts together."""
        document: Document = self._connection.request("GET", "/cluster/policy").document
        return document

    def set(self, request: Request) -> Document:
        """Change that."""
        document: Document = self._connection.request("PATCH", "/cluster/policy", document=plain(request)).document
        return document

    def _act(self, verb: str, request: Request) -> Document:
        document: Document = self._connection.request(
            "POST", f"/cluster/{verb}", document=plain(request), within=_JOINED_WITHIN
        ).document
        return document


class Client:
    """The whole API, as one project sees it."""

    def __init__(self, connection: Connection, *, project: str = "default") -> None:
        self.connection = connection
        self.project = project
        inside = f"/projects/{segment(project)}"
        self.vms = vms.VMs(connection, inside + "/vms")
        self.images = Images(connection, inside + "/images")
        self.templates = Templates(connection, inside + "/templates")
        self.volumes = Volumes(connection, inside + "/volumes")
        self.networks = Networks(connection, inside + "/networks")
        self.firewall_groups = Nouns(connection, inside + "/firewall-groups")
        self.tasks = Tasks(connection, inside + "/tasks")
        self.all_tasks = Tasks(connection, "/tasks")
        self.hosts = Hosts(connection, "/hosts")
        self.storage = Storages(connection, "/storage")
        self.failovers = Failovers(connection, "/failovers")
        self.events = Nouns(connection, "/events")
        self.alarms = Alarms(connection, "/alarms")
        self.tokens = Nouns(connection, "/tokens")
        self.plan = Plans(connection, "/plan")
        self.cluster = Cluster(connection)

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

    def doctor(self, *, host: str | None = None) -> Any:
        return self.connection.request("GET", "/doctor", query=given(host=host)).document

    def adopt(self, request: Request) -> Document:
        document: Document = self.connection.request("POST", "/adopt", document=plain(request)).document
        return document


def ended(task: Document) -> bool:
    """Whether a task's document says that it came to its end."""
    return task["status"]["state"] in ("done", "failed", "cancelled")


def language_of_environment() -> str:
    """The reader's language by the POSIX locale variables, as an HTTP `Accept-Language`."""
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        if value := os.environ.get(name):
            tag = value.partition(".")[0].partition("@")[0]
            return "" if tag in ("C", "POSIX") else tag.replace("_", "-")
    return ""
