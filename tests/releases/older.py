"""The code of earlier releases, taken out of the history: what a home was left by can run again."""

from __future__ import annotations

import pathlib
import subprocess

import pytest

COMMITS = {"0.1.0": "7c970a2819b9770ad047e6118bc2c6f876acdfbf"}
"""What made the home that is kept of each release; a release that is made gets its line here."""
_TOP = pathlib.Path(__file__).parents[2]


def unpack(release: str, into: pathlib.Path, *further: str) -> pathlib.Path:
    """The directory that the package `bocage` of a release lies in; skips where the history is not that long.

    `further`: more of its files, which lie beside that directory.
    """
    commit = COMMITS[release]
    if subprocess.run(["git", "-C", _TOP, "cat-file", "-e", commit], check=False, capture_output=True).returncode:
        pytest.skip(f"{commit}, the code of {release}, is not in this clone's history")
    archive = subprocess.run(["git", "-C", _TOP, "archive", commit, "src", *further], check=True, capture_output=True)
    subprocess.run(["tar", "--extract", "--directory", into], check=True, input=archive.stdout)
    return into / "src"
