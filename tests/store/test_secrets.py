"""Sealed values: what comes back, what is refused, and who may read the key."""

from __future__ import annotations

import concurrent.futures
import os
import pathlib
import stat
import subprocess
import sys

import pytest

from bocage.store import secrets


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "secret.key"


@pytest.mark.parametrize("plain", [b"", b"hunter2", bytes(range(256)) * 40], ids=["empty", "short", "long"])
def test_what_was_sealed_comes_back(path, plain):
    sealed = secrets.Box.open(path).seal(plain, context="storage/array1/chap")
    assert secrets.Box.open(path).unseal(sealed, context="storage/array1/chap") == plain


def test_the_sealed_value_shows_nothing_and_is_different_each_time(path):
    box = secrets.Box.open(path)
    sealed = {box.seal(b"hunter2", context="a") for _ in range(20)}
    assert len(sealed) == 20
    assert all("hunter2" not in one and one.isascii() for one in sealed)


def test_a_secret_of_something_else_is_refused(path):
    box = secrets.Box.open(path)
    sealed = box.seal(b"hunter2", context="host/h1/bmc")
    with pytest.raises(secrets.Tampered) as caught:
        box.unseal(sealed, context="host/h2/bmc")
    assert caught.value.context == "host/h2/bmc"


def test_a_changed_value_is_refused_wherever_it_was_changed(path):
    box = secrets.Box.open(path)
    sealed = box.seal(b"hunter2", context="a")
    for place in range(len(sealed)):
        changed = sealed[:place] + ("A" if sealed[place] != "A" else "B") + sealed[place + 1 :]
        with pytest.raises((secrets.Tampered, secrets.OtherKey)):
            box.unseal(changed, context="a")


@pytest.mark.parametrize(
    "junk", ["", "1:", "1:AAAA", "1:é", "1:!!!!", "2:AAAA", "plain password", "1:" + "A" * 100_000]
)
def test_what_was_never_sealed_is_refused(path, junk):
    with pytest.raises((secrets.Tampered, secrets.OtherKey)):
        secrets.Box.open(path).unseal(junk, context="a")


def test_a_value_that_was_sealed_with_another_key_says_so(path, tmp_path):
    sealed = secrets.Box.open(path).seal(b"hunter2", context="a")
    with pytest.raises(secrets.OtherKey):
        secrets.Box.open(tmp_path / "other.key").unseal(sealed, context="a")


def test_the_key_is_for_its_owner_alone_and_nothing_lies_beside_it(path):
    previous = os.umask(0)
    try:
        secrets.Box.open(path)
    finally:
        os.umask(previous)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_opening_again_keeps_the_key(path):
    secrets.Box.open(path)
    key = path.read_bytes()
    secrets.Box.open(path)
    assert path.read_bytes() == key


def test_all_who_make_the_key_at_once_have_the_same_one(path):
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        boxes = list(pool.map(lambda _: secrets.Box.open(path), range(16)))
    sealed = boxes[0].seal(b"hunter2", context="a")
    assert {box.unseal(sealed, context="a") for box in boxes} == {b"hunter2"}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_key_that_others_can_reach_is_refused(path, mode):
    secrets.Box.open(path)
    path.chmod(mode)
    with pytest.raises(secrets.KeyExposed):
        secrets.Box.open(path)


@pytest.mark.parametrize("content", [b"", b"\0" * 32, b"c2hvcnQ=\n", b"\xff\xfe", b"A" * 44])
def test_a_damaged_key_is_refused_and_left_as_it_is(path, content):
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(secrets.BadKey):
        secrets.Box.open(path)
    assert path.read_bytes() == content


def test_a_key_in_a_directory_that_is_not_there_is_told(path):
    with pytest.raises(secrets.KeyFailed):
        secrets.Box.open(path.parent / "absent" / "secret.key")


def test_neither_a_box_nor_an_error_shows_the_key(path):
    box = secrets.Box.open(path)
    key = path.read_text().strip()
    assert key not in repr(box)
    with pytest.raises(secrets.Tampered) as caught:
        box.unseal("1:", context="a")
    assert key not in str(caught.value)


def test_opening_a_box_does_not_load_the_cipher():
    code = "import pathlib, sys; from bocage.store import secrets; sys.exit('cryptography' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=30).returncode == 0
