"""How many VMs fit in a host without one that starves: dynamic memory, fixed memory, one target for the whole host.

A simulation: guests need what their load says, take what they are asked to have at once, and give what they have free.
One starves when it lacks memory that it needs for longer than half a minute. VMs come one after the other, in an order
that a seed decides; the number is the largest with which none starves and all that they have stays within the host.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench import loads, measure, policies, session

_LACKS = 0.02  # of its need that a guest can do without
_LONGEST = 30.0  # seconds that it can do without more
_LEFT_OUT = 60.0  # seconds after which rounds are left out where a need changes slowly
_MOST_RUNS = 3
Policy = policies.Ours | policies.OneTarget


def run(bench: session.Session) -> measure.Result:
    """The figure."""
    seeds = range(min(bench.runs, _MOST_RUNS))
    result = measure.Result()
    by_name: dict[str, list[loads.Load]] = {}
    traces = loads.Traces(bench.traces) if bench.traces else None
    for seed in seeds:
        for load in [*loads.shapes(120, seed), *([traces.load(seed)] if traces else [])]:
            by_name.setdefault(load.name, []).append(load)
    for name, some in by_name.items():
        fixed = [float(fit_fixed(load)) for load in some]
        ours = [float(fit(load, policies.Ours(load.host))) for load in some]
        other = [float(fit(load, policies.OneTarget(load.host))) for load in some]
        runs = {"ours": ours, "fixed": fixed, "one-target": other}
        for peer, words in ((fixed, "fixed memory"), (other, "one target, 80 % of the host")):
            best = measure.median(peer)
            row = measure.Row(
                figure="memory-policy", what=f"VMs that fit in {some[0].host >> 10} GiB: {name}", unit="VMs",
                ours=measure.median(ours), peer=best, peer_is=words, must="more", limit=best + 1, at_least=True,
                runs=runs,
            )  # fmt: skip
            result.rows.append(row)
    if traces is None:
        result.notes.append("no traces: --traces FILE names one")
    return result


def fit_fixed(load: loads.Load) -> int:
    """With all of their memory from the start, as far as a tenth of the host stays free."""
    taken, count = 0, 0
    for guest in load.guests:
        taken += guest.maximum
        if taken > load.host * 0.9:
            break
        count += 1
    return count


def fit(load: loads.Load, policy: Policy) -> int:
    """The largest number with which it goes well."""
    least, most = 0, len(load.guests)
    while least < most:
        count = (least + most + 1) // 2
        if goes_well(load.guests[:count], load.step, policy):
            least = count
        else:
            most = count - 1
    return least


def goes_well(guests: Sequence[loads.Guest], step: int, policy: Policy) -> bool:
    """Whether none starves."""
    running = [_begun(guest) for guest in guests]
    lacking = [0.0] * len(running)
    if not policy.fits(running):
        return False
    for index in range(len(guests[0].needs) - 1):
        passed = 0.0
        for span in _spans(step, policy):
            passed += span
            for number, guest in enumerate(running):
                before, after = guest.of.needs[index], guest.of.needs[index + 1]
                guest.needs = before + (after - before) * passed / step
                lacks = guest.needs * (1 - _LACKS) > guest.has
                lacking[number] = lacking[number] + span if lacks else 0.0
                if lacking[number] > _LONGEST:
                    return False
            policy.divide(running, span)
            for guest in running:
                guest.give()
            if not policy.fits(running):
                return False
    return True


def _begun(guest: loads.Guest) -> policies.Running:
    has = min(max(guest.needs[0] * 1.2, guest.minimum), guest.maximum)
    return policies.Running(guest, has, has, guest.needs[0])


def _spans(step: int, policy: Policy) -> Sequence[float]:
    """The rounds of a step; with steps of minutes some of ours are left out, which does it no good."""
    every = policy.rounds[0]
    if step <= _LEFT_OUT:
        return (every,) * (step // every) if step >= every else (step,)
    return (max(every, 10),) * (step // max(every, 10))
