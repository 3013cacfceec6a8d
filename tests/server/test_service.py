"""Bocage installed on a server for good, from its package; each test goes on where the one before it ended."""

from __future__ import annotations

import json
import pathlib
import re
import shlex
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from bocage import __version__, home, systemd
from tests.node import debian
from tests.node.conftest import new_home
from tests.releases import older
from tests.server import bed, debs

pytestmark = [
    pytest.mark.guest,
    pytest.mark.slow,
    pytest.mark.server,
    pytest.mark.timeout(3600),
    pytest.mark.asyncio(loop_scope="module"),
]
GUEST_BOUND = 900  # seconds for a guest whose CPU is emulated by one that is emulated
DONGLE = "DONGLE-7"
PAIR = "/var/lib/bocage/storage/pair"


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, pathlib.Path]:
    """The package of the release before, and that of this checkout."""
    present = debs.present(tmp_path_factory.mktemp("packages"))
    return debs.before(present, max(older.COMMITS)), present


@pytest.fixture(scope="module")
def booted(packages_cache: pathlib.Path) -> Iterator[debian.Booted]:
    with bed.booted(packages_cache) as found:
        yield found


@pytest.fixture(scope="module")
def homes() -> Iterator[home.Home]:
    with pytest.MonkeyPatch.context() as patch, new_home(patch) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(
    booted: debian.Booted, homes: home.Home, packages: tuple[pathlib.Path, pathlib.Path], tiny_image: pathlib.Path
) -> AsyncIterator[bed.Server]:
    async with bed.resumed(booted, homes) as running:
        await running.put_in(*packages, tiny_image)
        yield running


async def shown(server: bed.Server) -> Any:
    return json.loads(await server.run("bocage vm show inner --json"))


async def process_of(server: bed.Server) -> tuple[int, str]:
    """The pid of the inner VM's QEMU and when that began: another process never has both."""
    pid = int((await shown(server))["status"]["pid"])
    began = (await server.run(f"cut -d' ' -f22 /proc/{pid}/stat")).strip()
    return pid, began


async def events(server: bed.Server) -> list[Any]:
    """What happened inside, the newest last."""
    return [one["spec"]["said"] for one in json.loads(await server.run("bocage events --json"))["items"]]


async def plug(server: bed.Server, serial: str, *, port: int) -> None:
    """Plug a USB device (a serial line with an FTDI chip) into the server."""
    monitor = monitor_of(server)
    await monitor.execute("chardev-add", {"id": serial, "backend": {"type": "null", "data": {}}})
    device = {"driver": "usb-serial", "chardev": serial, "serial": serial, "bus": "board.usb.0", "port": str(port)}
    await monitor.execute("device_add", {"id": serial, "always-plugged": True, **device})


async def unplug(server: bed.Server, serial: str) -> None:
    """Pull it out."""
    monitor = monitor_of(server)
    with monitor.events("DEVICE_DELETED") as gone:
        await monitor.execute("device_del", {"id": serial})
        async for event in gone:
            if event.data.get("device") == serial:
                break
    await monitor.execute("chardev-remove", {"id": serial})


async def usb_device(server: bed.Server) -> str:
    """The device that the inner VM has; empty while it waits for it."""
    (one,) = (await shown(server))["status"]["usb"]
    return str(one["node"])


def monitor_of(server: bed.Server) -> Any:
    """The monitor of the server's own QEMU, past the engine's door."""
    actor = server.house.node.crew.of(server.machine.uid)
    assert actor
    running: Any = actor.standing.machine
    return running.link


async def runs(server: bed.Server) -> None:
    """The inner VM runs by now."""
    await server.run("until bocage vm list | grep 'inner *running'; do sleep 1; done", within=GUEST_BOUND)


async def goes_on(server: bed.Server) -> None:
    """The guest answers, and did not start anew."""
    said = await server.run(
        f"bocage vm console inner --send 'cat /tmp/mark' --expect '^left-here$' --timeout {GUEST_BOUND}",
        within=GUEST_BOUND + 60,
    )
    assert said.strip() == "left-here"


