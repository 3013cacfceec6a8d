"""How a command says that it did not work: the sentence, its faults, the hint, once, and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any

import typer

from bocage import client, errors, words
from bocage.words import N_

DONE, FAILED, USAGE, NOT_FOUND, CONFLICT, NOT_ALLOWED, UNREACHABLE = range(7)


class Error(errors.Problem):
    """What the command line itself finds wrong."""


class Usage(Error, errors.Invalid):
    """An option or an argument that says nothing sensible."""

    type = "bad-usage"
    text = N_("{option}: {wrong}")
    hint = N_("{right}")
    option: str
    wrong: str
    right: str = ""


class TaskFailed(Error):
    """A task came to its end without being done; its sentence is the task's own."""

    type = "task-ended-badly"
    text = N_("{sentence}")
    hint = N_("{advice}")
    sentence: str
    advice: str
    http_status: int


class Surprise(Error):
    type = "command-line-fault"
    text = N_("something went wrong inside the command line: {name}: {said}")
    hint = N_("BOCAGE_DEBUG=1 shows where; please report it")
    name: str
    said: str


def code(problem: errors.Problem) -> int:
    """The exit code that stands for a problem."""
    if isinstance(problem, client.Unreachable):
        return UNREACHABLE
    return code_of_status(getattr(problem, "http_status", problem.status))


def code_of_status(status: int) -> int:
    if status in (400, 413, 415, 422):
        return USAGE
    if status in (404, 410):
        return NOT_FOUND
    if status in (409, 412, 428):
        return CONFLICT
    if status in (401, 403):
        return NOT_ALLOWED
    return FAILED


def tell(problem: errors.Problem) -> int:
    """Say what went wrong on standard error; returns the exit code."""
    if os.environ.get("BOCAGE_DEBUG"):
        traceback.print_exception(problem)
    say(words.say(problem), words.advise(problem), getattr(problem, "faults", []))
    return code(problem)


def say(sentence: str, hint: str = "", faults: list[dict[str, Any]] | None = None) -> None:
    """Print a sentence, the fields that do not hold, and the next step; what the sentence says already is left out."""
    sys.stdout.flush()
    print("bocage: " + "\n  ".join([*whole(sentence, faults or []), *([hint] if hint else [])]), file=sys.stderr)


def whole(sentence: str, faults: list[dict[str, Any]]) -> list[str]:
    """A sentence and the fields that do not hold, line by line, nothing twice."""
    lines = [_fault(one) for one in faults]
    said = faults and sentence.endswith(str(faults[0].get("wrong")))
    return lines if said else [sentence, *lines]


def _fault(fault: dict[str, Any]) -> str:
    path, wrong, right = (str(fault.get(part) or "") for part in ("path", "wrong", "right"))
    if path.startswith("?"):  # a query parameter: here it is an option of the same name
        path = f"--{path[1:]}"
    advice = f" ({right})" if right and right not in wrong else ""
    return f"{path}: {wrong}{advice}" if path else wrong + advice


def tell_usage(error: typer.TyperException) -> int:
    """Say what a command line lacks or has too much; with no arguments at all, its help."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        print(error.format_message(), file=sys.stderr)
        return USAGE
    near = _take_nearest(error)
    said = " ".join(error.format_message().split()).rstrip(".")
    hint = f"'{context.command_path} --help' shows how it is used" if context else ""
    if near:
        hint = f"did you mean '{near}'?"
    say(said[:1].lower() + said[1:], hint)
    return int(error.exit_code)


def _take_nearest(error: Any) -> str:
    """The option that a misspelt one is likest to; the error's own list of such is emptied."""
    import difflib

    possible = getattr(error, "possibilities", None) or ()
    error.possibilities = None
    return next(iter(difflib.get_close_matches(str(getattr(error, "option_name", "")), possible, n=1, cutoff=0.75)), "")


def tell_surprise(error: Exception, *, whole: bool = False) -> int:
    """Say that the program has a fault; `whole` shows where: the daemon's own log has to."""
    if whole:
        traceback.print_exception(error)
    return tell(Surprise(name=type(error).__name__, said=str(error)))
