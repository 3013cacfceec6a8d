"""The census: what a restored store must know before anyone may start anything.

The copy that was restored is older than the world: VMs have moved, hosts were fenced since. Each known host tells what
it runs, or is proven dead, and of several instances the one with the highest generation is the true one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from bocage.protocol import records


def restored(view: records.View, incarnation: str, floor: int) -> dict[str, object]:
    """The records of a copy, as they are written before any client may speak to the restored store.

    What the copy says of bounds, of replicas in sync and of who is let in may long be untrue. Time proves nothing of a
    host before it has taken an epoch here, no replica is started from before it was in sync here, and every host counts
    as shut out until it has said that nothing older runs on it.
    """
    cluster = records.Cluster(incarnation, settled=False, floor=floor)
    puts: dict[str, object] = {records.CLUSTER: cluster}
    for key, entry in view.entries.items():
        record = entry.record
        if isinstance(record, records.Epoch):
            gone = min(record.gone, record.taken - 1)  # it may have come back since
            puts[key] = dataclasses.replace(record, bounds=records.Bounds(), gone=gone)
            next_life = record.number + 1 if record.lives else record.number
            puts[records.fence_of(key.removeprefix("epoch/"))] = records.Fence(next_life)
        elif isinstance(record, records.Replica):
            puts[key] = dataclasses.replace(record, in_sync=False)
    return puts


def missing(view: records.View, dead: Collection[str]) -> list[str]:
    """The hosts that have not yet told what they run; those in `dead` are proven to run nothing."""
    cluster = view.get(records.Cluster, records.CLUSTER)
    assert cluster is not None
    told = []
    for host in records.hosts(view):
        report = view.get(records.Report, records.report_of(host))
        if report is not None and report.incarnation == cluster.incarnation:
            told.append(host)
    return [host for host in records.hosts(view) if host not in told and host not in dead]


def settling(view: records.View, dead: Collection[str], leader: int) -> records.Transaction | None:
    """The transaction that opens the store for work: who owns what, by what the hosts have told.

    It compares the epoch of every host: one that came meanwhile and told what it runs must be heard. What a host has
    told counts when it has died since, too: an older instance elsewhere is over, and the leader frees the VM. And where
    a dead host has told nothing, nobody knows whether it had run something newer: what runs is started anew from disk.
    """
    cluster = view.get(records.Cluster, records.CLUSTER)
    if cluster is None or cluster.settled or missing(view, dead):
        return None
    best: dict[str, records.Owner] = {}
    unheard = False
    for host in records.hosts(view):
        report = view.get(records.Report, records.report_of(host))
        if report is None or report.incarnation != cluster.incarnation:
            unheard = True
            continue
        for machine, generation in report.runs.items():
            if machine not in best or generation > best[machine].generation:
                best[machine] = records.Owner(host, generation)
    puts: dict[str, object] = {records.CLUSTER: dataclasses.replace(cluster, settled=True)}
    known = {key.removeprefix("owner/") for key in view.entries if key.startswith("owner/")}
    for machine in sorted(known | set(best)):
        key = records.owner_of(machine)
        recorded = view.get(records.Owner, key) or records.Owner()
        found = best.get(machine, records.Owner())
        # A generation that was never given, whoever has it now.
        generation = max(recorded.generation, cluster.floor, found.generation) + 1
        puts[key] = records.Owner(found.host, generation, anew=unheard and found.host is not None)
    compare = {records.epoch_of(host): view.revision(records.epoch_of(host)) for host in records.hosts(view)}
    compare |= {records.CLUSTER: view.revision(records.CLUSTER), records.LEADER: leader}
    return records.Transaction(cluster.incarnation, compare, puts)
