"""From counters that were read twice to what was used by the second. A counter that went back began anew."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bocage.model import sample

Counted = sample.DiskUse | sample.NicUse
_DISK = ("read_bytes", "written_bytes", "reads", "writes", "read_seconds", "write_seconds")
_NIC = ("received_bytes", "sent_bytes", "received_packets", "sent_packets")
_SUMS = tuple(name for name in sample.METRICS if not name.endswith("latency"))


def each_second(before: float, after: float, span: float) -> float | None:
    """The increase by the second; None when there is none, or no time between them."""
    return (after - before) / span if span > 0 and after >= before else None


def disks(
    before: Mapping[str, sample.DiskUse], after: Mapping[str, sample.DiskUse], span: float
) -> dict[str, float | None]:
    """The disk metrics of one VM, all its disks together. A latency is that of the operations in between."""
    grown = _grown(before, after, _DISK)
    if span <= 0:
        return {}
    return {
        "disk_read_bytes": grown["read_bytes"] / span,
        "disk_written_bytes": grown["written_bytes"] / span,
        "disk_reads": grown["reads"] / span,
        "disk_writes": grown["writes"] / span,
        "disk_read_latency": grown["read_seconds"] / grown["reads"] if grown["reads"] else None,
        "disk_write_latency": grown["write_seconds"] / grown["writes"] if grown["writes"] else None,
    }


def nics(
    before: Mapping[str, sample.NicUse], after: Mapping[str, sample.NicUse], span: float
) -> dict[str, float | None]:
    """The network metrics of one VM, all its counted NICs together."""
    if span <= 0 or not after:
        return {}
    return {f"net_{name}": value / span for name, value in _grown(before, after, _NIC).items()}


def total(some: Iterable[Mapping[str, float | None]]) -> dict[str, float | None]:
    """The sums of several VMs' metrics; latencies are averaged by their operations."""
    all_of = list(some)
    sums: dict[str, float | None] = {}
    for name in _SUMS:
        known = [value for one in all_of if (value := one.get(name)) is not None]
        sums[name] = sum(known) if known else None
    for latency, count in sample.WEIGHED_BY.items():
        weighed = [(value, one.get(count) or 0.0) for one in all_of if (value := one.get(latency)) is not None]
        whole = sum(of for _, of in weighed)
        sums[latency] = sum(value * of for value, of in weighed) / whole if whole else None
    return sums


def row(values: Mapping[str, float | None]) -> sample.Row:
    """The values in the order of the metrics."""
    return tuple(values.get(name) for name in sample.METRICS)


def named(values: sample.Row) -> dict[str, float | None]:
    """The values by metric."""
    return dict(zip(sample.METRICS, values, strict=True))


def _grown(before: Mapping[str, Counted], after: Mapping[str, Counted], fields: Iterable[str]) -> dict[str, float]:
    """By how much the sums over all devices grew. One that is new counts whole, one that is gone not at all."""
    grown = dict.fromkeys(fields, 0.0)
    for name, now in after.items():
        then = before.get(name)
        for field in grown:
            value = float(getattr(now, field))
            was = float(getattr(then, field)) if then is not None else 0.0
            grown[field] += value - was if value >= was else value
    return grown
