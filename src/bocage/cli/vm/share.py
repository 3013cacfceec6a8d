"""A VM's share of its host, as options and as it is shown."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from bocage.cli import failure, people, read

PANEL = "Its share of the host ('none' gives back what is usual)"
_NONE = "none"


def _option(metavar: str, help_: str) -> Any:
    return typer.Option(metavar=metavar, help=help_, rich_help_panel=PANEL)


CpuWeight = Annotated[str | None, _option("N", "Its weight among busy VMs; 100 is usual.")]
CpuCap = Annotated[str | None, _option("N", "vCPUs' worth of time at most: 0.5, 2.")]
CpuPin = Annotated[str | None, _option("CPUS", "The CPUs of the host that it runs on: 0-1, 0,2.")]
CpuReserve = Annotated[str | None, _option("N", "CPUs of the host that are set aside for it.")]
NumaNode = Annotated[str | None, _option("N", "The NUMA node of the host that it runs on.")]
MemoryOverhead = Annotated[str | None, _option("SIZE", "What QEMU may have beside the guest's memory: 512M.")]
DiskIops = Annotated[str | None, _option("N", "Operations a second of all disks together.")]
DiskRate = Annotated[str | None, _option("SIZE", "Bytes a second of all disks together: 50M.")]
DiskBurstIops = Annotated[str | None, _option("N", "Operations a second for a while, after a rest.")]
DiskBurstRate = Annotated[str | None, _option("SIZE", "Bytes a second for a while, after a rest.")]
DiskBurstSeconds = Annotated[str | None, _option("N", "For how long.")]
NetRate = Annotated[str | None, _option("SIZE", "Bytes a second through each NIC: 10M, or in=10M,out=2M.")]


def patch(
    *,
    cpu_weight: str | None = None,
    cpu_cap: str | None = None,
    cpu_pin: str | None = None,
    cpu_reserve: str | None = None,
    numa_node: str | None = None,
    memory_overhead: str | None = None,
    disk_iops: str | None = None,
    disk_rate: str | None = None,
    disk_burst_iops: str | None = None,
    disk_burst_rate: str | None = None,
    disk_burst_seconds: str | None = None,
    net_rate: str | None = None,
) -> dict[str, Any] | None:
    """The change that the options ask for; None for none. Null stands for what is usual."""
    cpu = {
        **_one("weight", cpu_weight, _whole, "--cpu-weight"),
        **_one("cap", cpu_cap, _number, "--cpu-cap"),
        **_one("pin", cpu_pin, _text, "--cpu-pin"),
        **_one("node", numa_node, _whole, "--numa-node"),
        **_one("reserve", cpu_reserve, _number, "--cpu-reserve"),
    }
    disks = io(
        "--disk-",
        iops=disk_iops,
        rate=disk_rate,
        burst_iops=disk_burst_iops,
        burst_rate=disk_burst_rate,
        burst_seconds=disk_burst_seconds,
    )
    found: dict[str, Any] = {
        **({"cpu": cpu} if cpu else {}),
        **_one("memory_overhead", memory_overhead, _text, "--memory-overhead"),
        **({"disks": disks} if disks else {}),
        **({"nics": rate(net_rate, option="--net-rate")} if net_rate is not None else {}),
    }
    return found or None


def fresh(**options: str | None) -> dict[str, Any] | None:
    """The share of a new VM: what is usual is left out."""
    found = patch(**options)
    return _without_nulls(found) if found else None


def _without_nulls(part: dict[str, Any]) -> dict[str, Any]:
    kept = {key: _without_nulls(value) if isinstance(value, dict) else value for key, value in part.items()}
    return {key: value for key, value in kept.items() if value is not None}


def io(
    prefix: str,
    *,
    iops: str | None,
    rate: str | None,
    burst_iops: str | None,
    burst_rate: str | None,
    burst_seconds: str | None,
) -> dict[str, Any]:
    """Limits of disks; where a limit is taken away, so is what goes beyond it."""
    without = {f"burst_{name}": None for name, value in (("iops", iops), ("rate", rate)) if value == _NONE}
    return {
        **without,
        **_one("iops", iops, _whole, f"{prefix}iops"),
        **_one("rate", rate, _text, f"{prefix}rate"),
        **_one("burst_iops", burst_iops, _whole, f"{prefix}burst-iops"),
        **_one("burst_rate", burst_rate, _text, f"{prefix}burst-rate"),
        **_one("burst_seconds", burst_seconds, _whole, f"{prefix}burst-seconds"),
    }


def rate(text: str, *, option: str) -> dict[str, Any]:
    """`10M`, `in=10M,out=2M`, `none`."""
    if "=" not in text:
        value = None if text == _NONE else text
        return {"inward": value, "outward": value}
    right = "write 10M, or in=10M,out=2M, or none"
    parts = read.pairs(text, option=option, known=("in", "out"), right=right)
    names = {"in": "inward", "out": "outward"}
    return {names[key]: None if value == _NONE else value for key, value in parts.items()}


def described(spec: dict[str, Any]) -> str:
    """What is not as usual of a VM's share, for people."""
    share = spec.get("share") or {}
    cpu, disks, nics = share.get("cpu") or {}, share.get("disks") or {}, share.get("nics") or {}
    found = [f"CPU weight {cpu['weight']}"] if cpu.get("weight", 100) != 100 else []
    found += [f"{cpu['cap']:g} vCPUs at most"] if cpu.get("cap") else []
    found += [f"on CPUs {cpu['pin']}"] if cpu.get("pin") else []
    found += [f"on NUMA node {cpu['node']}"] if cpu.get("node") is not None else []
    found += [f"{cpu['reserve']:g} CPUs reserved"] if cpu.get("reserve") else []
    found += [f"QEMU {share['memory_overhead']} beside the guest"] if share.get("memory_overhead") else []
    found += [f"disks {limits}"] if (limits := limited(disks)) else []
    found += [f"NICs {limits}"] if (limits := rated(nics)) else []
    return ", ".join(found)


def limited(limits: dict[str, Any]) -> str:
    """Limits of disks for people; empty for none."""
    found = [f"{limits['iops']} IOPS"] if limits.get("iops") else []
    found += [f"{limits['rate']}/s"] if limits.get("rate") else []
    return " and ".join(found)


def rated(rate: dict[str, Any]) -> str:
    """A NIC's rate for people; empty for none."""
    inward, outward = rate.get("inward"), rate.get("outward")
    if inward == outward:
        return f"{inward}/s" if inward else ""
    return f"{inward or people.NOTHING}/s in and {outward or people.NOTHING}/s out"


def _one(name: str, text: str | None, kind: Any, option: str) -> dict[str, Any]:
    if text is None:
        return {}
    return {name: None if text == _NONE else kind(text, option)}


def _text(text: str, option: str) -> str:
    return text


def _whole(text: str, option: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise failure.Usage(option=option, wrong=f"'{text}' is no whole number", right=f"{option} 300, {option} none")
    return int(text[:18])


def _number(text: str, option: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        wrong = f"'{text}' is no number"
        raise failure.Usage(option=option, wrong=wrong, right=f"{option} 0.5, {option} none") from error