async def serves(server: bed.Server) -> None:
    """The service runs, and would after a reboot."""
    for unit in (systemd.SERVICE, systemd.VMS):
        assert (await server.run(f"systemctl is-active {unit}; systemctl is-enabled {unit}")).split() == [
            "active",
            "enabled",
        ]
    assert json.loads(await server.run("bocage daemon status --json"))["answers"] is True
    assert "bocage" not in await server.run("systemctl --failed --no-legend")
    assert "at home in /var/lib/bocage" in await server.run("bocage daemon log -n 20")


async def test_the_release_before_serves_and_starts_a_vm(
    server: bed.Server, packages: tuple[pathlib.Path, ...], tiny_image: pathlib.Path
):
    assert (await server.run("stat -fc %T /sys/fs/cgroup")).strip() == "cgroup2fs"
    await server.run(f"DEBIAN_FRONTEND=noninteractive dpkg -i /mnt/{packages[0].name}", within=900)
    await serves(server)
    await server.run(f"bocage image add /mnt/{tiny_image.name} --name tiny", within=600)
    await server.run("bocage vm create inner --image tiny --memory 96M --network default --autostart --start")
    await server.run(
        f"bocage vm console inner --expect '^tiny: ready' --timeout {GUEST_BOUND}", within=GUEST_BOUND + 60
    )
    await server.run("bocage vm console inner --send 'echo left-here >/tmp/mark; sync; echo do''ne' --expect '^done'")
    assert json.loads(await server.run("bocage version --json"))["daemon"]["version"] == debs.BEFORE


async def test_an_upgrade_touches_no_vm_that_the_release_before_started(
    server: bed.Server, packages: tuple[pathlib.Path, ...]
):
    before = await process_of(server)
    await server.run(f"DEBIAN_FRONTEND=noninteractive dpkg -i /mnt/{packages[1].name}", within=900)
    await serves(server)
    assert json.loads(await server.run("bocage version --json"))["daemon"]["version"] == __version__
    assert await process_of(server) == before
    await goes_on(server)


async def test_a_vm_is_a_scope_in_the_slice_and_its_limits_are_ours_to_set(server: bed.Server):
    await server.run("bocage vm set inner --stop-within 900")  # it is slower than any real one
    pid, _ = await process_of(server)
    group = (await server.run(f"cat /proc/{pid}/cgroup")).strip()
    uid = (await shown(server))["metadata"]["uid"]
    top, scope, own = group.removeprefix("0::/").split("/")
    assert (top, own) == ("bocage.slice", "vm")
    assert scope.endswith(f"-{uid}.scope")
    assert (await server.run(f"systemctl show -p Slice -p Delegate --value '{scope}'")).split() == [top, "yes"]
    at = f"/sys/fs/cgroup{group.removeprefix('0::')}"
    assert int(await server.run(f"cat {at}/memory.current")) > 1 << 20
    said = await server.run("bocage vm set inner --cpu-weight 300 --cpu-cap 1.5 --memory-overhead 1G 2>&1", within=300)
    assert "share.cpu: weight 300, 1.5 vCPUs at most" in said
    await server.run("systemctl daemon-reload")
    bounds = f"{at}/../cpu.weight {at}/cpu.max {at}/memory.max"
    assert (await server.run(f"cat {bounds}")).split() == ["300", "150000", "100000", str((96 + 1024) << 20)]
    await server.run("bocage vm set inner --cpu-weight none --cpu-cap none --memory-overhead none", within=300)
    assert (await server.run(f"cat {bounds}")).split() == ["100", "max", "100000", "max"]
    assert "cgroup" in (await shown(server))["status"]["isolation"]["parts"]


async def test_a_restart_of_the_service_touches_no_vm(server: bed.Server):
    before = await process_of(server)
    daemon = json.loads(await server.run("bocage daemon status --json"))["pid"]
    await server.run("systemctl restart bocage", within=600)
    assert json.loads(await server.run("bocage daemon status --json"))["pid"] != daemon
    assert await process_of(server) == before
    await goes_on(server)


