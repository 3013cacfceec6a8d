"""The command line, run in this process against a small API of the test's own."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Iterator

import pytest

from bocage import cli
from tests import fake_api

Bocage = Callable[..., "Ended"]


@dataclasses.dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


@pytest.fixture
def api(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[fake_api.FakeApi]:
    path = tmp_path / "api.sock"
    monkeypatch.setenv("BOCAGE_URL", f"unix://{path}")
    monkeypatch.delenv("BOCAGE_TOKEN", raising=False)
    monkeypatch.delenv("BOCAGE_PROJECT", raising=False)
    yield from fake_api.serving(path)


@pytest.fixture
def bocage(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Bocage:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("BOCAGE_DEBUG", raising=False)

    def run(*arguments: str) -> Ended:
        code = cli.main(arguments)
        said = capfd.readouterr()
        return Ended(code, said.out, said.err)

    return run
