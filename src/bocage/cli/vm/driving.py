"""On the way to virtio's drivers: their CD in a drive, and a small disk that the guest installs one for."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

import typer

from bocage.cli import failure, image, output, waiting
from bocage.client import rest

WHEN_DRIVEN = "virtio-when-driven"
_SIZE = "16M"


def prepare(
    api: rest.Client, name: str, cd: str, *, sha256: str | None, yes: bool, now: bool, tell: Callable[[str], None]
) -> str:
    """Have the CD in a drive and a virtio disk there; what `drivers` is to be then."""
    vm = api.vms.get(name)
    drives = [one["name"] for one in vm["spec"]["cds"] if one["bus"] != "floppy"]
    if not drives:
        raise failure.Usage(option="--driver-cd", wrong=f"{name} has no CD drive")
    if sha256 and not _is_address(cd):
        raise failure.Usage(option="--sha256", wrong=f"{cd} is an image: its checksum was looked at when it came")
    called = cd
    if _is_address(cd):
        called = _there(api, cd, sha256) or _downloaded(api, name, cd, str(sha256), drives[0], yes=yes, tell=tell)
    _done(api, api.vms.change_cd(name, drives[0], called))
    tell(f"{called} is in {drives[0]} of {name}")
    if not any(disk["bus"] == "virtio" for disk in vm["spec"]["disks"]):
        _done(api, api.vms.attach(name, {"size": _SIZE, "bus": "virtio"}))
        tell(f"{name} has a disk of {_SIZE} that wants a virtio driver")
    if now:
        return "virtio"
    tell(f"{name} goes over to virtio when its guest is seen to drive such a disk: install what is on the CD")
    return WHEN_DRIVEN


def _is_address(cd: str) -> bool:
    return re.match(r"https?://", cd, re.IGNORECASE) is not None


def _there(api: rest.Client, url: str, sha256: str | None) -> str | None:
    """The image of that checksum, when there is one."""
    if not sha256:
        raise failure.Usage(option="--sha256", wrong=f"{url} needs the checksum that its publisher prints")
    held = [one for one in api.images.list()["items"] if one["spec"]["sha256"] == sha256.lower()]
    return str(held[0]["metadata"]["name"]) if held else None


def _downloaded(
    api: rest.Client, name: str, url: str, sha256: str, drive: str, *, yes: bool, tell: Callable[[str], None]
) -> str:
    """The image that came of it, when a person wants it."""
    called = image.name_for(url)
    if not yes:
        if not (sys.stdin.isatty() and output.interactive()):
            raise failure.Usage(option="--yes", wrong=f"{url} is to be downloaded, and nobody is there to agree")
        typer.confirm(f"Download {url} as image {called}, for {drive} of {name}?", abort=True, err=True)
    file_name = url.partition("?")[0].rsplit("/", 1)[-1]
    _done(api, api.images.create({"name": called, "url": url, "sha256": sha256.lower(), "file_name": file_name}))
    tell(f"image {called} is there")
    return called


def _done(api: rest.Client, task: rest.Document) -> None:
    waiting.tell_warnings(task)
    waiting.check(waiting.watch(api, task))
