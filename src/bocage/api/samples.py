"""An example of each document that the API takes or gives, for its description."""

from __future__ import annotations

import datetime
from typing import Any

from bocage import words
from bocage.api import examples
from bocage.model import base, confinement, failover, firewall, ground, plan, sample, snapshot, template, vm, work
from bocage.model.units import GiB, MiB, Size
from bocage.planner import outages, placement, rebalance, surviving

_WHEN = datetime.datetime(2026, 1, 31, 12, 0, tzinfo=datetime.UTC)
_UID = "5f0c9f1e-6f0a-4c53-9c1e-0d1f5a3f7c{:02d}"
_HOST, _STORAGE, _NETWORK, _VOLUME, _IMAGE, _VM = (_UID.format(number) for number in range(10, 16))
_DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0bacd155d6c15b0f00a08f"
_OTHER = _UID.format(22)
_TASK = "01890a5d-ac96-774b-bcce-b302099a8057"
_SUBJECT = base.Ref(kind="vm", uid=_VM, project="default", name="web1")

_WORD = "10.0.0.1:8481/n4bQgYhMfWWaL-qgxVrQFaO_TxsrC4Is0V1sFbDwCgg/8XhT1fVvGqzqkq0cVw5o2A"
_INCARNATION = "44265486572544978d4813a58ffb29e5"

REQUESTS: dict[str, Any] = {
    "Init": {"address": "10.0.0.1"},
    "Join": {"word": _WORD, "address": "10.0.0.2"},
    "Adopt": {"directories": ["/mnt/old/vms/5f0c9f1e-6f0a-4c53-9c1e-0d1f5a3f7c15"]},
    "Clone": {"name": "web2", "start": True},
    "Description": {"title": "What it is, in free text", "tags": ["production"]},
    "DiskRequest": {"size": "20G", "bus": "virtio"},
    "Exec": {"command": ["systemctl", "is-active", "nginx"], "timeout": 10},
    "Expect": {"send": "uname -r", "pattern": "^6", "timeout": 10},
    "GuestPassword": {"user": "root", "password": "correct horse battery staple"},
    "Confirm": {"host": "host2", "off": True},
    "Grow": {"size": "40G"},
    "StorageRepair": {"disk": "/dev/sdd"},
    "ImageBuild": {"what": "debian", "name": "debian12", "release": "bookworm"},
    "Import": {"upload": "5f0c9f1e-6f0a-4c53", "name": "web2", "new_identity": True},
    "Insert": {"image": "windows"},
    "NicPatch": {"network": "lab", "connected": True},
    "HostPatch": {"memory_for_vms": "24G", "memory_overcommit": 1.5, "cpu_overcommit": 4},
    "DiskPatch": {"limits": {"iops": 500, "burst_iops": 2000, "burst_seconds": 10}},
    "NicRequest": {"network": "default", "model": "virtio", "firewall": ["web"]},
    "FirewallGroupCreate": {"name": "web", "rules": [{"ports": ["80", "443"]}]},
    "FirewallGroupPatch": {"rules": [{"ports": ["80", "443"]}, {"ports": ["22"], "peers": ["10.0.0.0/8"]}]},
    "Drain": {"at_once": 2},
    "Migrate": {"to": "host2", "bandwidth": "100M"},
    "MoveDisks": {"storage": "fast"},
    "NetworkCreate": {"name": "lab", "kind": "isolated", "subnet": "10.80.7.0/24"},
    "PolicyPatch": {"survive": 1},
    "Rename": {"name": "shop"},
    "Shutdown": {"within": 120},
    "Rescue": {"image": "rescue"},
    "Revert": {"force": True, "start": True},
    "SnapshotCreate": {"name": "before-upgrade", "title": "Before the upgrade to 12", "memory": True},
    "SendKeys": {"keys": ["ctrl", "alt", "delete"]},
    "Start": {"boot": "cd0"},
    "Stop": {"within": 60, "kill": True},
    "StorageCreate": {"name": "fast", "path": "/srv/fast", "reserve_percent": 10},
    "TemplateCreate": {"name": "web", "vm": "web1", "title": "Web server, patched in November"},
    "TokenCreate": {"name": "laptop", "days": 90},
    "UsbRequest": {"id": "0529:0001", "serial": "A1"},
    "VolumeCreate": {"name": "data", "size": "100G"},
}

