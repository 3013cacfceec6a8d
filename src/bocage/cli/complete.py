"""Names for the shell's completion, asked from the API; nothing when it does not answer soon."""

from __future__ import annotations

import os
from typing import Any

_WITHIN = 2.0  # seconds: somebody has pressed Tab


def vms(ctx: Any, args: list[str], incomplete: str) -> list[str]:
    return _names(ctx, "vms", incomplete)


def images(ctx: Any, args: list[str], incomplete: str) -> list[str]:
    return _names(ctx, "images", incomplete)


def templates(ctx: Any, args: list[str], incomplete: str) -> list[str]:
    return _names(ctx, "templates", incomplete)


def volumes(ctx: Any, args: list[str], incomplete: str) -> list[str]:
    return _names(ctx, "volumes", incomplete)


def networks(ctx: Any, args: list[str], incomplete: str) -> list[str]:
    return _names(ctx, "networks", incomplete)


def firewall_groups(ctx: Any, args: list[str], incomplete: str) -> list[str]:
    return _names(ctx, "firewall_groups", incomplete)


def storage(ctx: Any, args: list[str], incomplete: str) -> list[str]:
    return _names(ctx, "storage", incomplete)


def hosts(ctx: Any, args: list[str], incomplete: str) -> list[str]:
    return _names(ctx, "hosts", incomplete)


def systems(ctx: Any, args: list[str], incomplete: str) -> list[str]:
    from bocage import client, errors

    try:
        with client.connect() as api:
            found = api.systems()["items"]
    except errors.Problem:
        return []
    return [one["name"] for one in found if one["name"].startswith(incomplete)]


def _names(ctx: Any, nouns: str, incomplete: str) -> list[str]:
    from bocage import client, errors

    project = ctx.params.get("project") or os.environ.get("BOCAGE_PROJECT") or "default"
    try:
        with client.connect(project=project) as api:
            found = getattr(api, nouns).list(within=_WITHIN)
    except errors.Problem:
        return []
    return [one["metadata"]["name"] for one in found["items"] if one["metadata"]["name"].startswith(incomplete)]
