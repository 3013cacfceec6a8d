"""How fast a tap lets through what comes and goes (tc(8)): what is more waits a little, and is dropped then.

What goes to the guest leaves the tap, where a token bucket (tc-tbf(8)) holds it. What comes from the guest enters by
it, where nothing can wait: it is led through an interface of the kind `ifb`, which it leaves by a bucket of its own.
"""

from __future__ import annotations

import json

from bocage.network import base, kernel

_QUEUE = "50ms"  # how long the last byte may wait
_LEAST_BURST = 128 << 10  # bytes: a segment that the guest leaves to its card to cut is 64 KiB
_BURST = 0.02  # seconds of the rate that may pass at once


def beside(tap: str) -> str:
    """The name of the interface that what comes from a tap's guest is led through."""
    return f"bi{tap[2:]}"


async def hold(tap: str, *, inward: int | None, outward: int | None) -> None:
    """Hold a tap to so many bytes a second to the guest and from it; None: no limit. Raises base.Refused."""
    present = await _disciplines(tap)
    ifb, there = beside(tap), kernel.present(beside(tap))
    steps: list[str] = []
    if inward is not None:
        steps.append(_bucket(tap, inward))
    elif "tbf" in present:
        steps.append(f"qdisc del dev {tap} root")
    if outward is None and "ingress" in present:
        steps.append(f"qdisc del dev {tap} ingress")
    if outward is not None:
        await kernel.change([*([] if there else [f"link add {ifb} type ifb"]), f"link set {ifb} up"])
        steps.append(_bucket(ifb, outward))
        if not await _led(tap, ifb):
            steps += [f"qdisc del dev {tap} ingress"] if "ingress" in present else []
            steps.append(f"qdisc add dev {tap} ingress")
            steps.append(
                f"filter add dev {tap} parent ffff: protocol all prio 1 u32 match u32 0 0 "
                f"action mirred egress redirect dev {ifb}"
            )
    if steps:
        await base.run("tc", "-batch", "-", stdin="".join(f"{step}\n" for step in steps))
    if outward is None and there:
        await forget(tap)


async def forget(tap: str) -> None:
    """Remove what stood beside a tap; not an error when there is nothing."""
    if kernel.present(beside(tap)):
        await kernel.change([f"link delete {beside(tap)}"])


def _bucket(device: str, rate: int) -> str:
    burst = max(_LEAST_BURST, int(rate * _BURST))
    return f"qdisc replace dev {device} root tbf rate {rate * 8}bit burst {burst} latency {_QUEUE}"


async def _disciplines(device: str) -> set[str]:
    shown = await base.run("tc", "-json", "qdisc", "show", "dev", device)
    return {str(one["kind"]) for one in json.loads(shown or b"[]")}


async def _led(tap: str, ifb: str) -> bool:
    shown = await base.run("tc", "filter", "show", "dev", tap, "ingress")
    return f"to device {ifb})" in shown.decode(errors="replace")
