"""What people ask of a guest through its agent. None of it is kept."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from bocage.model.base import Part

MOST_STDIN = 512 << 10  # bytes
_BASE64 = r"^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"

Word = Annotated[str, StringConstraints(max_length=1 << 17, pattern=r"^[^\x00]*$")]
Path = Annotated[str, StringConstraints(max_length=4096, pattern=r"^(/|[A-Za-z]:[\\/])[^\x00]*$")]
"""Of the guest: absolute, with a drive in Windows."""


class Exec(Part):
    """A command for the guest: a program and its arguments, no shell."""

    command: Annotated[tuple[Word, ...], Field(min_length=1, max_length=4096)]
    stdin: Annotated[str, StringConstraints(max_length=MOST_STDIN * 4 // 3 + 4, pattern=_BASE64)] = ""
    timeout: Annotated[float, Field(gt=0, le=86_400)] = 60.0
    """Seconds."""


class GuestPassword(Part):
    """Another password for an account of the guest."""

    user: Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f:]+$")]
    password: Annotated[str, StringConstraints(min_length=1, max_length=512)]
