"""A password that the command line needs: it never stands there, where every process list shows it."""

from __future__ import annotations

import os
import pathlib
import sys

import typer

from bocage.cli import failure


def ask(of: str, *, file: str | None, option: str) -> str:
    """The first line of a file, or of standard input; asked for at a terminal. Raises failure.Usage."""
    if file is not None:
        try:
            read = pathlib.Path(os.path.expanduser(file)).read_text().partition("\n")[0]
        except (OSError, UnicodeDecodeError) as error:
            raise failure.Usage(option=option, wrong=f"{file}: {error}") from error
    elif sys.stdin.isatty():
        read = str(typer.prompt(f"Password of {of}", hide_input=True, err=True))
    else:
        read = sys.stdin.readline()
    if not (password := read.rstrip("\r\n")):
        where = "standard input" if file is None else file
        raise failure.Usage(option=where, wrong="there is no password on it", right="its first line")
    return password
