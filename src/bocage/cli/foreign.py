"""The words of virsh, qm, incus and PowerShell (Hyper-V), and what does here what they do there.

`meaning` stands only where the word means something else there than one would think here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

OUR_VM_VERBS = frozenset(
    word
    for line in (
        "create show list start stop kill reboot reset pause resume save delete undelete rename clone export import",
        "migrate set edit apply diff command console log screenshot sendkey disk nic usb cd floppy snapshot",
        "flatten exec cp passwd rescue",
        "top stats isolation upgrade-hardware",
    )
    for word in line.split()
)


_EVERYDAY = (
    (("add", "new", "make", "define", "attach", "plug"), ("create", "add", "attach", "insert")),
    (("remove", "rm", "del", "destroy", "delete", "revoke", "unplug"), ("delete", "detach", "eject")),
    (("ls", "all", "status"), ("list",)),
    (("info", "get", "inspect", "view", "status", "describe"), ("show", "list")),
    (("resize", "extend", "expand", "grow"), ("grow",)),
    (("edit", "modify", "change", "update", "configure"), ("set",)),
    (("mount", "load", "change"), ("insert",)),
    (("unmount", "umount", "empty"), ("eject",)),
    (("acknowledge", "clear", "silence", "dismiss"), ("ack",)),
    (("download", "import", "upload", "pull", "fetch"), ("add",)),
    (("abort", "kill", "stop"), ("cancel",)),
    (("logs",), ("log", "events")),
    (("nic", "nics", "net", "nets", "switch", "vswitch", "bridge"), ("network",)),
    (("pool", "pools", "datastore", "datastores"), ("storage",)),
    (("iso", "isos", "template", "templates"), ("image",)),
    (("disk", "disks", "vol", "vols", "vdisk"), ("disk", "volume")),
    (("guest", "guests", "machine", "domain"), ("vm",)),
    (("node", "nodes", "server"), ("host",)),
)


NOT_YET = {
    word: what
    for what, words in {
        "backups": "backup backups vzdump qmrestore",
    }.items()
    for word in words.split()
}
"""What other tools have and this one has not yet, by their words for it."""


def everyday(word: str, known: Collection[str]) -> str | None:
    """The verb, of those that are known, that an everyday word for the same asks for."""
    ours = (verb for words, verbs in _EVERYDAY if word in words for verb in verbs)
    return next((verb for verb in ours if verb in known), None)


@dataclasses.dataclass(frozen=True, slots=True)
class Word:
    tool: str
    word: str
    here: str
    meaning: str = ""


def find(word: str, *, within: str) -> Word | None:
    """What another tool's `word` is here; `within` is the noun it was said to (`bocage` for none)."""
    table = _BY_NOUN.get(within)
    return None if table is None else table.get(word.lower())


def of_tool(tool: str, word: str) -> Word | None:
    """What `word` is here when it was said to `tool` itself: `bocage qm stop`."""
    return _BY_TOOL[tool].get(word.lower())


def _table(tool: str, *rows: tuple[str, ...]) -> dict[str, Word]:
    return {row[0].lower(): Word(tool, *row) for row in rows}


