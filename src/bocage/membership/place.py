"""What this host's home says of the cluster that it is part of: `cluster.json`, written last when it comes to one.

Without that file the directory beside it is what an interrupted attempt has left, and the host is one by itself.
"""

from __future__ import annotations

import dataclasses
import json

from bocage import errors, files
from bocage.home import Home
from bocage.store.etcd import access
from bocage.words import N_

CLIENT_PORT, PEER_PORT, HOST_PORT = 2379, 2380, 8481
"""etcd's two, and the one on which hosts speak to each other."""


class Damaged(errors.Problem):
    type = "cluster-document-damaged"
    text = N_("{path} cannot be read: {reason}")
    hint = N_("put it back from a backup; without it nobody knows which cluster this host is part of")
    path: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """A host's place in a cluster."""

    incarnation: str
    """Of the store, when it was last opened."""
    address: str
    """This host's own, at which the others reach it."""
    clients: tuple[str, ...]
    """etcd's voting members (`https://10.0.0.1:2379`), this host's own first where it has one."""
    witness: bool = False
    """It votes and runs no VMs: it is no host, and has no key of the authority."""

    def access(self, home: Home) -> access.Access:
        """How etcd is reached."""
        return access.Access(self.clients, certificates(home))

    def write(self, home: Home) -> None:
        """Raises OSError."""
        files.write_durably(home.cluster_document, json.dumps(dataclasses.asdict(self), indent=1) + "\n")


def read(home: Home) -> Place | None:
    """None: this host is one by itself. Raises Damaged."""
    try:
        told = json.loads(home.cluster_document.read_text())
        clients, witness = tuple(map(str, told["clients"])), told.get("witness") is True
        return Place(str(told["incarnation"]), str(told["address"]), clients, witness)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(path=str(home.cluster_document), reason=str(error)) from error


def certificates(home: Home) -> access.Certificates:
    """This host's papers."""
    return access.Certificates(home.authority, home.certificate, home.certificate_key)


def url(address: str, port: int) -> str:
    """`https://10.0.0.1:2379`, with brackets around an IPv6 address."""
    return f"https://[{address}]:{port}" if ":" in address else f"https://{address}:{port}"