async def test_a_daemon_that_is_killed_is_started_again_by_itself(server: bed.Server):
    before = await process_of(server)
    daemon = json.loads(await server.run("bocage daemon status --json"))["pid"]
    await server.run(f"kill -9 {daemon}")
    await server.run("for i in $(seq 200); do bocage daemon status --json && break; sleep 1; done", within=600)
    assert await process_of(server) == before


async def test_a_mirror_lives_on_when_a_disk_is_pulled_and_that_is_told(server: bed.Server):
    _, first = await server.give_disk("400M")
    name, second = await server.give_disk("400M")
    await server.run(f"bocage storage create pair --disk {first} --mirror {second}", within=900)
    assert "2 of 2 disks" in await server.run("bocage storage show pair")
    await server.run(f"echo it-holds >{PAIR}/note; sync; mdadm --wait /dev/md/bocage-* || true", within=900)
    assert "lacks no disk" in await server.run(f"bocage storage repair pair --disk {second}", fails=True)
    await server.take_disk(name)
    await server.run("until bocage alarm list | grep 'storage pair lives on 1 of its 2'; do sleep 1; done")
    assert (await server.run(f"cat {PAIR}/note")).strip() == "it-holds"


async def test_a_reboot_stops_the_vm_in_order_and_brings_it_back(server: bed.Server):
    await plug(server, DONGLE, port=3)
    await server.run(f"until bocage host usb | grep '0403:6001 .* {DONGLE} '; do sleep 1; done")
    await server.run(f"bocage vm usb attach inner 0403:6001 --serial {DONGLE}")
    old = (await server.run("cat /proc/sys/kernel/random/boot_id")).strip()
    uid = (await shown(server))["metadata"]["uid"]
    begin = server.console.end
    await server.console.expect(pattern=r"\] Linux version \d", within=GUEST_BOUND, send="systemctl reboot")
    said = server.said(begin)
    # The VM first, then who asked it, then what both stand on.
    what = (".*A virtual machine of Bocage", "bocage-vms", "bocage.service", "target network.target", "target local-fs")
    found = [re.search(f"Stopped {one}", said) for one in what]
    assert all(found), said
    at = [one.start() for one in found if one]
    assert at == sorted(at), said
    await server.console.expect(pattern=r"Debian GNU/Linux \d+ .* ttyS0", within=debian.BOOT_BOUND, send="")
    await server.log_in()
    assert (await server.run("cat /proc/sys/kernel/random/boot_id")).strip() != old
    await runs(server)
    now = await shown(server)
    assert (now["status"]["state"], now["metadata"]["uid"]) == ("running", uid)
    # It went off because it was asked to, and not because the machine pulled its plug.
    told = {one["type"] for one in await events(server)}
    assert "vm-stopped" in told
    assert not {"vm-host-restarted", "vm-killed", "vm-crashed"} & told
    assert now["status"].get("last_end") is None


async def test_a_mirror_that_lacks_a_disk_is_there_after_the_reboot_and_gets_another(server: bed.Server):
    await server.run("until bocage storage show pair | grep 'state  *ready'; do sleep 1; done")
    assert (await server.run(f"cat {PAIR}/note")).strip() == "it-holds"
    assert "1 of 2 disks" in await server.run("bocage storage show pair")
    used = (await server.run("findmnt -no SOURCE /")).strip().rstrip("0123456789")
    assert "is not empty" in await server.run(f"bocage storage repair pair --disk {used}", fails=True)
    _, third = await server.give_disk("400M")
    await server.run(f"bocage storage repair pair --disk {third}")
    await server.run("until bocage storage show pair | grep '2 of 2 disks'; do sleep 1; done", within=900)
    await server.run("until ! bocage alarm list | grep 'storage pair'; do sleep 1; done")
    assert third in json.loads(await server.run("bocage storage show pair --json"))["spec"]["disks"]
    await server.run("bocage storage delete pair")
    assert "raid1" not in await server.run("cat /proc/mdstat"), "nothing holds its disks any more"
    said = await server.run("bocage host disks")
    assert len(re.findall(r"^/dev/\S+ .* linux_raid_member\s*$", said, re.MULTILINE)) == 2, "what lies on them stays"


