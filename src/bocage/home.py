"""Where one daemon's things lie: its home, and the short runtime directory of its sockets."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import stat
import uuid

from bocage import errors, files
from bocage.words import N_

DEFAULT_LISTEN = "127.0.0.1:8480"
_SOCKET_ROOM = 50  # bytes that the longest socket name below the runtime directory takes (sun_path holds 107)


class Error(errors.Problem):
    """Anything that goes wrong with the home."""


class Unusable(Error, errors.Unavailable):
    type = "home-unusable"
    text = N_("the home {path} cannot be used: {reason}")
    hint = N_("set BOCAGE_HOME to a directory that you may write to")
    path: str
    reason: str


class IdentityDamaged(Error):
    type = "home-identity-damaged"
    text = N_("{path} does not hold the host's identity: {reason}")
    hint = N_("restore the file from a backup; a host with another identity would not know its own VMs")
    path: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Identity:
    """What this host is, kept outside the database: its uid, and how often it was made anew."""

    uid: str
    generation: int


@dataclasses.dataclass(frozen=True, slots=True)
class Home:
    path: pathlib.Path
    runtime: pathlib.Path

    @classmethod
    def from_environment(cls) -> Home:
        """`BOCAGE_HOME`, else `/var/lib/bocage` for root and `~/.local/share/bocage` for a user."""
        given = os.environ.get("BOCAGE_HOME")
        if given:
            path = pathlib.Path(given).expanduser().absolute()
        elif os.geteuid() == 0:
            path = pathlib.Path("/var/lib/bocage")
        else:
            path = pathlib.Path("~/.local/share/bocage").expanduser()
        path = path.resolve()
        return cls(path, _runtime_root() / hashlib.sha256(os.fsencode(path)).hexdigest()[:8])

    @property
    def database(self) -> pathlib.Path:
        return self.path / "bocage.db"

    @property
    def database_lock(self) -> pathlib.Path:
        """Held by the daemon as long as it lives, with its pid inside."""
        return self.path / "bocage.db.lock"

    @property
    def samples(self) -> pathlib.Path:
        """The history of what VMs used; lost, it takes nothing else with it."""
        return self.path / "samples.db"

    @property
    def former_database(self) -> pathlib.Path:
        """The database of before this host became part of a cluster; nothing reads it any more."""
        return self.path / "bocage.db.before-cluster"

    @property
    def secret_key(self) -> pathlib.Path:
        """What secrets in the store are sealed with; the same on all hosts of a cluster."""
        joined = self.joined_secret_key
        return joined if self.cluster_document.exists() and joined.exists() else self.path / "secret.key"

    @property
    def joined_secret_key(self) -> pathlib.Path:
        """That of the cluster that this host has joined: its own of before stays, should it not come about."""
        return self.cluster / "secret.key"

    @property
    def cluster(self) -> pathlib.Path:
        """What makes this host part of a cluster."""
        return self.path / "cluster"

    @property
    def cluster_document(self) -> pathlib.Path:
        """There when this host is part of a cluster, and not before everything else is."""
        return self.cluster / "cluster.json"

    @property
    def authority(self) -> pathlib.Path:
        """The certificate that all hosts of the cluster believe."""
        return self.cluster / "ca.crt"

    @property
    def authority_key(self) -> pathlib.Path:
        return self.cluster / "ca.key"

    @property
    def certificate(self) -> pathlib.Path:
        """This host's own."""
        return self.cluster / "host.crt"

    @property
    def certificate_key(self) -> pathlib.Path:
        return self.cluster / "host.key"

    @property
    def life(self) -> pathlib.Path:
        """This host's life in its cluster, and the bounds of it."""
        return self.cluster / "life.json"

    @property
    def etcd(self) -> pathlib.Path:
        """The data of this host's etcd member."""
        return self.cluster / "etcd"

    @property
    def local_storage(self) -> pathlib.Path:
        return self.path / "storage" / "local"

    @property
    def by_name(self) -> pathlib.Path:
        """Links `PROJECT/NAME` to the VMs' directories."""
        return self.path / "by-name"

    @property
    def cache(self) -> pathlib.Path:
        """What can be made anew: probes, packages, parts of images."""
        return self.path / "cache"

    @property
    def log(self) -> pathlib.Path:
        return self.path / "daemon.log"

    @property
    def pid_file(self) -> pathlib.Path:
        return self.runtime / "daemon.json"

    @property
    def socket(self) -> pathlib.Path:
        """The API's Unix socket: whoever may open it is known by uid."""
        return self.runtime / "api.sock"

    @property
    def node_socket(self) -> pathlib.Path:
        """The node's own interface, for the API alone."""
        return self.runtime / "node.sock"

    def vm_runtime(self, uid: str) -> pathlib.Path:
        """Sockets and process records of one VM; nothing in it outlives a reboot."""
        return self.runtime / "vms" / uid

    def replica_runtime(self, uid: str) -> pathlib.Path:
        """Process record and key of whoever serves the replica of a VM that another host has."""
        return self.runtime / "replicas" / uid

    def prepare(self) -> None:
        """Make the directories; raises Unusable."""
        if not str(self.path).isprintable():
            raise Unusable(path=repr(str(self.path)), reason="there are control characters in its name")
        try:
            for directory, mode in ((self.path, 0o711), (self.cache, 0o700), (self.by_name, 0o700)):
                directory.mkdir(parents=True, exist_ok=True, mode=mode)
            _own_directory(self.runtime.parent)
            _own_directory(self.runtime)
            (self.runtime / "vms").mkdir(exist_ok=True, mode=0o711)
        except OSError as error:
            raise Unusable(path=str(error.filename or self.path), reason=error.strerror or str(error)) from error
        longest = len(os.fsencode(self.runtime)) + _SOCKET_ROOM
        if longest > 107:
            raise Unusable(path=str(self.runtime), reason="the path of its sockets would be too long")

    def identity(self) -> Identity:
        """The host's identity, made at the first start; raises IdentityDamaged."""
        path = self.path / "host.json"
        with contextlib.suppress(FileNotFoundError):
            try:
                held = json.loads(path.read_text())
                return Identity(uid=str(held["uid"]), generation=int(held["generation"]))
            except (ValueError, KeyError, TypeError) as error:
                raise IdentityDamaged(path=str(path), reason=str(error)) from error
        identity = Identity(uid=str(uuid.uuid4()), generation=1)  # not by the model: the command line would load it
        files.write_durably(path, json.dumps(dataclasses.asdict(identity)) + "\n")
        return identity


def listen_address() -> str:
    """Where the API listens beside its Unix socket: `BOCAGE_LISTEN`, `HOST:PORT`."""
    return os.environ.get("BOCAGE_LISTEN") or DEFAULT_LISTEN


def _runtime_root() -> pathlib.Path:
    if os.geteuid() == 0:
        return pathlib.Path("/run/bocage")
    # Not XDG_RUNTIME_DIR: under su or cron it is not set and at the last logout it is emptied, while VMs run on;
    # a daemon that looked elsewhere for them would start them a second time.
    return pathlib.Path(f"/tmp/bocage-{os.geteuid()}")  # noqa: S108 - checked below: ours, and nobody else's


def _own_directory(path: pathlib.Path) -> None:
    path.mkdir(parents=True, exist_ok=True, mode=0o711)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise Unusable(path=str(path), reason="it belongs to somebody else")
