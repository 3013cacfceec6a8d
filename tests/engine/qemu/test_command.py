"""The command line: the same plan gives the same line, and QEMU builds from it what the spec says."""

import dataclasses
import itertools
import json
import os
import pathlib
import subprocess

import pytest

from bocage.engine import base
from bocage.engine.qemu import command, paths
from bocage.model import board as boards
from bocage.model import memory
from bocage.model import vm as model
from bocage.model.units import Size
from bocage.planner.adaptation import First
from tests.engine.qemu import specs

GOLDEN = pathlib.Path(__file__).parent / "golden"


def line(kind: str, **more: object) -> list[str]:
    root = pathlib.Path("/srv/a,b" if kind == "named-with-commas" else "/srv/b")
    return command.command(specs.plan(root, specs.spec(kind, **more), linked=kind == "linked"))


def values(arguments: list[str], option: str) -> list[str]:
    return [value for name, value in itertools.pairwise(arguments) if name == option]


@pytest.mark.parametrize("kind", specs.KINDS)
def test_the_line_is_what_it_always_was(kind):
    """Set GOLDEN_WRITE=1 to take a wanted change; a running VM is never given another line by an upgrade."""
    text = "\n".join(line(kind)) + "\n"
    file = GOLDEN / f"{kind}.txt"
    if os.environ.get("GOLDEN_WRITE"):
        file.write_text(text)
    assert text == file.read_text()


def test_equal_pages_are_merged_only_where_that_was_said():
    plan = specs.plan(pathlib.Path("/srv/b"), specs.spec("bare"))
    for merge in (False, True):
        arguments = command.command(dataclasses.replace(plan, merge=merge))
        backends = [json.loads(value) for value in values(arguments, "-object") if "memory-backend" in value]
        assert [one["merge"] for one in backends] == [merge]