async def port_on(server: bed.Server, bridge: str, name: str, *vlans: int) -> None:
    """A neighbour in a namespace: on one VLAN untagged, on more each tagged; .9 of 10.9.VLAN.0/24."""
    inside = f"ip -n {name}"
    one = len(vlans) == 1
    steps = [
        f"ip netns add {name}",
        f"ip link add {name} type veth peer name eth0 netns {name}",
        f"ip link set {name} master {bridge} up",
        f"bridge vlan delete vid 1 dev {name}",
        f"{inside} link set eth0 up",
    ]
    for vlan in vlans:
        steps.append(f"bridge vlan add vid {vlan} dev {name} {'pvid untagged' if one else ''}")
        end = "eth0" if one else f"tagged{vlan}"
        if not one:
            steps.append(f"{inside} link add link eth0 name {end} type vlan id {vlan}")
        steps += [f"{inside} address add 10.9.{vlan}.9/24 dev {end}", f"{inside} link set {end} up"]
    await server.run(" && ".join(steps))


async def inside(server: bed.Server, *commands: str) -> None:
    """Have the inner VM's guest do something, once it did."""
    done = "&& echo all-do''ne"
    await server.run(
        f"bocage vm console inner --send {shlex.quote(' && '.join(commands) + done)} --expect '^all-done' "
        f"--timeout {GUEST_BOUND}",
        within=GUEST_BOUND + 60,
    )


async def test_packets_of_vlans_reach_who_is_on_them_and_nobody_else(server: bed.Server):
    await server.run("bocage network create office --kind isolated --vlans", within=600)
    fence = "--vlan 10 --trunk 20,30 --allow 10.9.0.0/16"
    await server.run(f"bocage vm nic attach inner --network office {fence}", within=600)
    bridge = json.loads(await server.run("bocage network show office --json"))["status"]["bridge"]
    await port_on(server, bridge, "desk", 10)
    await port_on(server, bridge, "vault", 40)
    await port_on(server, bridge, "router", 10, 20)
    modules = "for one in llc stp mrp garp 8021q; do insmod /usr/lib/modules/$one.ko; done; [ -d /sys/module/8021q ]"

    def by_hand(nic: str) -> str:
        """End its DHCP client, which would take the address away again."""
        held = f"/run/tiny/dhcp.{nic}"
        return f"until [ -s {held} ]; do sleep 1; done; kill $(cat {held})"

    tagged = [
        f"ip link add link eth1 name eth1.{vlan} type vlan id {vlan} && {by_hand(f'eth1.{vlan}')} && "
        f"ip addr add 10.9.{vlan}.2/24 dev eth1.{vlan}"
        for vlan in (20, 40)
    ]
    await inside(server, by_hand("eth1"), "ip addr add 10.9.10.2/24 dev eth1", modules)
    await inside(server, *tagged)

    def reaches(whom: str) -> str:
        return f"until ping -c 1 -W 5 {whom} >/dev/null; do :; done"

    async def heard(who: str) -> bool:
        return "10.9." in await server.run(f"ip -n {who} neigh")

    # Untagged in the guest, untagged here and tagged there; tagged in the guest, tagged there.
    await server.run(f"ip netns exec desk sh -c '{reaches('10.9.10.2')}'", within=GUEST_BOUND)
    await server.run(f"ip netns exec router sh -c '{reaches('10.9.10.2')}'", within=GUEST_BOUND)
    await server.run(f"ip netns exec router sh -c '{reaches('10.9.20.2')}'", within=GUEST_BOUND)
    # 40 is not among its VLANs; once it is, the same packets arrive.
    await inside(server, "! ping -c 3 -W 2 10.9.40.9 >/dev/null")
    assert not await heard("vault")
    await server.run("bocage vm nic set inner nic1 --trunk 20,40", within=600)
    await inside(server, reaches("10.9.40.9"))
    assert await heard("vault")
    # On another VLAN, and a trunk no more: nobody of the old ones hears it.
    await server.run("bocage vm nic set inner nic1 --vlan 11 --trunk ''", within=600)
    for one in ("desk", "vault", "router"):
        await server.run(f"ip -n {one} neigh flush all")
    await inside(server, *(f"! ping -c 2 -W 2 10.9.{vlan}.9 >/dev/null" for vlan in (10, 20, 40)))
    assert not [one for one in ("desk", "vault", "router") if await heard(one)]
    await server.run("bocage vm nic detach inner nic1", within=600)
    await server.run("for one in desk vault router; do ip netns delete $one; done; bocage network delete office")


