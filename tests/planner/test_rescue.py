"""What a VM runs as in its rescue: whatever its own system drives, a Linux finds all of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bocage.model import vm
from bocage.model.units import MiB, Size
from bocage.planner import hardware, rescue
from tests.planner import things

IMAGE = "5f0c9f1e-6f0a-4c53-9c1e-0d1f5a3f7c44"
STATUS = things.host(status={"machines": {"q35": "pc-q35-7.2"}, "cpu_model": "Westmere-v1"}).status


@given(disks=st.integers(0, 32), nics=st.integers(0, 16), memory=st.sampled_from(["16M", "640M", "8G"]))
def test_every_disk_and_nic_has_a_place_on_its_board(disks: int, nics: int, memory: str):
    made = things.machine(
        rescue=IMAGE,
        memory=memory,
        disks=[
            {
                "name": f"disk{n}",
                "volume": f"5f0c9f1e-6f0a-4c53-9c1e-0d1f5a3f8{n:03d}",
                "bus": "ide",
                "unit": 0,
                "serial": f"s{n}",
            }
            for n in range(disks)
        ],
        nics=[
            {
                "name": f"nic{n}",
                "network": IMAGE,
                "mac": f"52:54:00:00:00:{n:02x}",
                "model": "ne2k",
                "address": "isa.0/00.0",
            }
            for n in range(nics)
        ],
        ports=[{"name": "serial2", "kind": "serial", "number": 2, "to": "file"}],
    )
    spec = rescue.machine(made, STATUS)
    hardware.check(vm.VMSpec.model_validate(spec.model_dump()))
    assert [(one.name, one.volume, one.serial) for one in spec.disks] == [
        (one.name, one.volume, one.serial) for one in made.spec.disks
    ]
    assert [one.mac for one in spec.nics] == [one.mac for one in made.spec.nics]
    assert [cd.image for cd in spec.cds] == [IMAGE]
    assert spec.boot.order == ("rescue",)
    assert spec.memory == max(made.spec.memory, Size(256 * MiB))
    assert spec.ports == ()


@pytest.mark.parametrize(
    ("minimum", "startup", "then"),
    [("64M", "128M", (256, 256)), ("128M", "512M", (256, 512)), ("512M", "768M", (512, 768))],
)
def test_a_balloon_never_leaves_it_less_than_it_lives_in(minimum: str, startup: str, then: tuple[int, int]):
    made = things.machine(rescue=IMAGE, memory="1G", dynamic_memory={"minimum": minimum, "startup": startup})
    spec = vm.VMSpec.model_validate(rescue.machine(made, STATUS).model_dump())
    assert spec.dynamic_memory
    assert (spec.dynamic_memory.minimum, spec.dynamic_memory.startup) == tuple(MiB * size for size in then)
    assert spec.memory == made.spec.memory


def test_firmware_and_tpm_are_never_its_own():
    board = {**things.machine().spec.hardware.model_dump(), "firmware": "uefi", "secure_boot": True, "tpm": "crb"}
    spec = rescue.machine(things.machine(rescue=IMAGE, hardware=board), STATUS)
    assert (spec.hardware.firmware, spec.hardware.secure_boot, spec.hardware.tpm) == (vm.Firmware.BIOS, False, "none")


def test_a_start_is_refused_with_what_to_do():
    with pytest.raises(rescue.InRescue) as told:
        rescue.check(things.machine(rescue=IMAGE))
    assert "--end" in str(told.value.hint)
