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
from bocage.cli import failure
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
    """What was written was refused, and there is nobody to write it again."""

    type = "edit-given-up"
    text = N_("nothing was changed; what you wrote is kept in {path}")
    path: str


def edit(text: str, *, name: str, take: Callable[[str], Taken]) -> Taken | None:
    """Let a person change `text` until `take` takes it; None when they left it as it was.

    When `take` raises an errors.Problem the editor opens again with the reason above the text; saving
    it unchanged then gives up. Raises NoEditor, and GivenUp with what was written kept in a file.
    """
    head = f"# {name}: what you save is checked before it is taken. Left as it is, nothing changes.\n"
    shown = head + text
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", prefix=f"bocage-{name}-", delete=False) as file:
        file.write(shown)
    keep = False
    try:
        while True:
            _open(file.name)
            with open(file.name, encoding="utf-8", errors="replace") as edited:
                written = edited.read()
            if written == shown:
                keep = shown.startswith(_MARK)
                if keep:
                    raise GivenUp(path=file.name)
                return None
            body = "".join(line for line in written.splitlines(keepends=True) if not line.startswith(_MARK))
            if body == head + text or not _content(body):
                return None
            try:
                return take(body)
            except errors.Problem as problem:
                if getattr(problem, "http_status", 422) not in (400, 422) or not sys.stdin.isatty():
                    keep = True
                    failure.tell(problem)
                    raise GivenUp(path=file.name) from problem
                shown = _complaint(problem) + body
                with open(file.name, "w", encoding="utf-8") as again:
                    again.write(shown)
    finally:
        if not keep:
            os.unlink(file.name)


def _content(body: str) -> bool:
    return any(line.strip() and not line.startswith("#") for line in body.splitlines())


def _complaint(problem: errors.Problem) -> str:
    lines = [words.say(problem)]
    for fault in getattr(problem, "faults", []):
        right = f" ({fault['right']})" if fault.get("right") else ""
        lines.append(f"  {fault.get('path', '')}: {fault.get('wrong', '')}{right}")
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
