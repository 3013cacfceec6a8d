"""What Prometheus scrapes at `/metrics`, with a token as everywhere: counters and gauges of this host and its VMs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter
from starlette.responses import Response

from bocage.api import bodies, calls, index, routing, use
from bocage.model import sample

if TYPE_CHECKING:
    from prometheus_client import core

router = APIRouter(tags=["metrics"], route_class=bodies.Route, generate_unique_id_function=lambda route: route.name)

_TEXT = "text/plain; version=0.0.4; charset=utf-8"  # which every version of Prometheus reads
_VM = ["project", "vm"]
_DISKS = {
    "reads": ("bocage_vm_disk_reads", "Read operations."),
    "writes": ("bocage_vm_disk_writes", "Write operations."),
    "read_bytes": ("bocage_vm_disk_read_bytes", "Bytes read."),
    "written_bytes": ("bocage_vm_disk_written_bytes", "Bytes written."),
    "read_seconds": ("bocage_vm_disk_read_seconds", "Time that reads took, in sum."),
    "write_seconds": ("bocage_vm_disk_write_seconds", "Time that writes took, in sum."),
}
_NICS = {
    "received_bytes": ("bocage_vm_nic_received_bytes", "Bytes that came to the guest."),
    "sent_bytes": ("bocage_vm_nic_sent_bytes", "Bytes that the guest sent."),
    "received_packets": ("bocage_vm_nic_received_packets", "Packets that came to the guest."),
    "sent_packets": ("bocage_vm_nic_sent_packets", "Packets that the guest sent."),
}


@router.get(
    "/metrics",
    name="metrics_scrape",
    response_class=Response,
    responses={**routing.binary("text/plain", "Prometheus's text format."), **routing.problem_responses(502, 504)},
)
async def scrape(call: Annotated[calls.Call, calls.may("metrics:read")]) -> Response:
    """All counters of this host and of the VMs that run on it, for Prometheus."""
    from prometheus_client import exposition  # late: not needed where nobody scrapes

    uses = await use.of_node(call)
    known = (await call.api.index.fresh()).vms
    collected: Any = _Collected([*_host(uses.host), *_vms(uses.vms, known)])
    return Response(exposition.generate_latest(collected), media_type=_TEXT)


class _Collected:
    """What the library encodes: it asks for a registry, and of it for this alone."""

    def __init__(self, families: list[core.Metric]) -> None:
        self._families = families

    def collect(self) -> list[core.Metric]:
        return self._families


def _host(use_: sample.HostUse) -> Iterator[core.Metric]:
    from prometheus_client import core

    def gauge(name: str, what: str, value: float) -> core.Metric:
        return core.GaugeMetricFamily(f"bocage_host_{name}", what, value)

    yield gauge("cpus", "CPUs that VMs may use.", use_.cpus)
    if (busy := use_.now.get("cpu")) is not None:
        yield gauge("cpu_busy_cores", "Cores that are busy.", busy)
    yield gauge("memory_bytes", "The host's memory.", use_.memory_total)
    yield gauge("memory_used_bytes", "Memory that is in use.", use_.memory_used)
    if use_.ksm:
        yield gauge("ksm_saved_bytes", "Memory that merging equal pages saves.", use_.ksm.saved)
    waiting = core.GaugeMetricFamily(
        "bocage_host_pressure_ratio",
        "Share of the last 10 s in which some, or all (full), had to wait (PSI).",
        labels=["resource", "kind"],
    )
    for resource, pressure in use_.pressure.items():
        waiting.add_metric([resource, "some"], pressure.some_10)
        waiting.add_metric([resource, "full"], pressure.full_10)
    yield waiting


def _vms(uses: Mapping[str, sample.Use], known: Mapping[str, index.Uses]) -> Iterator[core.Metric]:
    from prometheus_client import core

    named = [([known[uid].project, known[uid].name], one) for uid, one in uses.items() if uid in known]
    cpu = core.CounterMetricFamily("bocage_vm_cpu_seconds", "CPU time of the VM's process.", labels=_VM)
    wait = core.CounterMetricFamily(
        "bocage_vm_cpu_wait_seconds", "Time that vCPUs were ready and got no CPU (the guest's steal).", labels=_VM
    )
    memory = core.GaugeMetricFamily("bocage_vm_memory_bytes", "The host's memory that the process has.", labels=_VM)
    guest = core.GaugeMetricFamily(
        "bocage_vm_guest_memory_used_bytes", "Memory that the guest says it uses.", labels=_VM
    )
    given, wanted = (
        core.GaugeMetricFamily(f"bocage_vm_dynamic_memory_{name}_bytes", what, labels=_VM)
        for name, what in (
            ("given", "Memory that the guest has, where it is dynamic."),
            ("wanted", "Memory that the guest would have if the host had no end, where it is dynamic."),
        )
    )
    for labels, one in named:
        cpu.add_metric(labels, one.cpu_seconds)
        memory.add_metric(labels, one.memory)
        if one.wait_seconds is not None:
            wait.add_metric(labels, one.wait_seconds)
        if one.guest_memory:
            guest.add_metric(labels, one.guest_memory.used)
        if one.dynamic:
            given.add_metric(labels, one.dynamic.has)
            if one.dynamic.wants is not None:
                wanted.add_metric(labels, one.dynamic.wants)
    yield from (cpu, wait, memory, guest, given, wanted)
    for kind, counters in (("disk", _DISKS), ("nic", _NICS)):
        for field, (name, what) in counters.items():
            family = core.CounterMetricFamily(name, what, labels=[*_VM, kind])
            for labels, one in named:
                devices: Mapping[str, sample.DiskUse | sample.NicUse] = one.disks if kind == "disk" else one.nics
                for device, counted in devices.items():
                    family.add_metric([*labels, device], getattr(counted, field))
            yield family