def test_a_guest_may_take_from_its_balloon_where_its_memory_was_dynamic_from_the_start():
    spec = specs.spec("bare")
    half = memory.DynamicMemory(startup=Size(spec.memory // 2), minimum=Size(spec.memory // 2))
    dynamic = spec.model_copy(update={"dynamic_memory": half})
    for one, deflates in ((spec, False), (dynamic, True)):
        plan = specs.plan(pathlib.Path("/srv/b"), one)
        assert ("deflate-on-oom" in " ".join(command.command(plan))) is deflates
    kept = dataclasses.replace(plan, spec=spec, first=First.of(dynamic))  # saved memory goes on as it was
    assert "deflate-on-oom" in " ".join(command.command(kept))


def test_dimms_that_came_later_are_on_the_next_line_and_a_machine_without_slots_gets_none():
    spec = specs.spec("bare")
    board = spec.hardware.model_copy(update={"added_memory": boards.AddedMemory.DIMM, "max_memory": Size(1 << 30)})
    plan = specs.plan(pathlib.Path("/srv/b"), spec.model_copy(update={"hardware": board}))
    assert values(command.command(plan), "-m") == ["64M,slots=16,maxmem=1024M"]
    began = First.of(plan.spec)
    later = dataclasses.replace(plan, first=dataclasses.replace(began, dimms=(128 << 20, 256 << 20)))
    arguments = command.command(later)
    backs = [json.loads(value) for value in values(arguments, "-object") if "dimm" in value]
    modules = [json.loads(value) for value in values(arguments, "-device") if "pc-dimm" in value]
    assert [one["size"] for one in backs] == [128 << 20, 256 << 20]
    assert [(one["slot"], one["memdev"]) for one in modules] == [(n, one["id"]) for n, one in enumerate(backs)]
    older = dataclasses.replace(plan, first=dataclasses.replace(began, slots=0))
    assert values(command.command(older), "-m") == ["64M"]


def test_a_comma_in_a_path_or_a_serial_is_written_twice_where_options_are_joined_by_commas():
    arguments = line("named-with-commas")
    assert any("path=/srv/a,,b/run/io/qmp," in value for value in values(arguments, "-chardev"))
    assert any("serial=SN,,1 = one" in value for value in values(arguments, "-smbios"))
    nodes = [json.loads(value) for value in values(arguments, "-blockdev")]
    assert nodes[0]["filename"] == "/srv/a,b/vms/uid/disk0.qcow2"


def test_every_element_of_a_chain_is_named_and_only_the_first_is_writable():
    nodes = [json.loads(value) for value in values(line("linked"), "-blockdev")]
    assert [(node["node-name"], node["driver"], node["read-only"]) for node in nodes] == [
        ("disk0.1.file", "file", True),
        ("disk0.1", "qcow2", True),
        ("disk0.0.file", "file", False),
        ("disk0.0", "qcow2", False),
    ]
    assert [node["backing"] for node in nodes if "backing" in node] == [None, "disk0.1"]


@pytest.mark.parametrize(
    ("cache", "direct", "no_flush", "write_cache"),
    [
        (model.Cache.NONE, True, False, "on"),
        (model.Cache.WRITEBACK, False, False, "on"),
        (model.Cache.WRITETHROUGH, False, False, "off"),
        (model.Cache.DIRECTSYNC, True, False, "off"),
        (model.Cache.UNSAFE, False, True, "on"),
    ],
)
def test_a_cache_mode_says_whether_the_host_caches_and_whether_the_guest_must_flush(
    cache, direct, no_flush, write_cache
):
    board = specs.spec("bare").hardware
    arguments = line("bare", disks=(specs.disk(board, 0, cache=cache),))
    nodes = [json.loads(value) for value in values(arguments, "-blockdev")]
    assert all(node["cache"] == {"direct": direct, "no-flush": no_flush} for node in nodes)
    device = next(value for value in map(json.loads, values(arguments, "-device")) if value.get("id") == "disk0")
    assert device["write-cache"] == write_cache
    assert device["werror"] == "stop"


def test_what_boots_once_comes_before_the_standing_order():
    devices = {value["id"]: value for value in map(json.loads, values(line("install"), "-device"))}
    assert devices["cd0"]["bootindex"] == 0
    assert devices["disk0"]["bootindex"] == 10
    assert "bootindex" not in devices["cd1"]


def test_no_accelerator_is_a_fallback_of_another():
    assert values(line("bare"), "-accel") == ["tcg"]


def test_a_tap_and_a_passt_socket_carry_a_nic_without_any_program_of_qemus():
    socket = pathlib.Path("/r/io/nic0.nic")
    assert command.netdev("nic0", base.Tap("bo3"), socket)["script"] == "no"
    assert command.netdev("nic0", base.Tap("bo3"), socket, taps={"nic0": 12})["fd"] == "12"
    for taps, waits in ((None, False), ({}, True)):
        stream = command.netdev("nic0", base.Passt(("passt",)), socket, taps=taps)
        assert (stream["type"], stream["server"], stream["addr"]["path"]) == ("stream", waits, str(socket))


def test_published_ports_of_a_user_mode_nic_lead_into_the_guest():
    forwards = json.loads(values(line("seeded"), "-netdev")[0])["hostfwd"]
    assert forwards == [{"str": "tcp:127.0.0.1:42222-:22"}]


def test_the_script_for_a_bad_night_is_a_shell_script_that_runs_the_same_line(tmp_path):
    plan = specs.plan(tmp_path, specs.spec("virtio"))
    script = command.by_hand(plan)
    subprocess.run(["sh", "-n"], input=script, text=True, check=True, timeout=10)
    printed = script.replace("exec qemu-system-x86_64", r"printf '%s\0' qemu-system-x86_64")
    ran = subprocess.run(["sh"], input=printed, text=True, check=True, capture_output=True, timeout=10)
    said = ran.stdout
    assert said.rstrip("\0").split("\0") == command.command(plan)
    at = paths.Paths(plan.directory, plan.runtime)
    assert at.keys.is_fifo()
    assert at.said.samefile(os.devnull)
    assert f"tail -f {at.serial_log} shows its console, cat >{at.keys} types on it" in ran.stderr


def test_who_starts_it_by_hand_is_told_of_the_usb_devices_that_it_lacks():
    plan = specs.plan(pathlib.Path("/srv/b"), specs.spec("bare"))
    dongle = boards.UsbDevice(name="usb0", id="0529:0001", port="1-2.3", unit=3)
    script = command.by_hand(dataclasses.replace(plan, spec=plan.spec.model_copy(update={"usb": (dongle,)})))
    said = "add -device usb-host,bus=board.usb.0,port=3,hostbus=1,hostport=2.3,vendorid=0x0529,productid=0x0001"
    assert said in script
    assert "usb0" not in command.by_hand(plan)


def test_hyper_vs_enlightenments_are_told_under_kvm_alone():
    plan = specs.plan(pathlib.Path("/srv/b"), specs.spec("windows"))
    told = dataclasses.replace(plan, accelerator="kvm")
    assert values(command.command(plan), "-cpu") == ["Westmere"]
    assert values(command.command(told), "-cpu")[0].startswith("Westmere,hv-relaxed=on,hv-vapic=on,hv-spinlocks=0x1fff")
