import json
import os
import stat

import pytest

from bocage import process
from bocage.engine.qemu import capabilities, processes, qmp
from tests.engine.qemu import running


@pytest.fixture
def forgetful(monkeypatch):
    """Without what this process knows already."""
    monkeypatch.setattr(capabilities, "_known", {})


@pytest.fixture
async def able():
    return await capabilities.read()


async def test_it_tells_what_this_qemu_is(able):
    said = await process.run("qemu-system-x86_64", "--version", within=10)
    assert "version " + ".".join(map(str, able.version)) in said.decode()
    assert able.version >= (7, 2, 0)


async def test_an_alias_leads_to_the_versioned_machine(able):
    major, minor, _ = able.version
    assert able.machines["q35"] == f"pc-q35-{major}.{minor}"
    assert able.machines["pc"] == f"pc-i440fx-{major}.{minor}"
    assert able.machines["pc-q35-6.0"] == "pc-q35-6.0"
    assert able.default_machine in able.machines.values()
    assert "no-such-machine" not in able.machines


async def test_commands_events_and_devices_are_listed(able):
    assert {"quit", "blockdev-add", "query-status"} <= able.commands
    assert {"STOP", "RESUME", "DEVICE_DELETED"} <= able.events
    assert {"virtio-blk-pci", "e1000", "qemu-xhci"} <= able.devices
    assert "quit" not in able.events


async def test_features_are_read_from_the_schema_and_not_from_the_version(able):
    assert able.has("blockdev-reopen")
    assert not able.has("x-blockdev-reopen")
    assert not able.has("STOP")
    assert able.has("blockdev-add", "discard")
    assert able.has("blockdev-add", "driver", "qcow2")
    assert not able.has("blockdev-add", "driver", "no-such-driver")
    assert able.has("blockdev-add", "pass-discard-request")  # qcow2's alone
    assert able.has("blockdev-reopen", "options", "node-name")
    assert not able.has("blockdev-reopen", "options", "no-such-option")
    assert able.has("migrate-set-capabilities", "capabilities", "capability", "postcopy-ram")
    assert not able.has("migrate-set-capabilities", "capabilities", "capability", "no-such-capability")
    assert not able.has("quit", "argument")


async def test_the_default_cpu_is_named_versioned_and_complete(able):
    name = able.default_cpu()
    assert able.cpus[name] == ()
    assert name not in ("max", "host", "base")
    assert name.rsplit("-v", 1)[1].isdigit()
    assert able.cpus["Skylake-Server-v5"] or able.version >= (8, 0, 0)


async def test_a_machine_really_starts_with_the_default_cpu(able, ground, start):
    await start(*running.qemu(ground, "-cpu", f"{able.default_cpu()},enforce"))
    async with await qmp.connect(ground / "vm" / "qmp", within=20) as monitor:
        await monitor.execute("quit")
    assert "doesn't support" not in (ground / "log").read_text()


async def test_a_qemu_without_a_model_that_fits_is_told(able):
    bare = capabilities.Capabilities(
        version=able.version,
        package="",
        accelerator="tcg",
        machines={},
        default_machine="",
        deprecated=frozenset(),
        devices=frozenset(),
        cpus={"max": (), "Westmere-v1": ("sse4.2",)},
        schema={},
    )
    with pytest.raises(capabilities.NoModel):
        bare.default_cpu()


async def test_qemu_is_asked_once(tmp_path, forgetful, monkeypatch):
    counter = _counting(tmp_path)
    cache = tmp_path / "qemu.json"
    first = await capabilities.read(str(counter), cache=cache)
    assert await capabilities.read(str(counter), cache=cache) is first
    monkeypatch.setattr(capabilities, "_known", {})
    assert await capabilities.read(str(counter), cache=cache) == first
    assert (tmp_path / "asked").read_text() == "x"


async def test_another_binary_is_asked_anew_and_the_old_answer_forgotten(tmp_path, forgetful):
    counter = _counting(tmp_path)
    cache = tmp_path / "qemu.json"
    await capabilities.read(str(counter), cache=cache)
    os.utime(counter, ns=(1, 1))
    await capabilities.read(str(counter), cache=cache)
    assert (tmp_path / "asked").read_text() == "xx"
    assert len(json.loads(cache.read_text())) == 1


@pytest.mark.parametrize("kept", ["", "{", "[1]", "null"])
async def test_a_damaged_cache_is_written_anew(tmp_path, forgetful, kept):
    cache = tmp_path / "qemu.json"
    cache.write_text(kept)
    await capabilities.read(cache=cache)
    assert len(json.loads(cache.read_text())) == 1


async def test_a_program_that_is_not_there_is_told():
    with pytest.raises(process.Missing):
        await capabilities.read("qemu-system-none")


async def test_a_program_that_is_no_qemu_is_told(forgetful, tmp_path):
    program = tmp_path / "qemu"
    program.write_text("#!/bin/sh\necho 'no such library' >&2\nexit 1\n")
    program.chmod(0o755)
    with pytest.raises(capabilities.Unusable) as caught:
        await capabilities.read(str(program))
    assert "no such library" in caught.value.said


@pytest.mark.fault
async def test_a_qemu_that_never_answers_is_ended(forgetful, tmp_path, monkeypatch):
    monkeypatch.setattr(capabilities, "_BOUND", 0.3)
    program = tmp_path / "qemu"
    program.write_text(f"#!/bin/sh\necho $$ >{tmp_path}/pid\nexec sleep 60\n")
    program.chmod(0o755)
    with pytest.raises(capabilities.Unusable):
        await capabilities.read(str(program))
    await running.eventually(lambda: not processes.find(program))


def _counting(tmp_path):
    """A QEMU that leaves a mark each time it is started."""
    program = tmp_path / "qemu"
    program.write_text(f'#!/bin/sh\nprintf x >>{tmp_path}/asked\nexec qemu-system-x86_64 "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program
