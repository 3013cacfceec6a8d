"""The `bocage` command: nouns and verbs over the client, and nothing else of the program.

What a command does not use it does not import: `bocage vm list` has 250 ms in all.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns its exit code."""
    from bocage.cli import app

    _open_closed()
    return app.run(sys.argv[1:] if arguments is None else arguments)


def _open_closed() -> None:
    """Put /dev/null where a standard stream is closed: a connection would get its number, and what is printed."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115
