"""The store where many hosts look on: from a change until the last of 50 has seen it, and what is written at rest.

The store is that of three hosts as they are: etcd's members with fsync and TLS. Beside what the hosts keep there it has
the records of 2,000 VMs. Each onlooker is a store of its own, in processes beside the one that writes, as agents are.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import subprocess
import sys
import time

from tests.ground import init, machine
from tests.store import members

from bench import ground, measure, session
from bocage import home as homes
from bocage.membership import place
from bocage.store.etcd import access

_VMS, _ONLOOKERS, _PROCESSES = 2000, 50, 5
_CHANGES = 100
_MUST = 100.0  # ms
_SECONDS = 20.0  # of rest that are looked at
_PREFIX = "/bocage/1/vm/default/"
_NOTES = "x" * 600  # with the rest as much as a small VM's record has
_BOUND = 120.0
_AT_REST = """
import base64, collections, httpx, json, re, ssl, sys, time
papers, address, seconds = sys.argv[1:]
trusted = ssl.create_default_context(cafile=f"{papers}/ca.crt")
trusted.load_cert_chain(f"{papers}/host.crt", f"{papers}/host.key")
whole = {"key": "AA==", "range_end": "AA=="}
seen, over = collections.Counter(), time.monotonic() + float(seconds)
with httpx.Client(verify=trusted, base_url=f"https://{address}:2379/v3/", timeout=30.0) as etcd:
    with etcd.stream("POST", "watch", json={"create_request": whole}) as answer:
        for line in answer.iter_lines():
            for event in json.loads(line)["result"].get("events", ()):
                key = base64.b64decode(event["kv"]["key"]).decode()
                seen[re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|[0-9a-f]{32}", "*", key)] += 1
            if time.monotonic() > over:
                break
print(json.dumps(seen))
"""


def run(bench: session.Session) -> measure.Result:
    """The figure."""
    rest = _at_rest(bench.hosts)
    first = bench.hosts.machines[0]
    took: list[float] = json.loads(
        _said(first, "env", f"PYTHONPATH={machine.PROJECT}", sys.executable, "-m", "bench.watching")
    )
    others = sum(count for name, count in rest.items() if not _is_beat(name))
    rows = [
        measure.Row(
            figure="watching", what=f"a change → all {_ONLOOKERS} onlookers have seen it, {_VMS} VMs (p99)",
            unit="ms", ours=measure.percentile(took, 0.99), must=f"≤ {_MUST:g} ms", limit=_MUST,
            runs={"milliseconds": took},
        ),
        measure.Row(
            figure="watching", what="keys written by three hosts at rest that are no beats", unit="1/s",
            ours=others / _SECONDS, must="none", limit=0.0,
        ),
    ]  # fmt: skip
    written = ", ".join(f"{name} {count}" for name, count in sorted(rest.items()))
    return measure.Result(
        rows, [f"p50: {measure.median(took):.1f} ms", f"written at rest in {_SECONDS:g} s: {written}"]
    )


def _is_beat(key: str) -> bool:
    return "/beat/" in key or key.endswith("/rules")


def _at_rest(hosts: ground.Hosts) -> dict[str, int]:
    """How often each kind of key was written."""
    hosts.well()
    one = hosts.machines[0]
    line = (str(init.HOME / "cluster"), one.address, str(_SECONDS))
    found: dict[str, int] = json.loads(_said(one, sys.executable, "-c", _AT_REST, *line))
    return found


def _said(one: machine.Machine, *command: str) -> str:
    done = one.run(*command, within=_BOUND)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout


def main() -> None:
    """On a host: without arguments the one that writes; `ROOT FIRST` are some onlookers, their own member that one."""
    at = homes.Home.from_environment()
    told = place.read(at)
    assert told
    how = told.access(at)
    if len(sys.argv) > 1:
        root, first = sys.argv[1], int(sys.argv[2]) % len(how.members)
        asyncio.run(_look(dataclasses.replace(how, members=how.members[first:] + how.members[:first]), root))
    else:
        print(json.dumps(asyncio.run(_change(how))))


async def _change(how: access.Access) -> list[float]:
    """Milliseconds of each change, until the last onlooker has seen it."""
    root = members.new_root()
    await members.found(how, root)
    store = await members.opened(how, root)
    for begin in range(0, _VMS, 100):
        await store.apply(puts={f"{_PREFIX}{number}/spec": _value(0) for number in range(begin, begin + 100)})
    onlookers = [_onlookers(root, number) for number in range(_PROCESSES)]
    took = []
    try:
        for one in onlookers:
            await _line(one)  # all watch
        for number in range(_CHANGES):
            begun = time.monotonic()
            await store.apply(puts={f"{_PREFIX}{number * 7}/spec": _value(number + 1)})
            last = [float(await _line(one)) for one in onlookers]
            took.append((max(last) - begun) * 1000)
    finally:
        for one in onlookers:
            one.kill()
            one.wait()
        for begin in range(0, _VMS, 100):
            await store.apply(deletes=[f"{_PREFIX}{number}/spec" for number in range(begin, begin + 100)])
        await store.close()
    return took


def _onlookers(root: str, number: int) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "bench.watching", root, str(number)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, text=True)


def _value(number: int) -> bytes:
    return json.dumps({"number": number, "notes": _NOTES}).encode()


async def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    async with asyncio.timeout(_BOUND):
        return await asyncio.to_thread(process.stdout.readline)


async def _look(how: access.Access, root: str) -> None:
    """Say when the last of some onlookers has seen each change: the monotonic time, a line for each."""
    stores = [await members.opened(how, root, client=f"onlooker{number}") for number in range(_ONLOOKERS // _PROCESSES)]
    watches = [store.watch(_PREFIX, since=await store.revision()) for store in stores]
    coming = [asyncio.create_task(anext(watch)) for watch in watches]
    print("ready", flush=True)
    while True:
        for index, watch in enumerate(watches):
            await coming[index]
            coming[index] = asyncio.create_task(anext(watch))
        print(time.monotonic(), flush=True)


if __name__ == "__main__":
    main()
