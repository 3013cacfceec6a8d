"""From an operating system to hardware that it drives."""

import datetime

import pytest

from bocage import errors
from bocage.guest import osinfo as database
from bocage.model import board, ground, osinfo, requests
from bocage.model import vm as model
from bocage.model.units import Size
from bocage.planner import definition, hardware, parts, profiles
from tests.planner import things

MODERN = frozenset({"virtio1.0-net", "virtio1.0-block", "qemu-x86-q35", "qemu-xhci", "tablet", "e1000e"})


def system(name: str = "some1", family: str = "linux", year: int = 2020, **more: object) -> osinfo.System:
    released = datetime.date(year, 6, 1)
    return osinfo.System.model_validate({"name": name, "title": name, "family": family, "released": released, **more})


def facts(of: osinfo.System | None, **host: object) -> parts.Facts:
    able = {
        "machines": {"q35": "pc-q35-7.2", "pc": "pc-i440fx-7.2", "isapc": "isapc"},
        "cpu_model": "Westmere-v2",
        "memory_bytes": 64 << 30,
        "firmware": ["bios", "uefi", "secure-boot"],
        "tpm": True,
        **host,
    }
    network = ground.Network.model_validate({"metadata": {"name": "default", "project": "default"}, "spec": {}})
    return parts.Facts(
        host=things.host(status=able), storage={"local": things.storage()}, networks={"default": network}, system=of
    )


def defined(of: osinfo.System | None, **request: object) -> model.VMSpec:
    asked = requests.VMCreate.model_validate({"name": "box", **request})
    return definition.define(asked, facts(of), project="default").vm.spec


@pytest.fixture(scope="module")
def real() -> dict[str, osinfo.System]:
    return database.read()


def test_a_vm_can_be_defined_for_every_system_that_osinfo_db_knows(real):
    assert len(real) > 700
    for one in real.values():
        spec = defined(one, os=one.name)
        hardware.check(spec)
        assert spec.hardware.os == one.name


@pytest.mark.parametrize(
    ("name", "machine", "disk", "nic", "video", "pointer", "clock"),
    [
        ("debian12", "pc-q35-7.2", "virtio", "virtio", "vga", "tablet", "utc"),
        ("rhel4", "pc-i440fx-7.2", "ide", "e1000", "vga", "ps2", "utc"),
        ("win2k3", "pc-i440fx-7.2", "ide", "e1000", "cirrus", "tablet", "localtime"),
        ("winnt4.0", "pc-i440fx-7.2", "ide", "pcnet", "cirrus", "ps2", "localtime"),
        ("win10", "pc-q35-7.2", "sata", "e1000e", "vga", "tablet", "localtime"),
        ("msdos6.22", "isapc", "ide", "ne2k", "cirrus", "ps2", "localtime"),
    ],
)
def test_systems_of_all_ages_get_what_they_drive(real, name, machine, disk, nic, video, pointer, clock):
    of, _ = profiles.find(name, real)
    spec = defined(of, os=name)
    made = spec.hardware
    assert (made.machine, made.video, made.pointer, made.rtc.base) == (machine, video, pointer, clock)
    assert (spec.disks[0].bus, spec.nics[0].model) == (disk, nic)


def test_a_system_that_boots_by_uefi_alone_gets_secure_boot_and_a_tpm(real):
    made = defined(real["win11"], os="win11").hardware
    assert (made.firmware, made.secure_boot, made.tpm) == ("uefi", True, "crb")
    with pytest.raises(parts.TpmMissing):
        definition.define(requests.VMCreate(name="box", os="win11"), facts(real["win11"], tpm=False), project="default")


def test_only_systems_that_have_the_drivers_get_virtios_devices_and_hyper_vs_words(real):
    old, new = (defined(real[name], os=name).hardware for name in ("winxp", "win10"))
    assert not {"balloon", "agent", "rng", "scsi"} & old.devices.keys()
    assert old.hyperv == ()
    assert {"balloon", "agent", "rng", "scsi"} <= new.devices.keys()
    assert "relaxed" in new.hyperv


def test_memory_comes_by_virtio_mem_where_the_system_drives_it_and_as_dimms_else(real):
    systems = ("debian12", "debiantesting", "fedora35", "win10", "win2k19", "rhel8.5", "centos8", "debian10")
    found = {one: defined(profiles.find(one, real)[0], os=one, memory="2G").hardware for one in systems}
    assert [name for name, made in found.items() if "memory" in made.devices] == list(systems[:3])
    assert all((made.added_memory == "dimm") is ("memory" not in made.devices) for made in found.values())
    assert all(made.max_memory == Size.parse("8G") for made in found.values())


def test_what_is_asked_for_comes_before_what_the_system_would_get():
    spec = defined(
        system(year=1999),
        memory="64M",
        cpu_model="486-v1",
        nics=[{"model": "rtl8139"}],
        disk={"size": "3G", "bus": "ide"},
        board={"video": "vga", "rtc": {"drift": "slew"}},
    )
    assert (spec.memory, spec.hardware.cpu_model, spec.nics[0].model) == (Size.parse("64M"), "486-v1", "rtl8139")
    assert (spec.hardware.video, spec.hardware.rtc) == ("vga", board.Rtc(base="utc", drift="slew"))


