"""The sockets of what carries a VM's NICs and serves its ports."""

import os
import pathlib

import pytest

from bocage.engine.qemu import carriers, isolation


def test_a_socket_has_its_owner_before_it_has_its_name(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "io" / "com2"
    path.parent.mkdir()
    seen: list[tuple[bool, bool]] = []
    monkeypatch.setattr(os, "chown", lambda at, *_: seen.append((path.exists(), pathlib.Path(at).parent == tmp_path)))
    os.close(carriers.listening(path, isolation.Owner(4711, 4711)))
    assert seen == [(False, True)], "the directory is the VM's: it could put another thing in the place"
    assert path.is_socket()
    assert os.listdir(tmp_path) == ["io"]