async def test_a_usb_device_is_found_after_a_reboot_and_wherever_it_is_plugged_in(server: bed.Server):
    assert await usb_device(server) in await server.run("ls /dev/bus/usb/001/*")  # as it was given before the reboot
    await unplug(server, DONGLE)
    await server.run("until bocage vm show inner | grep 'waits'; do sleep 1; done")
    assert await usb_device(server) == ""
    await plug(server, "OTHER", port=3)
    await server.run("until bocage host usb | grep OTHER; do sleep 1; done")
    await plug(server, DONGLE, port=4)
    await server.run(f"until bocage host usb | grep {DONGLE}; do sleep 1; done")
    await server.run("until bocage vm show inner | grep 'usb0.*/dev/bus/usb'; do sleep 1; done")
    pid, _ = await process_of(server)
    held = await server.run(f"readlink /proc/{pid}/fd/* | grep /dev/bus/usb | sort -u")
    assert held.strip() == await usb_device(server)
    number = await server.run(
        f"grep -l {DONGLE} /sys/bus/usb/devices/*/serial | xargs dirname | xargs -I @ cat @/devnum"
    )
    assert int(held.strip().rpartition("/")[2]) == int(number)


async def test_the_watchdog_of_the_board_is_there_for_whoever_winds_it_up(server: bed.Server):
    found = await server.run("grep -l i6300ESB /sys/class/watchdog/*/identity")  # the chipset has one, too
    at = found.strip().removesuffix("/identity")
    assert (await server.run(f"cat {at}/state")).strip() == "inactive"
    held = f"exec 3>/dev/{at.split('/')[-1]}; printf . >&3; cat {at}/state; printf V >&3; exec 3>&-; cat {at}/state"
    assert (await server.run(f"sh -c '{held}'")).split() == ["active", "inactive"]


async def test_nics_become_one_that_goes_on_while_a_cable_is_out(server: bed.Server):
    async def reaches() -> None:
        await server.run(
            "ip neighbour flush all; until ip neighbour show to 198.51.100.1 | grep REACHABLE;"
            " do echo >/dev/udp/198.51.100.1/9; sleep 1; done",
            within=600,
        )

    await server.run("ip netns add switch && ip -n switch link add sw0 type bridge && ip -n switch link set sw0 up")
    for number in (1, 2):
        await server.run(f"ip link add eno{number} type veth peer name p{number} netns switch")
        await server.run(f"ip link set eno{number} up && ip -n switch link set p{number} master sw0 up")
    await server.run("ip -n switch address add 198.51.100.1/24 dev sw0 && ip address add 198.51.100.2/24 dev eno1")
    await reaches()
    create = "bocage network create line --kind bridge --nic eno1,eno2 --vlans"
    await server.run(f"{create} && bocage network confirm line", within=600)
    for number in (1, 2):
        await server.run(f"ip -n switch link set p{number} down")
        await server.run("until grep -A1 Interface /proc/net/bonding/bcb-* | grep 'MII Status: down'; do sleep 1; done")
        await reaches()
        await server.run(f"ip -n switch link set p{number} up")
        await server.run("while grep -A1 Interface /proc/net/bonding/bcb-* | grep 'MII Status: down'; do sleep 1; done")
    # As a reboot leaves it, which takes nothing else of the server's here; the next daemon makes it again.
    bridge = json.loads(await server.run("bocage network show line --json"))["status"]["bridge"]
    bond = bridge.replace("bcu-", "bcb-")
    await server.run(f"systemctl stop bocage && ip link delete {bridge} && ip link delete {bond}")
    await server.run(f"systemctl start bocage && until ip link show {bridge} | grep LOWER_UP; do sleep 1; done")
    await reaches()
    await server.run("bocage network delete line && ip address show dev eno1 | grep 198.51.100.2/24", within=600)
    await reaches()
    await server.run("ip link delete eno1 && ip link delete eno2 && ip netns delete switch")


