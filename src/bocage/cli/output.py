"""What commands print: documents as the API sent them, and plain lines."""

from __future__ import annotations

import json
import sys
from typing import Any

from bocage.client import rest


def document(value: Any) -> None:
    """Print a document of the API: indented on a terminal, one line else."""
    indent = 2 if on_terminal() else None
    sys.stdout.write(json.dumps(value, indent=indent, ensure_ascii=not _speaks_unicode()) + "\n")


def line(text: str) -> None:
    if not _speaks_unicode():
        text = text.encode("ascii", "replace").decode()
    sys.stdout.write(text + "\n")


def complain(text: str) -> None:
    """A remark beside the answer: on standard error, so that it stands in no pipe."""
    sys.stdout.flush()
    sys.stderr.write(text + "\n")


def on_terminal() -> bool:
    """Whether what is printed goes to a terminal."""
    return sys.stdout.isatty()


def interactive() -> bool:
    """Whether a person sees what is printed as it comes."""
    return sys.stderr.isatty()


def _speaks_unicode() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") in ("utf8", "utf16")


def named(document: rest.Document) -> str:
    return str(document["metadata"]["name"])
