"""A text in the person's editor until it is taken, given up, or left as it was."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import TypeVar

from bocage import errors, words
from bocage.cli import failure, output
from bocage.words import N_

_MARK = "#! "
Taken = TypeVar("Taken")


class NoEditor(failure.Error):
    type = "no-editor"
    text = N_("the editor '{editor}' did not work: {reason}")
    hint = N_("set EDITOR to one that does")
    editor: str
    reason: str


class GivenUp(failure.Error):
    """What was written was refused and is not written again; it ends as the refusal would."""

    type = "edit-given-up"
    text = N_("nothing was changed; what you wrote is kept in {path}")
    path: str
    http_status: int


def edit(text: str, *, name: str, take: Callable[[str], Taken]) -> Taken | None:
    """Let a person change `text` until `take` takes it; None when they left it as it was.

    When `take` raises an errors.Problem it is told, and a person at a terminal may edit again, with the reason above
    the text. Raises NoEditor, and GivenUp with what was written kept in a file.
    """
    head = f"# {name}: what you save is checked before it is taken. Left as it is, nothing changes.\n"
    shown = head + text
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", prefix=f"bocage-{name}-", delete=False) as file:
        file.write(shown)
    keep = False
    refused: errors.Problem | None = None
    try:
        while True:
            _open(file.name)
            with open(file.name, encoding="utf-8", errors="replace") as edited:
                written = edited.read()
            body = "".join(line for line in written.splitlines(keepends=True) if not line.startswith(_MARK))
            if body == head + text or not _content(body):
                return None
            if refused is None or written != shown:
                try:
                    return take(body)
                except errors.Problem as problem:
                    refused = problem
                    failure.tell(problem)
            keep = True
            if not (_can_be_mended(refused) and _again()):
                raise GivenUp(path=file.name, http_status=_status(refused)) from refused
            keep = False
            shown = _complaint(refused) + body
            with open(file.name, "w", encoding="utf-8") as again:
                again.write(shown)
    finally:
        if not keep:
            os.unlink(file.name)


def _status(problem: errors.Problem) -> int:
    return int(getattr(problem, "http_status", problem.status))


def _can_be_mended(problem: errors.Problem) -> bool:
    return _status(problem) in (400, 422)


def _again() -> bool:
    """Ask, where there is somebody to ask."""
    if not (sys.stdin.isatty() and output.interactive()):
        return False
    sys.stderr.write("Edit again? [Y/n] ")
    sys.stderr.flush()
    answer = sys.stdin.readline()
    return bool(answer) and answer.strip().lower() in ("", "y", "yes")


def _content(body: str) -> bool:
    return any(line.strip() and not line.startswith("#") for line in body.splitlines())


def _complaint(problem: errors.Problem) -> str:
    lines = failure.whole(words.say(problem), getattr(problem, "faults", []))
    return "".join(f"{_MARK}{line}\n" for part in lines for line in part.splitlines())


def _open(path: str) -> None:
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "sensible-editor"
    try:
        subprocess.run([*shlex.split(editor), path], check=True)
    except FileNotFoundError as error:
        if editor != "sensible-editor":
            raise NoEditor(editor=editor, reason="it is not installed") from error
        _fall_back(path)
    except (subprocess.CalledProcessError, OSError, ValueError) as error:
        raise NoEditor(editor=editor, reason=str(error)) from error


def _fall_back(path: str) -> None:
    for editor in ("nano", "vi"):
        try:
            subprocess.run([editor, path], check=True)
        except FileNotFoundError:
            continue
        except subprocess.CalledProcessError as error:
            raise NoEditor(editor=editor, reason=str(error)) from error
        return
    raise NoEditor(editor="nano", reason="it is not installed")
