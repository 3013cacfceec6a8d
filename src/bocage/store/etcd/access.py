"""How etcd's members are reached: their addresses, our certificate, our name and password."""

from __future__ import annotations

import dataclasses
import pathlib
import ssl

SERVER_OPTIONS = ("--max-txn-ops", "160", "--max-request-bytes", "4194304")
"""What etcd must be started with: each of our transactions carries some operations and bytes beside the contract's."""


@dataclasses.dataclass(frozen=True, slots=True)
class Certificates:
    """PEM files for mutual TLS.

    Ours must have an empty common name: etcd's gateway refuses all others, since it would not know whom to believe.
    """

    authority: pathlib.Path
    certificate: pathlib.Path
    key: pathlib.Path

    def context(self) -> ssl.SSLContext:
        """For a client that believes this authority alone."""
        context = ssl.create_default_context(cafile=self.authority)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.certificate, self.key)
        return context


@dataclasses.dataclass(frozen=True, slots=True)
class User:
    """An etcd user, where authentication is on."""

    name: str
    password: str = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Access:
    """The members' client addresses (`https://10.0.0.1:2379`), the nearest first."""

    members: tuple[str, ...]
    certificates: Certificates | None = None
    user: User | None = None

    def __post_init__(self) -> None:
        if not self.members or any(member.startswith("https:") and not self.certificates for member in self.members):
            raise ValueError("no members, or no certificates for https")
