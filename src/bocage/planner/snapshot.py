"""The world of a planner, made of what the store has."""

from __future__ import annotations

import datetime
from collections.abc import Collection, Iterable, Mapping

from bocage.model import board, ground, plan, sample, standing
from bocage.model import vm as model
from bocage.model.units import Size
from bocage.planner import admission, cpumodels, why

_HAS_MEMORY = (model.State.STARTING, model.State.RUNNING, model.State.PAUSED, model.State.STOPPING)


def world(
    hosts: Collection[ground.Host],
    storages: Iterable[ground.Storage],
    networks: Iterable[ground.Network] = (),
    vms: Iterable[model.VM] = (),
    *,
    beside: Iterable[ground.Volume | ground.Image] = (),
    uses: Mapping[str, sample.Use] | None = None,
    survive: int = 0,
    now: datetime.datetime | None = None,
    stands: standing.Standing | None = None,
) -> plan.World:
    """Everything at one moment; `uses` is what VMs use, by uid. Without `now` no host counts as silent.

    In a cluster `stands` says who beats, as the host that leads hears it: what a host has noted itself is older.

    `beside` are the volumes and images that VMs have, or are made of: their storages must be reached, too.
    """
    names = {one.uid: one.name for one in hosts}
    known = {one.uid: one for one in storages}
    called = {one.uid: key(one.metadata.project, one.name) for one in networks}
    beats = {one.host: one.state == "beats" for one in stands.hosts} if stands else {}
    made_hosts = (_host(one, known.values(), called.values(), _is_silent(one, beats, now)) for one in hosts)
    found = tuple(sorted(made_hosts, key=lambda one: one.name))
    lying = _Lying(beside)
    made = [_vm(one, names, known, called, lying, (uses or {}).get(one.uid)) for one in vms if not one.metadata.deleted]
    return plan.World(
        taken=now,
        survive=survive,
        hosts=found,
        vms=tuple(sorted((_with_known_cpu(one, found) for one in made), key=lambda one: one.key)),
    )


def asked(
    machine: model.VM,
    hosts: Collection[ground.Host],
    storages: Iterable[ground.Storage],
    networks: Iterable[ground.Network],
    *,
    beside: Iterable[ground.Volume | ground.Image] = (),
) -> plan.PlanVM:
    """One VM alone, also one in the trash."""
    kept = machine.model_copy(update={"metadata": machine.metadata.model_copy(update={"deleted": None})})
    return world(hosts, storages, networks, [kept], beside=beside).vms[0]


class _Lying:
    """On which storages lies what VMs have."""

    def __init__(self, things: Iterable[ground.Volume | ground.Image]) -> None:
        self._volumes: dict[str, ground.Volume] = {}
        self._images: dict[str, ground.Image] = {}
        self._content: dict[str, set[str]] = {}  # storages by what images are the content of
        for one in things:
            if isinstance(one, ground.Volume):
                self._volumes[one.uid] = one
            else:
                self._images[one.uid] = one
                self._content.setdefault(one.spec.sha256, set()).add(one.spec.storage)

    def of(self, machine: model.VM) -> set[str]:
        """The storages, by uid, that a host must reach to have a VM."""
        spec = machine.spec
        media = {image for image in (*(cd.image for cd in spec.cds), spec.rescue) if image}
        found = {spec.storage, *(self._images[one].spec.storage for one in media if one in self._images)}
        for volume in (self._volumes[disk.volume] for disk in spec.disks if disk.volume in self._volumes):
            found.add(volume.spec.storage)
            if volume.status.state != "ready":  # it is made of what lies elsewhere
                found |= self._made_of(volume)
        return found

    def _made_of(self, volume: ground.Volume) -> set[str]:
        source = self._volumes.get(volume.spec.source or "")
        there = self._content.get(volume.spec.image or "", set())
        image = {min(there)} if there and volume.spec.storage not in there else set[str]()
        return image | ({source.spec.storage} if source else set())


