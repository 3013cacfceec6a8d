import json
import os

import pytest

from bocage import words
from bocage.engine.qemu import accelerator

needs_device = pytest.mark.skipif(not os.access("/dev/kvm", os.W_OK), reason="no /dev/kvm that may be opened")


async def test_there_is_always_an_accelerator_and_always_a_reason(tmp_path):
    found = await accelerator.probe(cache=tmp_path / "kvm.json")
    assert found.kind in ("kvm", "tcg")
    assert words.say(found.reason)
    if found.ns_per_turn is not None:
        assert (found.kind == "kvm") == (found.ns_per_turn <= 100)


@needs_device
async def test_a_trial_really_runs_and_is_kept(tmp_path):
    cache = tmp_path / "kvm.json"
    found = await accelerator.probe(cache=cache)
    assert found.ns_per_turn
    assert found.ns_per_turn > 0
    again = await accelerator.probe(cache=cache)
    assert again.ns_per_turn == found.ns_per_turn
    assert again.kind == found.kind


@needs_device
@pytest.mark.parametrize(("ns", "kind", "reason"), [(1.2, "kvm", "kvm-works"), (100.1, "tcg", "kvm-slow")])
async def test_what_was_measured_on_this_kernel_and_cpu_decides(tmp_path, ns, kind, reason):
    cache = tmp_path / "kvm.json"
    cache.write_text(json.dumps({accelerator.fingerprint(): ns}))
    found = await accelerator.probe(cache=cache)
    assert (found.kind, found.reason.type, found.ns_per_turn) == (kind, reason, ns)


@needs_device
@pytest.mark.parametrize("kept", ['{"another kernel": 1.0}', "{", "[]", '{"KEY": "x"}', '{"KEY": null}', ""])
async def test_what_was_measured_elsewhere_or_is_damaged_is_measured_anew(tmp_path, kept):
    cache = tmp_path / "kvm.json"
    cache.write_text(kept.replace("KEY", accelerator.fingerprint()))
    found = await accelerator.probe(cache=cache)
    assert json.loads(cache.read_text()) == {accelerator.fingerprint(): found.ns_per_turn}


@pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/dev/kvm"), reason="needs root and /dev/kvm")
async def test_a_user_who_may_not_open_the_device_gets_tcg_and_the_reason(tmp_path):
    mode = os.stat("/dev/kvm").st_mode
    cache = tmp_path / "kvm.json"
    cache.write_text(json.dumps({accelerator.fingerprint(): 1.0}))
    found = await accelerator.probe(cache=cache, user=accelerator.User(987_654, 987_654))
    if mode & 0o006 == 0o006:
        assert not isinstance(found.reason, accelerator.Closed)
    else:
        assert isinstance(found.reason, accelerator.Closed)
        assert found.kind == "tcg"
        assert "chgrp kvm /dev/kvm" in words.advise(found.reason)
        assert words.advise(found.reason)


@needs_device
@pytest.mark.fault
async def test_a_trial_that_dies_is_a_reason_and_no_crash(tmp_path, monkeypatch):
    probe = tmp_path / "probe.py"
    probe.write_text("import os, signal; os.kill(os.getpid(), signal.SIGALRM)")
    monkeypatch.setattr(accelerator, "_PROBE", probe)
    found = await accelerator.probe(cache=tmp_path / "kvm.json")
    assert found.kind == "tcg"
    assert "SIGALRM" in words.say(found.reason)
    assert not (tmp_path / "kvm.json").exists()  # tried again next time


@needs_device
@pytest.mark.parametrize(
    ("printed", "reason"), [("8 1.0", "kvm-broken"), ("rubbish", "kvm-broken"), ("5 5000", "kvm-slow")]
)
async def test_only_a_halt_at_a_sane_speed_counts(tmp_path, monkeypatch, printed, reason):
    probe = tmp_path / "probe.py"
    probe.write_text(f"print({printed!r})")
    monkeypatch.setattr(accelerator, "_PROBE", probe)
    found = await accelerator.probe()
    assert (found.kind, found.reason.type) == ("tcg", reason)


def test_the_fingerprint_names_the_kernel():
    assert accelerator.fingerprint().startswith(os.uname().release + " / ")