_OS: dict[str, Any] = {
    "name": "win2k3",
    "also": [],
    "title": "Microsoft Windows Server 2003",
    "family": "winnt",
    "released": "2003-04-24",
    "ended": "2015-07-14",
    "hardware": {
        "os": "win2k3",
        "machine": "pc",
        "cpu_model": "Conroe-v1",
        "paravirtual": False,
        "cpus": 1,
        "memory": "512M",
        "disk": "20G",
        "disk_bus": "ide",
        "nic_model": "e1000",
        "scsi": "none",
        "usb": "uhci",
        "video": "cirrus",
        "sound": "ac97",
        "rtc": {"base": "localtime", "drift": "slew"},
        "hpet": False,
    },
}


_HOST_USE = sample.HostUse(
    cpus=8,
    memory_total=32 * GiB,
    memory_used=6 * GiB,
    pressure={"cpu": sample.Pressure(some_10=0.02, some_60=0.01, full_10=0.0, full_60=0.0)},
    ksm=sample.Ksm(on=False, saved=0),
    given=sample.Given(memory=12 * GiB, memory_room=32 * GiB, vcpus=10, cpus_reserved=2.5),
    now={"cpu": 1.25},
)
_USE = sample.Use(
    cpu_seconds=4711.5,
    wait_seconds=3.25,
    memory=600 * MiB,
    guest_memory=sample.GuestMemory(total=512 * MiB, available=300 * MiB),
    disks={"disk0": sample.DiskUse(reads=900, read_bytes=30 * MiB, read_seconds=1.5)},
    nics={"nic0": sample.NicUse(received_bytes=5 * MiB, received_packets=4000)},
    now={"cpu": 0.75},
).model_dump(mode="json")
_CONFINED = confinement.Confinement(
    pid=4711,
    uid=1_900_000_001,
    gid=1_900_000_001,
    capabilities=dict.fromkeys(("effective", "permitted", "inheritable", "bounding", "ambient"), ()),
    new_privileges=False,
    seccomp="filter",
    threads=4,
    threads_unfiltered=0,
    own_namespaces=("mnt", "net", "ipc", "uts"),
    shared_namespaces=("pid", "user", "cgroup"),
    mounts=(confinement.Seen(path="/usr", kind="ext4", source="/dev/sda1:/usr", writable=False),),
    opened=(confinement.Opened(descriptor=9, what="socket:[815] unix", writable=True),),
    interfaces=("lo",),
)


def answers() -> dict[str, Any]:
    """By the name of its schema; lists hold the example of what they list."""
    made = {type(one).__name__: one.model_dump(mode="json", context=base.WORDS) for one in _resources()}
    listed = {f"Listed_{name}_": {"items": [one], "revision": 4711, "after": None} for name, one in made.items()}
    reason = base.Saying.of(words.revive("why-asked", _ASKED))
    check = {"level": "ok", "type": "doctor-fine", "params": {"what": "clock", "detail": "2026-01-31 12:00 UTC"}}
    return {
        **made,
        **listed,
        **_plans(),
        "Command": {
            "command": ["qemu-system-x86_64", "-name", "web1"],
            "line": "qemu-system-x86_64 -name web1",
            "script": "#!/bin/sh\nexec qemu-system-x86_64 -name web1\n",
        },
        "Policy": {"survive": 1},
        "Halt": {
            "phase": "stopping",
            "asked_by": "unix:0",
            "since": _WHEN.isoformat(),
            "ran": 12,
            "left": ["db", "web1"],
            "stuck": ["web1"],
        },
        "Cluster": {
            "incarnation": _INCARNATION,
            "address": "10.0.0.1",
            "hosts": [{"name": "host1", "uid": _HOST, "address": "10.0.0.1"}],
            "members": [
                {
                    "host": "host1",
                    "name": _HOST,
                    "peer": "https://10.0.0.1:2380",
                    "votes": True,
                    "witness": False,
                    "leads": True,
                    "answers": True,
                    "reason": "",
                    "version": "3.4.23",
                    "size": 65536,
                }
            ],
        },
        **_failovers(),
        "Place": {"incarnation": _INCARNATION, "address": "10.0.0.1"},
        "Invitation": {"word": _WORD},
        "WrittenFile": {"size": 1024, "mode": "0644"},
        "Created": {"token": "bcg_5f0c9f1e…", "resource": made["Token"]},
        "Differences": {
            "pending": [{"path": "memory", "running": "512M", "wanted": "1G"}],
            "edited": [{"path": "spec.cpus.cores", "is": 2, "edited": 4}],
        },
        "UsbDevices": {
            "devices": [ground.HostUsb(id="0529:0001", port="1-2.3", maker="AKS", model="HASP").model_dump(mode="json")]
        },
        "HostPower": {"power": "on"},
        "Disks": {"disks": [_DISK.model_dump(mode="json")]},
        "Confinement": _CONFINED.model_dump(mode="json", context=base.WORDS),
        "History": sample.History(
            start=_WHEN, step=60, courses={"cpu": sample.Course(average=(0.25, None), peak=(0.9, None))}
        ).model_dump(mode="json"),
        "HostUse": _HOST_USE.model_dump(mode="json"),
        "Top": {"host": _HOST_USE.model_dump(mode="json"), "vms": [{**_USE, "name": "web1", "uid": _VM}]},
        "VMUse": {**_USE, "name": "web1", "uid": _VM},
        "Expected": {"line": "tiny: ready cpus=2"},
        "Os": _OS,
        "OsList": {"items": [_OS]},
        "Health": {"checks": [{**check, "text": "clock: 2026-01-31 12:00 UTC", "hint": ""}]},
        "Plan": {
            "zone": "Europe/Paris",
            "take": True,
            "memory": False,
            "due": "2026-01-31T12:00:00Z",
            "next": "2026-01-31T13:00:00Z",
            "keep": [{"name": "auto-20260131t110000z", "taken": "2026-01-31T11:00:00Z", "periods": ["hourly"]}],
            "drop": ["auto-20260130t110000z"],
        },
        "Version": {"version": "0.1.0", "api": 1, "python": "3.11.2", "kernel": "6.1.0-29-amd64", "qemu": "7.2.22"},
        "Whoami": {"name": "token:laptop", "local": False},
        "Why": {"chain": [reason.model_dump(mode="json", context=base.WORDS)]},
    }


