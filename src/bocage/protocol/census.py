"""The census: what a restored store must know before anyone may start anything.

The copy that was restored is older than the world: VMs have moved, hosts were fenced since. Each known host tells what
it runs, or is proven dead, and of several instances the one with the highest generation is the true one.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection

from bocage.protocol import records

_BATCH = 48  # owners in one transaction: the store takes 128 compares and puts


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
    """The next transaction on the way to a store that is open for work: who owns what, by what the hosts have told.

    The owners come first, some at a time; the last one opens the store. It compares the epoch of every host: one that
    came meanwhile and told what it runs must be heard. What a host has told counts when it has died since, too: an
    older instance elsewhere is over, and the leader frees the VM. What runs goes on only where it is known to be the
    newest: its directory names no later start, and no host died without a word.
    """
    cluster = view.get(records.Cluster, records.CLUSTER)
    if cluster is None or cluster.settled or missing(view, dead):
        return None
    compare = {records.CLUSTER: view.revision(records.CLUSTER), records.LEADER: leader}
    owners = _owners(view, cluster)
    if owners:
        batch = dict(itertools.islice(owners.items(), _BATCH))
        compare |= {key: view.revision(key) for key in batch}
        return records.Transaction(cluster.incarnation, compare, batch)
    compare |= {records.epoch_of(host): view.revision(records.epoch_of(host)) for host in records.hosts(view)}
    opened = {records.CLUSTER: dataclasses.replace(cluster, settled=True)}
    return records.Transaction(cluster.incarnation, compare, opened)


def _owners(view: records.View, cluster: records.Cluster) -> dict[str, records.Owner]:
    """The owner records that are not yet as the hosts' reports would have them."""
    best: dict[str, records.Owner] = {}
    started: dict[str, int] = {}
    unheard = False
    for host in records.hosts(view):
        report = view.get(records.Report, records.report_of(host))
        if report is None or report.incarnation != cluster.incarnation:
            unheard = True
            continue
        for machine, generation in report.runs.items():
            if machine not in best or generation > best[machine].generation:
                best[machine] = records.Owner(host, generation)
        for machine, generation in report.started.items():
            started[machine] = max(generation, started.get(machine, 0))
    known = {key.removeprefix("owner/") for key in view.entries if key.startswith("owner/")}
    owners = {}
    for machine in sorted(known | set(best)):
        found, last = best.get(machine, records.Owner()), started.get(machine)
        newest = not unheard and last is not None and found.generation >= last
        anew = found.host is not None and not newest
        given = max(cluster.floor, found.generation, last or 0)  # no generation up to it is given again
        recorded = view.get(records.Owner, records.owner_of(machine)) or records.Owner()
        if recorded.generation <= given or (recorded.host, recorded.anew) != (found.host, anew):
            owners[records.owner_of(machine)] = records.Owner(found.host, max(given, recorded.generation) + 1, anew)
    return owners