def _vm(
    machine: model.VM,
    hosts: Mapping[str, str],
    storages: Mapping[str, ground.Storage],
    networks: Mapping[str, str],
    lying: _Lying,
    use: sample.Use | None = None,
) -> plan.PlanVM:
    """One VM; names of hosts and networks, and the storages, by uid."""
    spec, status = machine.spec, machine.status
    demand = admission.Demand.of(spec)
    wanted = spec.power in (model.Power.RUNNING, model.Power.PAUSED)
    needed = (storages[uid].name if uid in storages else uid for uid in lying.of(machine))
    return plan.PlanVM(
        name=machine.name,
        project=machine.metadata.project or "default",
        running=wanted or status.state in _HAS_MEMORY,
        memory=Size(demand.memory),
        vcpus=demand.vcpus,
        cpus_reserved=demand.reserved,
        load=plan.Load(cpu=round((use.now.get("cpu") or 0.0) if use else 0.0, 3)),
        host=hosts.get(status.host or ""),
        storages=tuple(sorted(needed)),
        networks=tuple(sorted({networks.get(nic.network, nic.network) for nic in spec.nics})) if networks else (),
        host_tags=spec.placement.host_tags,
        together=tuple(key(machine.metadata.project, group) for group in spec.placement.together),
        apart=tuple(key(machine.metadata.project, group) for group in spec.placement.apart),
        hardware=plan.PlanBoard(
            machine=spec.hardware.machine,
            cpu_model=spec.hardware.cpu_model,
            firmware="secure-boot" if spec.hardware.secure_boot else str(spec.hardware.firmware),
            tpm=spec.hardware.tpm is not board.Tpm.NONE,
        ),
        priority=plan.MOST_PRIORITY - spec.autostart.order,
        stays=bool(spec.usb),
    )


def _is_silent(host: ground.Host, beats: Mapping[str, bool], now: datetime.datetime | None) -> bool:
    seen = host.status.seen
    if now is None or host.uid in beats:
        return now is not None and not beats[host.uid]
    return seen is not None and (now - seen).total_seconds() > why.SILENT_AFTER


def _host(
    host: ground.Host, storages: Collection[ground.Storage], networks: Collection[str], silent: bool
) -> plan.PlanHost:
    status, capacity = host.status, admission.Capacity.of(host)
    memory = max(status.memory_bytes, capacity.memory)
    return plan.PlanHost(
        name=host.name,
        state="silent" if silent else "draining" if host.spec.drained else "ready",
        memory=Size(memory),
        memory_own=Size(memory - capacity.memory),
        memory_overcommit=capacity.memory_overcommit,
        cpus=max(capacity.cpus, 1),
        cpu_overcommit=capacity.cpu_overcommit,
        power=max(capacity.cpus, 1),
        storages=tuple(sorted(one.name for one in storages if one.reached_by(host.uid))),
        networks=tuple(sorted(networks)),
        tags=host.metadata.tags,
        machines=status.types,
        cpu_models=status.cpu_models,
        cpu_kind=f"{status.accelerator} {status.cpu_maker} {status.cpu_model}",
        firmware=status.firmware,
        tpm=status.tpm,
    )


def _with_known_cpu(vm: plan.PlanVM, hosts: Collection[plan.PlanHost]) -> plan.PlanVM:
    """Without its CPU model where its own host, or every host, runs that in part only: then it refuses no host."""
    model_ = vm.hardware.cpu_model
    here = [one for one in hosts if vm.host in (None, one.name)]
    if model_ in ("", cpumodels.OWN) or any(model_ in one.cpu_models for one in here):
        return vm
    return vm.model_copy(update={"hardware": vm.hardware.model_copy(update={"cpu_model": ""})})


def key(project: str | None, name: str) -> str:
    """What a VM, a network or a group of a project is called in a world."""
    return name if project in (None, "default") else f"{project}/{name}"
