"""`script/cluster`: a ground to play with. Its hosts have homes and addresses of their own, whatever is set outside."""

from __future__ import annotations

import argparse
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from tests.ground import building, ground, kernel, machine


def main(arguments: Sequence[str]) -> int:
    asked = _parser().parse_args(arguments)
    root = pathlib.Path(os.environ.get("BOCAGE_GROUND") or ground.DEFAULT).absolute()
    if os.geteuid() != 0:
        print("cluster: only root makes namespaces", file=sys.stderr)
        return 1
    here = ground.Ground(root)
    try:
        code = asked.do(here, asked)
    except (ground.Refused, machine.Off, building.Failed) as problem:
        print(f"cluster: {problem}", file=sys.stderr)
        return 1
    return int(code or 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="script/cluster", description=__doc__)
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def verb(name: str, do: Callable[..., int | None], about: str, *, host: bool = True) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=about, description=about)
        made.set_defaults(do=do)
        if host:
            made.add_argument("host", metavar="HOST")
        return made

    up = verb("up", building.up, "Make hosts, join them, give them storage. Again: what is there stays.", host=False)
    up.add_argument("--hosts", type=int, default=3, metavar="N")
    up.add_argument("--storage", choices=["central", "local"], default="central")
    execute = verb("exec", _exec, "Run a command on a host: exec host1 -- bocage vm list")
    execute.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    verb("kill", _kill, "Cut the power of a host.")
    verb("cut", _cut, "Pull the network cable of a host.")
    verb("freeze", _freeze, "Have a host hang: it answers pings and does nothing.")
    verb("bmc-off", _bmc_off, "Have the BMC of a host dead.")
    verb("heal", _heal, "Power, network, BMC: all of a host is well again.")
    verb("status", _status, "What each host is like.", host=False)
    verb("down", _down, "Take it all away.", host=False)
    return parser


def _exec(here: ground.Ground, asked: argparse.Namespace) -> int:
    command = asked.command[1:] if asked.command[:1] == ["--"] else asked.command
    if not command:
        raise ground.Refused("exec host1 -- COMMAND")
    machine.replace_process(here.machine(asked.host), command)
    return 127


def _kill(here: ground.Ground, asked: argparse.Namespace) -> None:
    one = here.machine(asked.host)
    begin, count = time.monotonic(), len(one.pids())
    one.off()
    print(f"{one.name} has no power: {count} processes gone in {time.monotonic() - begin:.2f} s")


def _cut(here: ground.Ground, asked: argparse.Namespace) -> None:
    one = here.machine(asked.host)
    one.command()  # it has power
    one.cut()
    print(f"the network cable of {one.name} is out")


def _freeze(here: ground.Ground, asked: argparse.Namespace) -> None:
    one = here.machine(asked.host)
    one.command()
    one.groups.freeze()
    print(f"{one.name} hangs: {len(one.pids())} processes stand still")


def _bmc_off(here: ground.Ground, asked: argparse.Namespace) -> None:
    one = here.machine(asked.host)
    one.silence_bmc()
    print(f"the BMC of {one.name} answers nobody")


def _heal(here: ground.Ground, asked: argparse.Namespace) -> None:
    building.heal(here, here.machine(asked.host))


def _status(here: ground.Ground, asked: argparse.Namespace) -> None:
    print(f"{'HOST':8} {'ADDRESS':12} {'POWER':6} {'CABLE':6} {'STATE':7} {'BMC':8} DAEMON")
    for one in here.machines():
        power = one.power()
        frozen = power == "On" and one.groups.frozen()
        daemon = "-"
        if power == "On" and not frozen:
            daemon = "answers" if building.answers(one) else "silent"
        cable = "-" if power == "Off" else "in" if one.connected else "out"
        state = "-" if power == "Off" else "hangs" if frozen else "runs"
        bmc = "silent" if one.bmc_silent else "answers"
        print(f"{one.name:8} {one.address:12} {power.lower():6} {cable:6} {state:7} {bmc:8} {daemon}")


def _down(here: ground.Ground, asked: argparse.Namespace) -> None:
    begin = time.monotonic()
    there = here.exists or kernel.namespaces(here.switch)
    here.down()
    print(f"nothing is left of it ({time.monotonic() - begin:.1f} s)" if there else "there is no ground")


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except subprocess.CalledProcessError as failed:
        print(f"cluster: {failed}: {failed.stderr}", file=sys.stderr)
        sys.exit(1)
