"""The `bocage` command: nouns and verbs over the client, and nothing else of the program.

What a command does not use it does not import: `bocage vm list` has 250 ms in all.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns its exit code."""
    from bocage.cli import app

    return app.run(sys.argv[1:] if arguments is None else arguments)
