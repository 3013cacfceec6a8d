"""What a kind of storage costs and protects, said once and without colours: `bocage storage show`."""

from __future__ import annotations

_KINDS: dict[str, tuple[tuple[str, str], ...]] = {
    "dir": (
        ("it costs", "nothing beside this host's own disks; nothing goes over the network"),
        ("host dies", "its VMs stand still until this host is back, with all that was written"),
        ("a disk dies", "what lies on it is lost, unless it is mirrored (--mirror), or below the path"),
        ("host is lost", "all is lost but what a backup has"),
        ("killed VM", "its last write ends with its process: it may start at once, here"),
    ),
    "shared": (
        ("it costs", "every write goes to the server or array that is mounted; when that stands still, so do all VMs"),
        ("host dies", "its VMs start on another host that reaches it, once it is proven dead"),
        ("a disk dies", "what the server or array makes of it; Bocage sees none of its disks"),
        ("it is lost", "all is lost but what a backup has: it is in one place"),
        (
            "killed VM",
            "its last write may still lie in its host's kernel, and land later: to start it on another host, only a "
            "reset or power-off of the first one counts (BMC, watchdog); the end of the process does not",
        ),
    ),
    "iscsi": (
        ("it costs", "every write goes to the array; a disk has its whole size there from the start"),
        ("it holds", "the disks of VMs alone: no images, snapshots, UEFI variables, TPM or saved memory yet"),
        ("host dies", "its VMs start on another host that reaches it, once it is proven dead"),
        ("a disk dies", "what the array makes of it; Bocage sees none of its disks"),
        ("it is lost", "all is lost but what a backup has: it is in one place"),
        ("store is lost", "the disks are there, and their map; what the VMs were has to be made anew by hand"),
        (
            "killed VM",
            "its last write may still lie in a socket of its host: here that is destroyed before it starts again; to "
            "start it on another host the first one has to be without power, or to have said itself that it has "
            "destroyed it. What the array has taken in already it carries out in its own order",
        ),
        ("isolation", "QEMU reaches the array by itself: it has the host's network, and knows the LUN's password"),
    ),
}


def facts(kind: str) -> list[tuple[str, str]]:
    """What a storage of this kind is worth, line by line."""
    return list(_KINDS.get(kind, ()))
