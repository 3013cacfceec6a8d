"""`bocage daemon`: the program behind the API, on this machine."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

from bocage.cli import failure, lazy, options, output
from bocage.words import N_

_SHOWN = ("listen", "socket", "home", "log")
Within = Annotated[float, typer.Option(metavar="SECONDS", min=1, help="How long to wait for it.")]


class NotRunning(failure.Error):
    type = "daemon-not-running"
    text = N_("no daemon runs for {home}")
    hint = N_("'bocage daemon start' starts it")
    home: str


def run(
    listen: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="BOCAGE_LISTEN, or 127.0.0.1:8480.")] = None,
) -> None:
    """Run the daemon here, until it is stopped (for systemd and for debugging).

    Examples:
      BOCAGE_HOME=/srv/bocage bocage daemon run --listen 127.0.0.1:8999
    """
    from bocage import daemon as program
    from bocage import home

    program.run(home.Home.from_environment(), listen or home.listen_address())


def start(within: Within = 60, json: options.Json = False) -> None:
    """Start the daemon in the background; returns when it answers. Good also when it runs already.

    Examples:
      bocage daemon start
    """
    from bocage.cli import background

    found = background.find()
    already = found is not None and background.answers()
    if found and not already and (lost := background.unreachable(found)):
        raise lost
    if not already:
        found = background.start(within=within)
    assert found
    if json:
        output.document(_document(found, running=True))
    else:
        output.line(f"the daemon {'runs already' if already else 'is running'}, pid {found.pid}")


def stop(within: Within = 60, json: options.Json = False) -> None:
    """Stop the daemon; the VMs go on.

    Examples:
      bocage daemon stop
    """
    from bocage.cli import background

    found = background.find()
    if found:
        background.stop(found, within=within)
    if json:
        output.document(_document(found, running=False))
    else:
        output.line("the daemon is stopped; the VMs go on" if found else "no daemon was running")


def status(json: options.Json = False) -> None:
    """Say whether the daemon runs; exit code 6 when it does not.

    Examples:
      bocage daemon status --json
    """
    from bocage import home
    from bocage.cli import background

    found = background.find()
    answers = found is not None and background.answers()
    if json:
        output.document({**_document(found, running=found is not None), "answers": answers})
    elif found and answers:
        output.line(_shown(_document(found, running=True)))
    elif found and (lost := background.unreachable(found)):
        failure.tell(lost)
    elif found:
        output.line(f"pid {found.pid} is there and does not answer: 'bocage daemon log' may say why")
    if not found and not json:
        problem = NotRunning(home=str(home.Home.from_environment().path))
        failure.tell(problem)
    if not answers:
        raise typer.Exit(failure.UNREACHABLE)


def _shown(document: dict[str, Any]) -> str:
    from bocage.cli import table

    facts = (("state", f"running, pid {document['pid']}"), *((key, document[key]) for key in _SHOWN))
    return table.facts(facts)


def _document(found: Any, *, running: bool) -> dict[str, Any]:
    from bocage import home
    from bocage.cli import background

    at = home.Home.from_environment()
    return {
        "running": running,
        "pid": found.pid if found and running else None,
        "listen": background.listens(found) if found and running else None,
        "home": str(at.path),
        "socket": str(at.socket),
        "log": str(at.log),
    }


def log(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", metavar="N", min=0, help="So many of the last.")] = 100,
    json: options.Json = False,
) -> None:
    """Print the daemon's log; with --json a document for each line.

    Examples:
      bocage daemon log --follow
    """
    from bocage import home, systemd
    from bocage.cli import background

    at = home.Home.from_environment()
    served = systemd.serves(at.path)
    if not served and not at.log.exists():
        raise NotRunning(home=str(at.path))
    if json and follow:
        raise failure.Usage(option="--json, --follow", wrong="one of them at a time")
    said = systemd.journal(lines) if served else background.tail(at.log, lines=lines)
    if json:
        for line in said.splitlines():
            output.document({"line": line})
        return
    sys.stdout.write(said)
    sys.stdout.flush()
    if follow:  # by a program that does just this, and follows a rotation
        rest = systemd.JOURNAL if served else ["tail", "-F", str(at.log)]
        os.execvp(rest[0], [*rest, *(["--follow"] if served else []), "-n", "0"])  # noqa: S606


NOUN = lazy.Group(
    "daemon",
    help="The daemon: the program behind the API, on this machine.",
    verbs={
        "Daemon": {
            "start": "daemon:start",
            "stop": "daemon:stop",
            "status": "daemon:status",
            "log": "daemon:log",
            "run": "daemon:run",
        }
    },
)
