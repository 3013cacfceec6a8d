"""Where each resource lies in the store.

`/bocage/1/KIND/PROJECT/UID/spec` and `…/status` apart, so that a status write is never a user's conflict;
`/bocage/1/name/KIND/PROJECT/NAME` holds the uid. What stands outside projects has no PROJECT part.
"""

from __future__ import annotations

ROOT = "/bocage/1"
ALL = "/bocage/"
"""The resources, and what hosts tell each other in a cluster: whoever follows the store's revision watches this."""


def prefix(kind: str, project: str | None = None) -> str:
    """All resources of a kind, or those of one project."""
    return f"{ROOT}/{kind}/" if project is None else f"{ROOT}/{kind}/{project}/"


def base(kind: str, project: str | None, uid: str) -> str:
    """All keys of one resource, with the slash."""
    return f"{prefix(kind, project)}{uid}/"


def spec(kind: str, project: str | None, uid: str) -> str:
    return base(kind, project, uid) + "spec"


def status(kind: str, project: str | None, uid: str) -> str:
    return base(kind, project, uid) + "status"


def owner(project: str, uid: str) -> str:
    """A VM's owner record: which host may open its disks, and the generation of that right."""
    return base("vm", project, uid) + "owner"


def name(kind: str, project: str | None, label: str) -> str:
    return f"{ROOT}/name/{kind}/{label}" if project is None else f"{ROOT}/name/{kind}/{project}/{label}"


def names(kind: str, project: str | None = None) -> str:
    """All name keys of a kind, or those of one project."""
    return name(kind, project, "")


def setting(label: str) -> str:
    """One setting of the installation, such as its incarnation."""
    return f"{ROOT}/setting/{label}"


def idempotency(asker: str, key: str) -> str:
    """What a create with this idempotency key once answered."""
    return f"{ROOT}/idempotency/{asker}/{key}"


def kind_of(key: str) -> str:
    return key.removeprefix(ROOT).split("/")[1]


def uid_of(key: str) -> str:
    """The uid in a key of a resource."""
    return key.rsplit("/", 2)[-2]