async def test_a_kill_for_lack_of_memory_is_told_though_its_scope_is_gone(server: bed.Server):
    pid, _ = before = await process_of(server)
    group = (await server.run(f"cat /proc/{pid}/cgroup")).strip().removeprefix("0::")
    await server.run(f"echo 1000 >/proc/{pid}/oom_score_adj")
    await server.run(f"timeout 30 sh -c 'echo 4M >/sys/fs/cgroup{group}/memory.max' || true")
    await server.run("until bocage events | grep 'ended by itself'; do sleep 1; done", within=600)
    crash = next(one for one in await events(server) if one["type"] == "vm-crashed")
    assert "lack of memory" in crash["params"]["reason"]
    await runs(server)
    assert await process_of(server) != before


async def test_a_removal_of_the_package_touches_no_vm_and_a_purge_no_disk(server: bed.Server):
    pid, began = await process_of(server)
    directory = (await shown(server))["status"]["directory"]
    await server.run("dpkg --remove bocage", within=600)
    assert (await server.run(f"cut -d' ' -f22 /proc/{pid}/stat")).strip() == began
    assert (await server.run("systemctl is-active bocage bocage-vms; true")).split() == ["inactive", "inactive"]
    assert "is kept" in await server.run("dpkg --purge bocage", within=600)
    assert (await server.run(f"cut -d' ' -f22 /proc/{pid}/stat")).strip() == began
    await server.run(f"test -s {directory}/vm.yaml")
    assert (await server.run("ls /usr/lib/bocage /usr/bin/bocage", fails=True)).count("No such file") == 2


async def test_a_checkout_installs_itself_takes_the_vm_over_and_goes_again(
    server: bed.Server, packages: tuple[pathlib.Path, ...]
):
    bocage = "/opt/bocage/usr/lib/bocage/bin/bocage"
    await server.run("mountpoint -q /mnt || mount -o ro /dev/sr0 /mnt")
    await server.run(f"dpkg-deb -x /mnt/{packages[1].name} /opt/bocage", within=600)
    await server.run(f"sed -i '1s|.*|#!{bocage.replace('/bocage/bin/bocage', '/bocage/bin/python3')} -I|' {bocage}")
    (pid,) = (await server.run("pgrep -f '^qemu-system-x86_64 -name guest=inner'")).split()
    await server.run(f"{bocage} install", within=600)
    assert (await server.run(f"systemctl is-active {systemd.SERVICE} {systemd.VMS}")).split() == ["active", "active"]
    machine = json.loads(await server.run(f"{bocage} vm show inner --json"))
    assert (machine["status"]["state"], machine["status"]["pid"]) == ("running", int(pid))
    await server.run(f"{bocage} uninstall", within=600)
    assert (await server.run("systemctl is-active bocage bocage-vms; true")).split() == ["inactive", "inactive"]
    assert (await server.run("ls /etc/systemd/system/bocage*", fails=True)).count("No such file") == 1
    assert (await server.run("pgrep -f '^qemu-system-x86_64 -name guest=inner'")).split() == [pid]