def test_a_system_on_another_machine_than_its_own_gets_what_fits_that():
    spec = defined(system(devices=MODERN), machine="isapc", nics=[{}])
    hardware.check(spec)
    assert (spec.disks[0].bus, spec.nics[0].address) == ("ide", "isa.0/00.0")


def test_without_a_system_a_vm_is_what_it_always_was():
    made = defined(None).hardware
    apart = {"smbios", "usb", "generation_id"}
    assert made.model_dump(exclude=apart) == hardware.lay_out(
        alias="q35",
        machines={"q35": "pc-q35-7.2"},
        cpu_model="Westmere-v2",
        smbios=made.smbios,
        max_cpus=made.max_cpus,
        max_memory=made.max_memory,
    ).model_dump(exclude=apart)


def test_more_than_a_system_can_take_is_refused_and_more_than_it_is_made_for_is_told(real):
    with pytest.raises(errors.InvalidFields) as refused:
        defined(real["msdos6.22"], os="msdos6.22", memory="128M")
    assert refused.value.faults[0]["path"] == "memory"
    assert "64M" in refused.value.faults[0]["right"]
    with pytest.raises(errors.InvalidFields):
        defined(real["win98"], os="win98", cpus=2)
    of = system(most={"cpus": 2, "memory": "4G"}, least={"memory": "1G"}, devices=MODERN)
    told = profiles.warnings(defined(of, cpus=4, memory="8G"), of)
    assert [(type(one), one.params.get("what")) for one in told] == [
        (profiles.MoreThanSupported, "memory"),
        (profiles.MoreThanSupported, "vCPUs"),
    ]
    assert isinstance(profiles.warnings(defined(of, memory="256M"), of)[0], profiles.LessThanNeeded)


def test_limits_hold_later_too_and_can_be_lifted_where_they_are_written_down(real):
    made = definition.define(requests.VMCreate(name="box", os="win98"), facts(real["win98"]), project="default").vm
    with pytest.raises(errors.InvalidFields):
        definition.change(made, requests.VMPatch(memory=Size.parse("2G")))
    lifted = definition.change(made, requests.VMPatch.model_validate({"board": {"limits": {"memory": "4G"}}}))
    assert definition.change(lifted, requests.VMPatch(memory=Size.parse("2G"))).spec.memory == Size.parse("2G")


def test_virtio_for_a_system_without_its_drivers_is_told():
    of = system(year=2001)
    told = profiles.warnings(defined(of, nics=[{"model": "virtio"}]), of)
    assert [one.type for one in told] == ["os-without-virtio"]


@pytest.mark.parametrize(
    ("asked", "found"),
    [("one1.0", "one1.0"), ("ONE1.0", "one1.0"), ("one1", "one1.0"), ("one2", "one2.1"), ("old", "one1.0")],
)
def test_a_system_is_found_by_its_names_and_its_main_version(asked, found):
    known = {name: system(name) for name in ("one2.1", "one2.2", "one10.0")}
    known["one1.0"] = system("one1.0", also=["old"])
    assert profiles.find(asked, known) == (known[found], None)


def test_a_newer_release_than_all_known_ones_is_taken_for_the_newest():
    known = {name: system(name) for name in ("some9", "some10", "someother12")}
    found, told = profiles.find("some12", known)
    assert found.name == "some10"
    assert told is not None
    assert told.params == {"name": "some12", "known": "some10"}


def test_a_name_that_means_nothing_is_refused_with_those_that_are_like_it():
    with pytest.raises(profiles.NoSuchOs) as refused:
        profiles.find("sone", {"some9": system("some9")})
    assert "some9" in refused.value.advice


def test_other_fittings_keep_the_places_of_what_stays():
    spec = defined(None)
    refitted = hardware.refit(spec, {"sound": "ac97", "usb": "none", "pointer": "ps2"})
    assert "usb" not in refitted.devices
    assert refitted.devices["sound"] == "pcie.0/1b.0"
    for name, place in spec.hardware.devices.items():
        assert name == "usb" or refitted.devices[name] == place


def test_a_part_that_comes_later_never_takes_the_place_of_another_device():
    taken = defined(None, nics=[{"model": "e1000"}])
    nics = (taken.nics[0].model_copy(update={"address": "pcie.0/1b.0"}),)
    refitted = hardware.refit(taken.model_copy(update={"nics": nics}), {"sound": "ac97"})
    assert refitted.devices["sound"] not in {"pcie.0/1b.0", *taken.hardware.devices.values()}


@pytest.mark.parametrize(
    ("machine", "changes", "kind"),
    [
        ("isapc", {"sound": "ac97"}, "board-needs-pci"),
        ("isapc", {"scsi": "lsi"}, "board-needs-pci"),
        ("isapc", {"tpm": "tis"}, "board-needs-pci"),
        ("pc", {"usb": "none"}, "board-tablet-without-usb"),
        ("pc", {"secure_boot": True}, "board-secure-boot-needs"),
        ("q35", {"secure_boot": True}, "board-secure-boot-needs"),
    ],
)
def test_a_part_that_does_not_fit_is_refused(machine, changes, kind):
    made = definition.define(requests.VMCreate(name="box", machine=machine), facts(None), project="default").vm
    with pytest.raises(errors.Problem) as refused:
        definition.change(made, requests.VMPatch.model_validate({"board": changes}))
    assert refused.value.type == kind