_DISK = ground.HostDisk(
    path="/dev/sda",
    size_bytes=4 << 40,
    model="ST4000NM0035-1V4",
    serial="ZC1",
    transport="sata",
    rotational=True,
    health="good",
    temperature=31,
    hours=41203,
)
_FAILOVER = failover.Failover(
    metadata=base.Metadata(name="host2-4", uid=_TASK, created=_WHEN, revision=42, status_revision=43),
    spec=failover.FailoverSpec(host=_OTHER, host_name="host2", epoch=4),
    status=failover.FailoverStatus(
        state=failover.State.DONE,
        silent_since=_WHEN,
        leader="host1",
        proof="power",
        steps=(failover.Step(time=_WHEN, said=base.Saying.of(outages.PowerOrdered(host="host2"))),),
        vms=(
            failover.Moved(
                vm=_SUBJECT,
                runs=True,
                to=base.Ref(kind="host", uid=_HOST, name="host1"),
                given=_WHEN,
                started=_WHEN,
            ),
        ),
        ended=_WHEN,
    ),
)
_ASKED = {
    "name": "web1",
    "action": "vm.stop",
    "by": "token:laptop",
    "when": "2026-01-31 12:00:00 UTC",
    "opposite": "start",
}


def _resources() -> list[base.Resource[Any, Any]]:
    full = base.Saying(type="alarm-waits-for-storage", params={"name": "web1"})
    board = vm.Hardware(
        machine="pc-q35-7.2",
        cpu_model="Westmere-v1",
        smbios=vm.Smbios(uuid=_VM, serial=_VM),
        devices={"video": "pcie.0/01.0"},
    )
    disk = vm.Disk(name="disk0", volume=_VOLUME, serial="9d1f5a3f7c13a1b2c3d4", address="rp0/00.0")
    nic = vm.Nic(name="nic0", network=_NETWORK, mac="52:54:00:12:34:56", address="rp1/00.0")
    spec = vm.VMSpec(
        storage=_STORAGE,
        power=vm.Power.RUNNING,
        cpus=vm.Cpus(cores=2),
        memory=Size(512 * MiB),
        disks=(disk,),
        nics=(nic,),
        boot=vm.Boot(order=("disk0",)),
        hardware=board,
    )
    network = ground.NetworkSpec(kind="nat", subnet="10.80.1.0/24")
    volume = ground.VolumeSpec(storage=_STORAGE, size=Size(4 * GiB), image=_DIGEST, linked=True, vm=_VM)
    image = ground.ImageSpec(sha256=_DIGEST, format="raw", virtual_size=Size(20 * MiB), storage=_STORAGE)
    return [
        vm.VM(
            metadata=_about("web1", _VM), spec=spec, status=vm.VMStatus(state=vm.State.RUNNING, host=_HOST, since=_WHEN)
        ),
        ground.Host(metadata=_about("host1", _HOST, None), spec=ground.HostSpec()),
        ground.Storage(
            metadata=_about("local", _STORAGE, None),
            spec=ground.StorageSpec(host=_HOST, path="/var/lib/bocage/storage/local"),
        ),
        ground.Network(metadata=_about("default", _NETWORK), spec=network),
        ground.Volume(metadata=_about("web1-disk0-5f0c9f1e", _VOLUME), spec=volume),
        snapshot.Snapshot(
            metadata=_about("before-upgrade", _UID.format(18)),
            spec=snapshot.SnapshotSpec(vm=_VM, machine=spec),
            status=snapshot.SnapshotStatus(
                state="ready",
                taken=_WHEN,
                disks=(snapshot.SnapshotDisk(disk="disk0", volume=_VOLUME, file="disk0.qcow2", size=Size(4 * GiB)),),
                consistency=snapshot.Consistency.FILESYSTEM,
            ),
        ),
        firewall.FirewallGroup(
            metadata=_about("web", _UID.format(20)),
            spec=firewall.FirewallGroupSpec(rules=(firewall.FirewallRule(ports=("80", "443")),)),
        ),
        template.Template(
            metadata=_about("web", _UID.format(19)),
            spec=template.TemplateSpec(
                storage=_STORAGE,
                versions=(
                    template.TemplateVersion(
                        number=1,
                        made=_WHEN,
                        machine=spec,
                        disks=(template.TemplateDisk(disk="disk0", sha256=_DIGEST, size=Size(4 * GiB)),),
                    ),
                ),
            ),
        ),
        ground.Image(metadata=_about("tiny", _IMAGE), spec=image),
        work.Task(
            metadata=_about("vm-start", _TASK),
            spec=work.TaskSpec(action="vm.start", subject=_SUBJECT, host=_HOST, asked_by="unix:0"),
            status=work.TaskStatus(state=work.TaskState.DONE, started=_WHEN, ended=_WHEN),
        ),
        work.Event(
            metadata=_about("alarm-waits-for-storage", _TASK),
            spec=work.EventSpec(time=_WHEN, said=full, severity=base.Severity.ERROR, subject=_SUBJECT),
        ),
        work.Alarm(
            metadata=_about("alarm-waits-for-storage", _UID.format(16)),
            spec=work.AlarmSpec(said=full, severity=base.Severity.ERROR, subject=_SUBJECT, raised=_WHEN),
        ),
        _FAILOVER,
        work.Token(metadata=_about("laptop", _UID.format(17)), spec=work.TokenSpec(hash=_DIGEST)),
    ]


