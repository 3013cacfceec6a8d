"""What the guest's room cannot do without, and the base of its errors: programs and files that packages bring."""

from __future__ import annotations

import os
import pathlib
import pwd
import shutil

from bocage import errors
from bocage.words import N_


class Error(errors.Problem):
    """Anything that goes wrong while a guest's image or seed is made."""


class ToolMissing(Error, errors.Unavailable, FileNotFoundError):
    """A program or a file that a Debian package brings is not there."""

    type = "guest-tool-missing"
    text = N_("{tool} is missing; the package '{package}' has it")
    hint = N_("apt install {package}")
    tool: str
    package: str


def program(name: str, *, package: str) -> str:
    """The absolute path of a program, looked for where only root's PATH looks too. Raises ToolMissing."""
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    if found := shutil.which(name, path=path):
        return found
    raise ToolMissing(tool=name, package=package)


def file(path: str, *, package: str) -> pathlib.Path:
    """A file that a package installs. Raises ToolMissing."""
    found = pathlib.Path(path)
    if not found.is_file():
        raise ToolMissing(tool=path, package=package)
    return found


def user_name() -> str:
    """The name of the user that this program runs as; the number when it has none."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
