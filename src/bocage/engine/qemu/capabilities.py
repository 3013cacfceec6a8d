"""What the installed QEMU can do: asked of it once, kept until its binary changes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import re
import shutil
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bocage import errors, files, process
from bocage.engine.qemu import accelerator, qmp
from bocage.planner import cpumodels
from bocage.words import N_

_BOUND = 20.0  # seconds
_MODULES = pathlib.Path("/usr/lib")
_VERSIONED = re.compile(r"-v\d+$")


class Error(errors.Problem):
    """QEMU could not be asked."""


class Unusable(Error, errors.Unavailable):
    """The program is there, and is no QEMU that we can use."""

    type = "qemu-unusable"
    text = N_("'{binary}' does not work: {said}")
    hint = N_("'bocage doctor' says which package is missing")
    binary: str
    said: str


class NoModel(Error, errors.Unavailable):
    """None of the CPU models that we would choose by ourselves can be had here."""

    type = "no-cpu-model"
    text = N_("no CPU model of QEMU runs here with all of its features")
    hint = N_("name one in the virtual machine's definition: 'bocage vm edit'")


@dataclass(frozen=True, slots=True)
class Capabilities:
    """One QEMU binary under one accelerator."""

    version: tuple[int, int, int]
    package: str  # the distribution's name of it; may be empty
    accelerator: accelerator.Kind
    machines: Mapping[str, str]  # every machine by its name; an alias (`q35`) leads to its versioned name
    default_machine: str
    deprecated: frozenset[str]  # machines that a later version will not have
    devices: frozenset[str]
    cpus: Mapping[str, tuple[str, ...]]  # features of each model that are missing here
    schema: Mapping[str, Mapping[str, Any]]  # `query-qmp-schema` by name

    @property
    def commands(self) -> frozenset[str]:
        """The QMP commands that it knows."""
        return frozenset(name for name, entry in self.schema.items() if entry["meta-type"] == "command")

    @property
    def events(self) -> frozenset[str]:
        """The QMP events that it sends."""
        return frozenset(name for name, entry in self.schema.items() if entry["meta-type"] == "event")

    def has(self, command: str, *path: str) -> bool:
        """Whether a command is there, with an argument at `path` below it: members, then perhaps a value.

        `has("blockdev-reopen")`, `has("blockdev-add", "discard")`,
        `has("migrate-set-capabilities", "capabilities", "capability", "postcopy-ram")`.
        """
        entry = self.schema.get(command)
        if entry is None or entry["meta-type"] != "command":
            return False
        return self._reaches(entry["arg-type"], path)

    def has_feature(self, command: str, feature: str) -> bool:
        """Whether the schema marks a command with a feature, such as `savevm-monitor-nodes`."""
        return feature in self.schema.get(command, {}).get("features", ())

    def default_cpu(self) -> str:
        """The newest named, versioned CPU model of which nothing is missing here. Raises NoModel."""
        name = cpumodels.best(self.whole_cpus(), maker=cpu_maker() if self.accelerator == "kvm" else "")
        if name is None:
            raise NoModel
        return name

    def whole_cpus(self) -> tuple[str, ...]:
        """The versioned CPU models of which nothing is missing here."""
        return tuple(sorted(name for name, missing in self.cpus.items() if not missing and _VERSIONED.search(name)))

    def _reaches(self, type_name: str, path: tuple[str, ...]) -> bool:
        entry = self.schema.get(type_name, {"meta-type": "builtin"})
        kind = entry["meta-type"]
        if kind == "array":
            return self._reaches(entry["element-type"], path)
        if kind == "alternate":
            return any(self._reaches(member["type"], path) for member in entry["members"])
        if not path:
            return True
        if kind == "enum":
            return len(path) == 1 and path[0] in entry["values"]
        if kind != "object":
            return False
        here = any(self._reaches(member["type"], path[1:]) for member in entry["members"] if member["name"] == path[0])
        return here or any(self._reaches(case["type"], path) for case in entry.get("variants", ()))


async def read(
    binary: str = "qemu-system-x86_64", *, under: accelerator.Kind = "tcg", cache: pathlib.Path | None = None
) -> Capabilities:
    """What a QEMU can do under an accelerator; from `cache` (a file) while binary and modules are the same.

    Raises process.Missing, Unusable.
    """
    path = shutil.which(binary)
    if path is None:
        raise process.Missing(program=binary)
    key = _key(path, under)
    if key not in _known:
        facts = _remembered(cache, key)
        if facts is None:
            facts = await _ask(path, under)
            if cache:
                await asyncio.to_thread(_remember, cache, key, facts)
        _known[key] = _capabilities(facts, under)
    return _known[key]


_known: dict[str, Capabilities] = {}


def _key(path: str, under: accelerator.Kind) -> str:
    facts = [under, os.path.realpath(path)]
    for part in (pathlib.Path(path), *sorted(_MODULES.glob("*/qemu"))):
        status = os.stat(part)
        facts.append(f"{status.st_mtime_ns}:{status.st_size}")
    return " ".join([*facts, accelerator.fingerprint()] if under == "kvm" else facts)


async def _ask(path: str, under: accelerator.Kind) -> dict[str, Any]:
    ours, theirs = socket.socketpair()
    command = [path, "-machine", "none", "-accel", under, "-S", "-no-user-config", "-nodefaults", "-display", "none"]
    command += ["-chardev", f"socket,id=qmp,fd={theirs.fileno()}", "-mon", "chardev=qmp,mode=control"]
    running = asyncio.create_task(process.run(*command, within=_BOUND, pass_fds=[theirs.fileno()]))
    answers = asyncio.create_task(_questions(ours))
    try:
        await asyncio.wait([running, answers], return_when=asyncio.FIRST_COMPLETED)
        if not answers.done():
            await running  # it ended before it was told to: this says why
        facts = await answers
        await running
    except (process.Failed, qmp.Error, errors.TimedOut) as error:
        raise Unusable(binary=path, said=str(error)) from error
    finally:
        for task in (running, answers):
            task.cancel()
        await asyncio.wait([running, answers])
        ours.close()
        theirs.close()
    return facts


async def _questions(connection: socket.socket) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    async with await qmp.attach(connection, within=_BOUND) as monitor:
        for command in ("query-version", "query-qmp-schema", "query-machines", "query-cpu-definitions"):
            facts[command] = await monitor.execute(command, within=_BOUND)
        devices = await monitor.execute("qom-list-types", {"implements": "device", "abstract": False}, within=_BOUND)
        facts["devices"] = sorted(device["name"] for device in devices)
        await monitor.execute("quit")
    return facts


def _capabilities(facts: Mapping[str, Any], under: accelerator.Kind) -> Capabilities:
    machines: dict[str, str] = {}
    default = ""
    for machine in facts["query-machines"]:
        machines[machine["name"]] = machine["name"]
        if "alias" in machine:
            machines[machine["alias"]] = machine["name"]
        if machine.get("is-default"):
            default = machine["name"]
    number = facts["query-version"]["qemu"]
    return Capabilities(
        version=(number["major"], number["minor"], number["micro"]),
        package=facts["query-version"]["package"],
        accelerator=under,
        machines=machines,
        default_machine=default,
        deprecated=frozenset(one["name"] for one in facts["query-machines"] if one.get("deprecated")),
        devices=frozenset(facts["devices"]),
        cpus={cpu["name"]: tuple(cpu.get("unavailable-features", ())) for cpu in facts["query-cpu-definitions"]},
        schema={entry["name"]: entry for entry in facts["query-qmp-schema"]},
    )


def cpu_maker() -> str:
    """Of this machine's CPU: `intel`, `amd`, or empty for another."""
    cpu = pathlib.Path("/proc/cpuinfo").read_text(errors="replace")
    found = re.search(r"^vendor_id\s*: (\w+)", cpu, re.MULTILINE)
    makers = {"GenuineIntel": "intel", "AuthenticAMD": "amd", "HygonGenuine": "amd"}
    return makers.get(found[1], "") if found else ""


def _remembered(cache: pathlib.Path | None, key: str) -> dict[str, Any] | None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if cache:
            facts = json.loads(cache.read_bytes()).get(key)
            return facts if isinstance(facts, dict) else None
    return None


def _remember(cache: pathlib.Path, key: str, facts: dict[str, Any]) -> None:
    kept = {key: facts}
    with contextlib.suppress(OSError, ValueError, AttributeError):
        others = json.loads(cache.read_bytes()).items()
        kept |= {other: known for other, known in others if other.split(" ", 1)[0] != key.split(" ", 1)[0]}
    files.write_durably(cache, json.dumps(kept, separators=(",", ":")))
