"""Whether KVM really runs guest code here, at the speed of hardware; else TCG, and why."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import pathlib
import re
import stat
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bocage import errors, files, process, words
from bocage.words import N_

Kind = Literal["kvm", "tcg"]

_DEVICE = pathlib.Path("/dev/kvm")
_PROBE = pathlib.Path(__file__).with_name("_kvm_probe.py")
_BOUND = 10.0  # seconds; the probe ends itself before
_SLOWEST = 100.0  # ns a turn; hardware needs about one, an emulating KVM about a thousand
_HALTED = 5  # KVM_EXIT_HLT
_REFUSED = 2  # the probe's exit code


class Hardware(words.Message):
    """KVM is good."""

    type = "kvm-works"
    text = N_("KVM ran guest code at hardware speed in a trial ({ns:.1f} ns a turn)")
    ns: float


class Slow(words.Message):
    """KVM is there and emulates."""

    type = "kvm-slow"
    text = N_("KVM is there, but crawls ({ns:.0f} ns for a turn that hardware does in about one)")
    hint = N_("switch on nested virtualisation in the hypervisor under this machine, or use hardware")
    ns: float


class Missing(words.Message):
    """No device."""

    type = "kvm-missing"
    text = N_("there is no /dev/kvm")
    hint = N_("switch on virtualisation in the firmware and load the module kvm_intel or kvm_amd")


class NotPermitted(words.Message):
    """The device is not for us."""

    type = "kvm-not-permitted"
    text = N_("/dev/kvm may not be opened by uid {uid}")
    hint = N_("make the user a member of the group kvm, and give that group /dev/kvm (mode 0660)")
    uid: int


class Closed(words.Message):
    """The device is not for the users that VMs run as."""

    type = "kvm-closed-to-vms"
    text = N_("/dev/kvm opens to no group, and VMs run as users of their own")
    hint = N_("give it the group that Debian gives it: 'chgrp kvm /dev/kvm', 'chmod 660 /dev/kvm'")


class Broken(words.Message):
    """The trial did not end as it should."""

    type = "kvm-broken"
    text = N_("KVM failed in a trial ({said})")
    said: str


class Foreign(words.Message):
    """Not an x86."""

    type = "kvm-foreign"
    text = N_("there is no trial of KVM for the architecture {machine} yet")
    machine: str


@dataclass(frozen=True, slots=True)
class Accelerator:
    """What runs guest code here. `ns_per_turn` is the trial's loop; None when it did not run."""

    kind: Kind
    reason: words.Message
    ns_per_turn: float | None = None


@dataclass(frozen=True, slots=True)
class User:
    """As whom a VM's process will open the device."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


async def probe(*, cache: pathlib.Path | None = None, user: User | None = None) -> Accelerator:
    """Try KVM in a child process, once for each kernel and CPU: what was measured is kept in `cache`.

    `user` is tried in place of the daemon's own; only root can. Never raises for what KVM does.
    """
    machine = os.uname().machine
    if machine not in ("x86_64", "i686"):
        return Accelerator("tcg", Foreign(machine=machine))
    if not os.path.exists(_DEVICE):  # noqa: ASYNC240 - no disk is asked
        return Accelerator("tcg", Missing())
    if not _permitted(user):
        return Accelerator("tcg", _refused(user))
    key = fingerprint()
    if cache and (known := _remembered(cache, key)):
        return known
    measured = await _measure(user)
    if cache and measured.ns_per_turn is not None:  # a failure may pass; it is tried again
        await asyncio.to_thread(_remember, cache, key, measured)
    return measured


def device_groups() -> tuple[int, ...]:
    """The group that may open /dev/kvm, for a VM's process with a uid of its own."""
    try:
        status = _DEVICE.stat()
    except OSError:
        return ()
    return (status.st_gid,) if status.st_gid and status.st_mode & stat.S_IRGRP and status.st_mode & stat.S_IWGRP else ()


def fingerprint() -> str:
    """What a measurement holds for: kernel, CPU model, microcode, KVM's modules."""
    text = pathlib.Path("/proc/cpuinfo").read_text(errors="replace")
    facts = [os.uname().release]
    for name in ("model name", "microcode"):
        found = re.search(rf"^{name}\s*: (.*)$", text, re.MULTILINE)
        facts.append(found[1] if found else "?")
    return " / ".join([*facts, *sorted(path.name for path in pathlib.Path("/sys/module").glob("kvm*"))])


def virtualization_flag() -> str | None:
    """`vmx` or `svm` where the CPU says that it has one. For information: KVM can work without (PVM)."""
    found = re.search(r"^flags\s*:.*\b(vmx|svm)\b", pathlib.Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else None


def _permitted(user: User | None) -> bool:
    if user is None or user.uid == os.geteuid():
        return os.access(_DEVICE, os.R_OK | os.W_OK)
    status = _DEVICE.stat()
    if status.st_uid == user.uid:
        return status.st_mode & 0o600 == 0o600
    if status.st_gid in (user.gid, *user.groups):
        return status.st_mode & 0o060 == 0o060
    return status.st_mode & 0o006 == 0o006


def _refused(user: User | None) -> words.Message:
    return NotPermitted(uid=os.geteuid()) if user is None or user.uid == os.geteuid() else Closed()


async def _measure(user: User | None) -> Accelerator:
    identity: Sequence[int] = () if user is None or user.uid == os.geteuid() else (user.uid, user.gid, *user.groups)
    try:
        said = await process.run(sys.executable, "-I", "-S", _PROBE, *map(str, identity), within=_BOUND)
        reason, ns = int(said.split()[0]), float(said.split()[1])
    except process.Failed as error:
        number = error.output.split(" ", 1)[0]
        if error.status_words == process.in_words(_REFUSED) and number in map(str, (errno.EACCES, errno.EPERM)):
            return Accelerator("tcg", _refused(user))
        return Accelerator("tcg", Broken(said=error.output.partition(" ")[2] or error.status_words))
    except (errors.TimedOut, ValueError, IndexError) as error:
        return Accelerator("tcg", Broken(said=str(error)))
    if reason != _HALTED:
        return Accelerator("tcg", Broken(said=f"KVM_EXIT {reason}"))
    if ns > _SLOWEST:
        return Accelerator("tcg", Slow(ns=ns), ns)
    return Accelerator("kvm", Hardware(ns=ns), ns)


def _remembered(cache: pathlib.Path, key: str) -> Accelerator | None:
    try:
        ns = float(json.loads(cache.read_bytes())[key])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Accelerator("tcg", Slow(ns=ns), ns) if ns > _SLOWEST else Accelerator("kvm", Hardware(ns=ns), ns)


def _remember(cache: pathlib.Path, key: str, measured: Accelerator) -> None:
    files.write_durably(cache, json.dumps({key: measured.ns_per_turn}))