_VIRSH = _table(
    "virsh",
    ("destroy", "bocage vm kill", "pulls the plug"),
    ("undefine", "bocage vm delete", "forgets the definition and keeps the disks, ours go to the trash with it"),
    ("define", "bocage vm apply -f FILE.yaml"),
    ("shutdown", "bocage vm stop"),
    ("dominfo", "bocage vm show"),
    ("domstate", "bocage vm show"),
    ("domid", "bocage vm show"),
    ("domuuid", "bocage vm show"),
    ("domstats", "bocage vm show"),
    ("domblklist", "bocage vm show"),
    ("domiflist", "bocage vm show"),
    ("domifaddr", "bocage vm show"),
    ("dumpxml", "bocage vm show --yaml"),
    ("suspend", "bocage vm pause", "halts the vCPUs and keeps the memory in RAM"),
    ("managedsave", "bocage vm save"),
    ("restore", "bocage vm start", "resumes from a file; a saved VM resumes when it starts"),
    ("autostart", "bocage vm set NAME --autostart"),
    ("domrename", "bocage vm rename"),
    ("send-key", "bocage vm sendkey"),
    ("setvcpus", "bocage vm set NAME --cpus N"),
    ("setmem", "bocage vm set NAME --memory SIZE"),
    ("setmaxmem", "bocage vm set NAME --memory SIZE"),
    ("attach-disk", "bocage vm disk attach"),
    ("attach-device", "bocage vm disk attach"),
    ("detach-disk", "bocage vm disk detach"),
    ("detach-device", "bocage vm disk detach"),
    ("attach-interface", "bocage vm nic attach"),
    ("detach-interface", "bocage vm nic detach"),
    ("domif-setlink", "bocage vm nic set NAME NIC --link up|down"),
    ("snapshot-create", "bocage vm snapshot create"),
    ("snapshot-create-as", "bocage vm snapshot create"),
    ("snapshot-list", "bocage vm snapshot list"),
    ("snapshot-revert", "bocage vm snapshot revert"),
    ("snapshot-delete", "bocage vm snapshot delete"),
    ("blockresize", "bocage vm disk grow"),
    ("change-media", "bocage vm cd insert"),
    ("domxml-to-native", "bocage vm command"),
    ("vol-list", "bocage volume list"),
    ("vol-create", "bocage volume create"),
    ("vol-delete", "bocage volume delete"),
    ("pool-list", "bocage storage list"),
    ("pool-define", "bocage storage create"),
    ("pool-define-as", "bocage storage create"),
    ("pool-destroy", "bocage storage delete", "stops a pool and keeps it"),
    ("net-list", "bocage network list"),
    ("net-define", "bocage network create"),
    ("net-create", "bocage network create"),
    ("net-destroy", "bocage network delete", "takes a network down and keeps its definition"),
    ("net-undefine", "bocage network delete"),
    ("nodeinfo", "bocage host show"),
    ("capabilities", "bocage host show"),
    ("event", "bocage events --follow"),
)
_VIRT_INSTALL = _table("virt-manager", ("virt-install", "bocage vm create"), ("virt-clone", "bocage vm clone"))
_QM = _table(
    "qm",
    ("config", "bocage vm show"),
    ("status", "bocage vm show"),
    ("terminal", "bocage vm console"),
    ("monitor", "bocage vm command"),
    ("showcmd", "bocage vm command"),
    ("importdisk", "bocage image add"),
    ("importovf", "bocage vm import"),
    ("move-disk", "bocage vm migrate NAME --storage S"),
    ("move_disk", "bocage vm migrate NAME --storage S"),
    ("resize", "bocage vm disk grow"),
    ("template", "bocage vm clone"),
    ("unlink", "bocage vm disk detach"),
    ("hibernate", "bocage vm save"),
    ("snapshot", "bocage vm snapshot create"),
    ("listsnapshot", "bocage vm snapshot list"),
    ("delsnapshot", "bocage vm snapshot delete"),
    ("rollback", "bocage vm snapshot revert"),
)
_INCUS = _table(
    "incus",
    ("launch", "bocage vm create NAME --image IMAGE --start"),
    ("init", "bocage vm create NAME --image IMAGE"),
    ("exec", "bocage vm exec"),
    ("shell", "bocage vm console"),
    ("info", "bocage vm show"),
    ("move", "bocage vm rename", "also renames"),
    ("mv", "bocage vm rename", "also renames"),
    ("copy", "bocage vm clone"),
    ("cp", "bocage vm clone"),
    ("restart", "bocage vm reboot"),
    ("publish", "bocage vm export"),
    ("remote", "BOCAGE_URL=https://HOST:8480 bocage vm list"),
)
_DOCKER = _table(
    "docker",
    ("ps", "bocage vm list"),
    ("run", "bocage vm create NAME --image IMAGE --start"),
    ("rm", "bocage vm delete"),
    ("logs", "bocage vm log"),
    ("inspect", "bocage vm show --json"),
    ("unpause", "bocage vm resume"),
    ("attach", "bocage vm console"),
    ("pull", "bocage image add URL"),
    ("images", "bocage image list"),
)
_POWERSHELL = _table(
    "PowerShell",
    ("New-VM", "bocage vm create"),
    ("Get-VM", "bocage vm list"),
    ("Start-VM", "bocage vm start"),
    (
        "Stop-VM",
        "bocage vm stop",
        "with -TurnOff pulls the plug (here 'bocage vm kill'), without it asks the guest",
    ),
    ("Restart-VM", "bocage vm reboot", "resets without asking the guest (here 'bocage vm reset')"),
    ("Suspend-VM", "bocage vm pause"),
    ("Resume-VM", "bocage vm resume"),
    ("Save-VM", "bocage vm save"),
    ("Remove-VM", "bocage vm delete", "keeps the disks"),
    ("Rename-VM", "bocage vm rename"),
    ("Set-VM", "bocage vm set"),
    ("Set-VMMemory", "bocage vm set NAME --memory SIZE"),
    ("Set-VMProcessor", "bocage vm set NAME --cpus N"),
    ("Export-VM", "bocage vm export"),
    ("Import-VM", "bocage vm import"),
    ("Move-VMStorage", "bocage vm migrate NAME --storage S"),
    ("Add-VMHardDiskDrive", "bocage vm disk attach"),
    ("Remove-VMHardDiskDrive", "bocage vm disk detach"),
    ("Resize-VHD", "bocage vm disk grow"),
    ("Set-VMDvdDrive", "bocage vm cd insert"),
    ("Add-VMDvdDrive", "bocage vm cd insert"),
    ("Checkpoint-VM", "bocage vm snapshot create"),
    ("Get-VMSnapshot", "bocage vm snapshot list"),
    ("Get-VMCheckpoint", "bocage vm snapshot list"),
    ("Restore-VMSnapshot", "bocage vm snapshot revert"),
    ("Remove-VMSnapshot", "bocage vm snapshot delete"),
    ("Add-VMNetworkAdapter", "bocage vm nic attach"),
    ("Remove-VMNetworkAdapter", "bocage vm nic detach"),
    ("Connect-VMNetworkAdapter", "bocage vm nic set NAME NIC --network NETWORK"),
    ("Disconnect-VMNetworkAdapter", "bocage vm nic set NAME NIC --link down"),
    ("New-VHD", "bocage volume create"),
    ("Get-VHD", "bocage volume list"),
    ("Get-VMSwitch", "bocage network list"),
    ("New-VMSwitch", "bocage network create"),
    ("Remove-VMSwitch", "bocage network delete"),
    ("Get-VMHost", "bocage host show"),
    ("vmconnect", "bocage vm console"),
)
_VMWARE = _table(
    "VMware",
    ("power-on", "bocage vm start"),
    ("poweron", "bocage vm start"),
    ("power-off", "bocage vm kill", "pulls the plug"),
    ("poweroff", "bocage vm kill", "pulls the plug"),
)
_ANY = {**_VMWARE, **_DOCKER, **_INCUS, **_QM, **_VIRT_INSTALL, **_VIRSH, **_POWERSHELL}  # the last one has the word
_BY_TOOL = {
    "virsh": _VIRSH,
    "docker": _DOCKER
    | _table("docker", ("stop", "bocage vm stop"), ("kill", "bocage vm kill"), ("create", "bocage vm create")),
    "incus": _INCUS | _table("incus", ("delete", "bocage vm delete", "deletes at once; ours go to the trash first")),
    "qm": _QM
    | _table(
        "qm",
        ("stop", "bocage vm kill", "pulls the plug"),
        ("shutdown", "bocage vm stop"),
        ("suspend", "bocage vm pause", "halts the vCPUs and keeps the memory in RAM"),
        ("destroy", "bocage vm delete", "deletes the VM with its disks"),
    ),
}
TOOLS = frozenset(_BY_TOOL)
_BY_NOUN = {
    "bocage": _ANY,
    "vm": _ANY,
    "image": _table(
        "docker", ("pull", "bocage image add URL"), ("rm", "bocage image delete"), ("ls", "bocage image list")
    )
    | _table("incus", ("import", "bocage image add"), ("copy", "bocage image add"), ("info", "bocage image show")),
    "network": _table(
        "virsh",
        ("define", "bocage network create"),
        ("destroy", "bocage network delete", "takes a network down and keeps its definition"),
        ("undefine", "bocage network delete"),
    ),
    "storage": _table(
        "virsh",
        ("define", "bocage storage create"),
        ("destroy", "bocage storage delete", "stops a pool and keeps it"),
        ("undefine", "bocage storage delete"),
    ),
    "volume": _table("virsh", ("resize", "bocage volume grow"), ("destroy", "bocage volume delete")),
}
