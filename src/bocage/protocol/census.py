"""The census: what a restored store must know before anyone may start anything.

The copy that was restored is older than the world: VMs have moved, hosts were fenced since. Each known host tells what
it runs, or is proven dead, and of several instances the one with the highest generation is the true one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from bocage.protocol import records


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
    for key, entry in view.entries.items():
        if key.startswith("owner/") and isinstance(entry.record, records.Owner):
            found = best.get(key.removeprefix("owner/"), records.Owner())
            # A generation that was never given, whoever has it now.
            generation = max(entry.record.generation, cluster.floor, found.generation) + 1
            anew = unheard and found.host is not None
            puts[key] = records.Owner(found.host, generation, anew)
    compare = {records.epoch_of(host): view.revision(records.epoch_of(host)) for host in records.hosts(view)}
    compare |= {records.CLUSTER: view.revision(records.CLUSTER), records.LEADER: leader}
    return records.Transaction(cluster.incarnation, compare, puts)
