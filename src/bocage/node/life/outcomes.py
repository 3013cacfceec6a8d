"""What can become of a change while a VM runs, in words."""

from __future__ import annotations

from typing import Any

from bocage.node.notes import Note
from bocage.words import N_


class Adapted(Note):
    """Event: a running VM has taken a change, or a part of it."""

    type = "vm-adapted"
    text = N_("{name}: {outcome:saying}")
    name: str
    outcome: dict[str, Any]


class CpusAre(Note):
    type = "cpus-are"
    text = N_("the guest has {count} vCPUs")
    count: int


class CpusNotTaken(Note):
    type = "cpus-not-taken"
    text = N_("{count} vCPUs are there, and the guest has said of {taken} that it took them")
    hint = N_("Linux from 6.12 on takes no further one under TCG; it has all of them after 'bocage vm reboot {name}'")
    name: str
    count: int
    taken: int


class MemoryIs(Note):
    type = "memory-is"
    text = N_("the guest has {size:size} of memory")
    size: int


class MemoryInPart(Note):
    type = "memory-in-part"
    text = N_("the guest has {size:size} of memory where {wanted:size} were asked for")
    hint = N_("it needs drivers for virtio-mem and the balloon, and can give back only what it does not use")
    size: int
    wanted: int


class DiskThere(Note):
    type = "disk-there"
    text = N_("{disk} is plugged in")
    disk: str


class DiskGone(Note):
    type = "disk-gone"
    text = N_("{disk} is unplugged; its volume {volume} stays")
    disk: str
    volume: str


class MemoryFollows(Note):
    type = "memory-follows"
    text = N_("it has {minimum:size} to {maximum:size} of memory, as its guest needs")
    minimum: int
    maximum: int


class FixedUntilColdStart(Note):
    type = "memory-fixed-until-cold-start"
    text = N_("it was started with fixed memory, and gets dynamic memory at its next cold start")
    hint = N_("'bocage vm reboot {name}'; its guest of now could not take back what it lacks")
    name: str


class DimmThere(Note):
    type = "memory-dimm-there"
    text = N_("the guest has {size:size} of memory; {dimm:size} of it came as a DIMM, which stays")
    size: int
    dimm: int


class DimmsAreWhole(Note):
    type = "memory-dimms-are-whole"
    text = N_(
        "it takes effect at the next cold start; before, memory comes in {left} DIMMs of multiples of {block:size}"
    )
    hint = N_("'bocage vm reboot {name}'")
    name: str
    left: int
    block: int


class DimmNotTaken(Note):
    type = "memory-dimm-not-taken"
    text = N_("a DIMM of {size:size} is there, and the guest has not said that it took it")
    hint = N_("a system without memory hotplug has it after 'bocage vm reboot {name}'")
    name: str
    size: int


class NicThere(Note):
    type = "nic-there"
    text = N_("{nic} is on {network}")
    nic: str
    network: str


class NicGone(Note):
    type = "nic-gone"
    text = N_("{nic} is gone")
    nic: str


class NicFenced(Note):
    type = "nic-fenced"
    text = N_("the addresses and the firewall of {nic} are in force")
    nic: str


class CableIn(Note):
    type = "nic-cable-in"
    text = N_("the cable of {nic} is in")
    nic: str


class CableOut(Note):
    type = "nic-cable-out"
    text = N_("the cable of {nic} is out")
    nic: str


class BootsFrom(Note):
    type = "boots-from"
    text = N_("at its next restart it boots from {order}")
    order: list[str]


class BootsAsUsual(Note):
    type = "boots-as-usual"
    text = N_("at its next restart it boots from its disks, then its CDs")


class MediumIn(Note):
    type = "medium-in"
    text = N_("{image} is in {drive}")
    drive: str
    image: str


class MediumOut(Note):
    type = "medium-out"
    text = N_("{drive} is empty")
    drive: str


class UsbThere(Note):
    type = "usb-there"
    text = N_("it has {usb}, {device}")
    usb: str
    device: str


class UsbGone(Note):
    type = "usb-gone"
    text = N_("{usb} is gone")
    usb: str


class CpuIsHeld(Note):
    type = "cpu-is-held"
    text = N_("weight {weight}, {cap} vCPUs at most, on CPUs {pin}, {reserve} of them reserved")
    weight: int
    cap: str
    pin: str
    reserve: str


class NodeIsHeld(Note):
    type = "cpu-is-held-on-node"
    text = N_("weight {weight}, {cap} vCPUs at most, on NUMA node {node}; memory comes from it at the next cold start")
    weight: int
    cap: str
    node: int


class MemoryIsBounded(Note):
    type = "memory-is-bounded"
    text = N_("QEMU is ended by the kernel where it wants more than {most:size} of memory")
    most: int


class MemoryIsNotBounded(Note):
    type = "memory-is-not-bounded"
    text = N_("QEMU's memory has no bound")


class IoIsHeld(Note):
    type = "io-is-held"
    text = N_("{iops} operations and {rate} a second at most")
    iops: str
    rate: str


class RateIsHeld(Note):
    type = "rate-is-held"
    text = N_("{inward} a second to the guest and {outward} from it at most")
    inward: str
    outward: str


class WaitsForColdStart(Note):
    type = "waits-for-cold-start"
    text = N_("it takes effect at the next cold start")
    hint = N_("'bocage vm reboot {name}'")
    name: str
