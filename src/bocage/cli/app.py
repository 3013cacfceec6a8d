"""The nouns, and how a command line ends: with an exit code, and a sentence when it did not go well."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import typer

from bocage import errors
from bocage.cli import failure, lazy

NOUNS = lazy.Group(
    "bocage",
    help="Virtual machines on this host.",
    verbs={
        "Virtual machines": {
            "vm": "vm:NOUN",
            "why": "why:why",
        },
        "What they stand on": {
            "image": "image:NOUN",
            "template": "template:NOUN",
            "volume": "volume:NOUN",
            "storage": "storage:NOUN",
            "network": "network:NOUN",
            "firewall": "firewall:NOUN",
            "host": "host:NOUN",
            "cluster": "cluster:NOUN",
            "os": "systems:NOUN",
        },
        "What is going on": {
            "task": "task:NOUN",
            "events": "events:events",
            "alarm": "alarm:NOUN",
            "failover": "failover:NOUN",
            "plan": "plan:NOUN",
        },
        "The installation": {
            "install": "install:install",
            "uninstall": "install:uninstall",
            "daemon": "daemon:NOUN",
            "doctor": "doctor:doctor",
            "token": "token:NOUN",
            "adopt": "adopt:adopt",
            "version": "version:version",
        },
    },
    examples="""
    bocage image build tiny
    bocage vm create web1 --image tiny --memory 512M --start
    bocage vm list
    bocage vm console web1
    bocage why web1
    """,
)


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns its exit code."""
    if not arguments or arguments[0].startswith("-"):
        lazy.offer_completion(NOUNS)
    if list(arguments) == ["--version"]:
        arguments = ["version"]
    try:
        code = NOUNS.main(args=list(arguments), prog_name="bocage", standalone_mode=False)
        sys.stdout.flush()
    except typer.TyperException as error:
        return failure.tell_usage(error)
    except errors.Problem as problem:
        return failure.tell(problem)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except Exception as error:  # noqa: BLE001 - a person gets one sentence, whatever went wrong
        return failure.tell_surprise(error, whole=list(arguments[:2]) == ["daemon", "run"])
    return code if isinstance(code, int) else 0
