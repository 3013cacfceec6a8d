"""`bocage version`: ours, the daemon's, and what they stand on."""

from __future__ import annotations

import platform
import sys

import bocage
from bocage import errors, words
from bocage.cli import options, output, session, table


def version(json: options.Json = False) -> None:
    """Print the versions of the command, of the daemon, and of what they run on.

    Examples:
      bocage version --json
    """
    own = {"version": bocage.__version__, "python": platform.python_version(), "system": platform.platform()}
    daemon, trouble = None, ""
    try:
        with session.connect() as api:
            daemon = api.version()
    except errors.Problem as problem:
        trouble = words.say(problem)
    if json:
        output.document({"client": own, "daemon": daemon, **({"problem": trouble} if trouble else {})})
        return
    rows: list[tuple[str, object]] = [("bocage", bocage.__version__)]
    if daemon:
        rows += [
            ("daemon", f"{daemon['version']}, API {daemon['api']}"),
            ("its python", daemon["python"] if daemon["python"] != own["python"] else ""),
            ("its kernel", daemon["kernel"] if daemon["kernel"] not in own["system"] else ""),
            ("qemu", daemon.get("qemu") or "none is installed"),
        ]
    else:
        rows.append(("daemon", trouble))
    output.line(table.facts([*rows, ("python", own["python"]), ("system", own["system"])]))
    sys.stdout.flush()