def _plans() -> dict[str, Any]:
    world = plan.World.model_validate({"taken": _WHEN, "survive": 1, **examples.PLAN_WORLD})
    return {
        "World": world.document(),
        "Placed": placement.place(world.vms[1], world).model_dump(mode="json", context=base.WORDS),
        "Rebalanced": rebalance.rebalance(world).model_dump(mode="json", context=base.WORDS),
    }


def _failovers() -> dict[str, Any]:
    host = ground.Host(metadata=_about("host2", _OTHER, None), spec=ground.HostSpec())
    proofs = [one.model_dump(mode="json", context=base.WORDS) for one in outages.proofs(host, by_time=False)]
    look = {"host": _OTHER, "name": "host2", "state": "silent", "since": _WHEN.isoformat(), "proofs": proofs}
    said = base.Saying.of(surviving.StartsOn(proof="its BMC", host="host2"))
    loss = surviving.Loss(loss="host", answer="yes", said=said, shown=_WHEN).model_dump(mode="json", context=base.WORDS)
    would = {"vm": _SUBJECT.model_dump(mode="json"), "runs": True, "to": "host1", "reason": None, "stage": 1}
    takes = {"proof": "power", "given": 1.7, "started": 2.5, "seen": 3}
    return {
        "Standings": {"leader": "host1", "since": _WHEN.isoformat(), "hosts": [look]},
        "Survives": {"losses": [loss]},
        "Simulated": {"host": "host2", "proofs": proofs, "forecast": takes, "vms": [would]},
    }


def _about(name: str, uid: str, project: str | None = "default") -> base.Metadata:
    return base.Metadata(uid=uid, name=name, project=project, created=_WHEN, revision=42, status_revision=43)
