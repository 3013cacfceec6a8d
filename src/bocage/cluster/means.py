"""What can prove a host's death, and how the writes that it has sent come to an end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from bocage.cluster.mirror import Mirror
from bocage.model import ground
from bocage.protocol import fencing, records
from bocage.protocol.fencing import Proof

_ENDS: Mapping[str, frozenset[Proof]] = {
    # Local files: the end of the processes is the end of their writes, so whatever proves that suffices.
    "dir": frozenset({Proof.POWER, Proof.WORD, Proof.PERSON}),
    # A mount of the kernel's: what it still has to write ends when the machine has no power. That is what a person
    # answers for; and a host that says itself that all is over has written it out, for it lives.
    "shared": frozenset({Proof.POWER, Proof.WORD, Proof.PERSON}),
    # QEMU's own initiator: what is in a socket of its host ends with the host's power; one that says itself that all is
    # over has destroyed those sockets.
    "iscsi": frozenset({Proof.POWER, Proof.WORD, Proof.PERSON}),
}
"""Which proofs say that nothing can land any more, by kind of storage. Time and storage need none beside them."""


class Means(Mapping[str, fencing.Means]):
    """By host: whether its BMC can prove it. None of the kinds of storage there are can shut a host out."""

    def __init__(self, mirror: Mirror, view: Callable[[], records.View | None]) -> None:
        """`view` has the newest records that were seen."""
        self._mirror, self._view = mirror, view

    def __getitem__(self, host: str) -> fencing.Means:
        found = self._mirror.get(ground.Host, host)
        return fencing.Means(power=found is not None and found.bmc_is_its_own)

    def __iter__(self) -> Iterator[str]:
        return (host.uid for host in self._mirror.every(ground.Host))

    def __len__(self) -> int:
        return len(self._mirror.every(ground.Host))

    def ends_writes(self, host: str, proof: Proof) -> bool:
        """Whether that proof also says that nothing this host has sent can land any more, on any storage it reaches."""
        storages = (one for one in self._mirror.every(ground.Storage) if one.concerns(host))
        return all(proof in _ENDS.get(one.spec.kind, frozenset()) for one in storages)

    def stays(self, machine: str) -> bool:
        """Whether a VM lies on storage that its own host alone reaches, and has no replica that could be started."""
        view = self._view()
        replica = view.get(records.Replica, records.replica_of(machine)) if view else None
        if replica is not None and replica.in_sync:
            return False
        found = self._mirror.machine(machine)
        storage = self._mirror.get(ground.Storage, found.spec.storage) if found else None
        return storage is not None and not storage.shared
