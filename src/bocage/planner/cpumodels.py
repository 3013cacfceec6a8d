"""Which CPU a VM is given: a named model, the host's own, or the best that every host of a kind runs whole."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from bocage import errors
from bocage.model import ground
from bocage.words import N_

BASELINE = "baseline"
"""Asked for as a model, it stands for the best one that all hosts of the kind run."""
OWN = "host"
"""The host's own CPU, with all that it can: for KVM alone, and for no other machine than this one."""

# Newest first.
_INTEL = (
    *("SapphireRapids-v1", "Icelake-Server-v5", "Icelake-Server-v2", "Cascadelake-Server-v5", "Cascadelake-Server-v3"),
    *("Skylake-Server-v5", "Skylake-Server-v3", "Skylake-Client-v4", "Skylake-Client-v3", "Broadwell-v4"),
    *("Broadwell-v2", "Haswell-v4", "Haswell-v2", "IvyBridge-v2", "IvyBridge-v1", "SandyBridge-v2", "SandyBridge-v1"),
    *("Westmere-v2", "Westmere-v1", "Nehalem-v2", "Nehalem-v1", "Penryn-v1", "Conroe-v1"),
)
_AMD = (
    *("EPYC-Turin-v1", "EPYC-Genoa-v2", "EPYC-Genoa-v1", "EPYC-Milan-v2", "EPYC-Milan-v1", "EPYC-Rome-v4"),
    *("EPYC-Rome-v2", "EPYC-Rome-v1", "EPYC-v4", "EPYC-v3", "EPYC-v2", "EPYC-v1", "Opteron_G5-v1", "Opteron_G4-v1"),
    *("Opteron_G3-v1", "Opteron_G2-v1", "Opteron_G1-v1"),
)
_PLAIN = ("qemu64-v1", "kvm64-v1")


class Error(errors.Problem):
    """No CPU can be had so."""


class NeedsKvm(Error, errors.Invalid):
    """`host` passes the real CPU through, which an emulated one is not."""

    type = "cpu-model-needs-kvm"
    text = N_("the CPU model 'host' is the real CPU, passed through by KVM; {host} runs VMs by {accelerator}")
    hint = N_("'baseline' is the best that all hosts like it run; 'bocage host show' says why there is no KVM")
    host: str
    accelerator: str


def best(models: Collection[str], *, maker: str = "") -> str | None:
    """The newest of these models that we would choose by ourselves, of a maker's CPUs; None when there is none.

    Of the real CPU's own maker, since a guest looks at the maker's name to choose its code.
    """
    of_maker = _AMD if maker == "amd" else _INTEL
    return next((name for name in (*of_maker, *_PLAIN) if name in models), None)


def baseline(host: ground.HostStatus, hosts: Iterable[ground.HostStatus]) -> str:
    """The newest model that runs whole on `host` and on each of `hosts` that is of its kind.

    A kind is an accelerator, and with KVM a maker: no running VM moves between those. A host that has no QEMU, or
    has not told what it runs, is not waited for. Where hosts of a kind have nothing in common it is `host`'s own best.
    """
    alike = [one for one in hosts if one.cpu_models and _kind(one) == _kind(host)]
    common = set(host.cpu_models).intersection(*(one.cpu_models for one in alike))
    return best(common, maker=_kind(host)[1]) or host.cpu_model


def settled(asked: str | None, host: ground.Host, hosts: Iterable[ground.Host]) -> str:
    """The name of the model that is meant; empty when the host does not know its own yet. Raises NeedsKvm."""
    if asked == OWN and host.status.accelerator != "kvm":
        raise NeedsKvm(host=host.name, accelerator=host.status.accelerator or "tcg")
    if asked in (None, BASELINE):
        return baseline(host.status, (one.status for one in hosts))
    return asked or ""


def _kind(host: ground.HostStatus) -> tuple[str, str]:
    return host.accelerator, host.cpu_maker if host.accelerator == "kvm" else ""
