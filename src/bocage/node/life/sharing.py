"""Holds a running machine to its share of the host."""

from __future__ import annotations

import contextlib

from bocage import words
from bocage.engine import base as engine
from bocage.model import share, vm
from bocage.node.life import outcomes
from bocage.node.place.preparation import Preparation
from bocage.planner import shares
from bocage.planner.adaptation import Built

_ANY = "any number of"


async def hold(
    change: shares.Hold, built: Built, running: engine.Machine, machine: vm.VM, preparation: Preparation
) -> words.Message:
    """Carry out one change of what a machine is held to. Raises engine.CannotHold and others."""
    spec = built.spec
    match change:
        case shares.HoldCpu(cpu):
            await running.holding.cpu(cpu)
            return _cpu(cpu)
        case shares.HoldMemory(overhead, guest):
            if overhead is None:
                await running.holding.memory(None)
                return outcomes.MemoryIsNotBounded()
            most = shares.ceiling(guest, overhead, built.first.whole)
            await running.holding.memory(most)
            return outcomes.MemoryIsBounded(most=most)
        case shares.HoldDisks(limits):
            for disk in spec.disks:
                await running.holding.disk(disk.name, disk.limits, limits)
            return _io(limits)
        case shares.HoldDisk(disk, together):
            await running.holding.disk(disk.name, disk.limits, together)
            return _io(disk.limits)
        case shares.HoldNics(rate, nics):
            refused: list[engine.CannotHold] = []
            for nic in nics:
                try:
                    await preparation.rate_nic(machine, nic, rate)
                except engine.CannotHold as error:
                    refused.append(error)
            if refused:
                raise refused[0]
            return _rate(rate)
        case shares.HoldNic(nic, rate):
            await preparation.rate_nic(machine, nic, rate)
            return _rate(rate)


async def settle(running: engine.Machine, built: Built) -> None:
    """Bound the memory by what the guest has by now, when all that was asked of it is done."""
    if (overhead := built.spec.share.memory_overhead) is not None:
        with contextlib.suppress(engine.Error):  # told where it was asked for
            await running.holding.memory(shares.ceiling(built.spec.memory, overhead, built.first.whole))


def _cpu(cpu: share.Cpu) -> words.Message:
    cap = "any number of" if cpu.cap is None else f"{cpu.cap:g}"
    if cpu.node is not None:
        return outcomes.NodeIsHeld(weight=cpu.weight, cap=cap, node=cpu.node)
    return outcomes.CpuIsHeld(weight=cpu.weight, cap=cap, pin=cpu.pin or "all", reserve=f"{cpu.reserve:g}")


def _io(limits: share.Io) -> words.Message:
    return outcomes.IoIsHeld(iops=str(limits.iops or _ANY), rate=_bytes(limits.rate))


def _rate(rate: share.NetRate) -> words.Message:
    return outcomes.RateIsHeld(inward=_bytes(rate.inward), outward=_bytes(rate.outward))


def _bytes(rate: int | None) -> str:
    return "any number of bytes" if rate is None else words.size(rate)
