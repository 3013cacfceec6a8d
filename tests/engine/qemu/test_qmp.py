import asyncio
import contextlib
import os
import signal
import socket

import pytest
import uvloop

from bocage import errors
from bocage.engine.qemu import processes, qmp
from tests.engine.qemu import running


async def test_a_command_returns_what_qemu_says(machine):
    _, monitor = machine
    assert (await monitor.execute("query-status"))["status"] == "prelaunch"
    assert await monitor.execute("query-name") == {}
    assert monitor.version >= (7, 2, 0)


async def test_a_refused_command_says_which_and_why(machine):
    _, monitor = machine
    with pytest.raises(qmp.CommandFailed) as caught:
        await monitor.execute("blockdev-del", {"node-name": "none"})
    assert (caught.value.command, caught.value.kind) == ("blockdev-del", "GenericError")
    assert "none" in caught.value.description
    assert caught.value.status == 409


async def test_events_come_in_order_and_by_name(machine):
    _, monitor = machine
    heard = []
    stop = monitor.listen(lambda event: heard.append(event.name))
    with monitor.events("STOP") as events:
        await monitor.execute("cont")
        await monitor.execute("stop")
        event = await asyncio.wait_for(anext(events), 5)
    assert event.name == "STOP"
    assert event.at > 1.6e9
    stop()
    await monitor.execute("cont")
    assert heard == ["RESUME", "STOP"]


async def test_events_that_nobody_asked_for_are_not_kept(machine):
    _, monitor = machine
    with monitor.events("STOP") as events:
        await monitor.execute("cont")
        await monitor.execute("stop")
        await asyncio.wait_for(anext(events), 5)
    assert monitor._client.events.empty()


async def test_a_listener_given_at_connection_misses_nothing(ground, start):
    await start(*running.qemu(ground))
    heard: asyncio.Queue[qmp.Event] = asyncio.Queue()
    async with await qmp.connect(ground / "vm" / "qmp", within=20, on_event=heard.put_nowait) as monitor:
        await monitor.execute("cont")
        assert (await asyncio.wait_for(heard.get(), 5)).name == "RESUME"


@pytest.mark.fault
async def test_a_qemu_that_hangs_gives_a_time_out_and_nothing_else(machine):
    process, monitor = machine
    signal.pidfd_send_signal(process.pidfd, signal.SIGSTOP)
    for _ in range(3):
        with pytest.raises(qmp.TimedOut) as caught:
            await monitor.execute("query-status", within=0.05)
        assert isinstance(caught.value, errors.TimedOut)
        assert caught.value.what == "query-status"
    assert monitor.connected
    signal.pidfd_send_signal(process.pidfd, signal.SIGCONT)
    assert (await monitor.execute("query-status"))["status"] == "prelaunch"


@pytest.mark.fault
async def test_a_monitor_of_a_qemu_that_hangs_can_be_closed(machine):
    process, monitor = machine
    signal.pidfd_send_signal(process.pidfd, signal.SIGSTOP)
    with pytest.raises(qmp.TimedOut):
        await monitor.execute("query-status", within=0.05)
    await asyncio.wait_for(monitor.close(), 5)
    assert not monitor.connected


@pytest.mark.fault
async def test_a_flooded_monitor_of_a_qemu_that_hangs_can_be_closed(machine):
    process, monitor = machine
    signal.pidfd_send_signal(process.pidfd, signal.SIGSTOP)
    flood = {"node-name": "x" * 1_000_000}
    for _ in range(3):
        with pytest.raises(qmp.TimedOut):
            await monitor.execute("blockdev-del", flood, within=0.05)
    with pytest.raises(qmp.TimedOut):
        await monitor.name_descriptor(0, "x", within=0.05)
    await asyncio.wait_for(monitor.close(), 5)


@pytest.mark.fault
async def test_the_end_of_qemu_is_told_to_all_who_wait(machine):
    process, monitor = machine
    signal.pidfd_send_signal(process.pidfd, signal.SIGSTOP)
    waiting = asyncio.create_task(monitor.execute("query-status"))
    with monitor.events() as events:
        listening = asyncio.create_task(anext(events))
        await asyncio.sleep(0)
        signal.pidfd_send_signal(process.pidfd, signal.SIGKILL)
        await asyncio.wait_for(monitor.disconnected, 5)
        for task in (waiting, listening):
            with pytest.raises(qmp.Disconnected):
                await task
    assert not monitor.connected
    with pytest.raises(qmp.Disconnected):
        await monitor.execute("query-status")
    with pytest.raises(qmp.Disconnected):
        await monitor.add_descriptor(0)


async def test_a_connection_is_made_again_after_it_was_closed(machine, ground):
    _, monitor = machine
    await monitor.close()
    async with await qmp.connect(ground / "vm" / "qmp", within=5) as again:
        assert (await again.execute("query-status"))["status"] == "prelaunch"


async def test_a_second_connection_beside_the_first_times_out(machine, ground):
    with pytest.raises(qmp.TimedOut):
        await qmp.connect(ground / "vm" / "qmp", within=0.1)


async def test_descriptors_are_passed_and_used(machine, ground):
    _, monitor = machine
    disk = ground / "disk"
    disk.write_bytes(bytes(1 << 20))
    descriptor = os.open(disk, os.O_RDWR)
    number = await monitor.add_descriptor(descriptor)
    os.close(descriptor)
    await monitor.execute("blockdev-add", {"driver": "file", "filename": f"/dev/fdset/{number}", "node-name": "disk"})
    assert (await monitor.execute("query-named-block-nodes"))[0]["image"]["virtual-size"] == 1 << 20

    reading, writing = os.pipe()
    await asyncio.gather(monitor.name_descriptor(writing, "one"), monitor.name_descriptor(reading, "two"))
    await monitor.execute("closefd", {"fdname": "one"})
    with pytest.raises(qmp.CommandFailed):
        await monitor.execute("closefd", {"fdname": "one"})
    await monitor.execute("closefd", {"fdname": "two"})
    os.close(reading)
    os.close(writing)


async def test_commands_of_several_at_once_do_not_mix(machine):
    _, monitor = machine
    names = ("query-status", "query-version", "query-name", "query-uuid") * 10
    answers = await asyncio.gather(*(monitor.execute(name) for name in names))
    keys = {"query-status": "running", "query-version": "qemu", "query-uuid": "UUID"}
    assert all(keys.get(name, "") in answer or answer == {} for name, answer in zip(names, answers, strict=True))


async def test_a_cancelled_command_leaves_the_monitor_usable(machine):
    _, monitor = machine
    asking = asyncio.create_task(monitor.execute("query-status"))
    await asyncio.sleep(0)
    asking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asking
    assert "running" in await monitor.execute("query-status")


async def test_the_wait_for_the_socket_ends_with_the_process(ground, start):
    process = await start("false")
    ended = asyncio.ensure_future(processes.wait_exit(process.pidfd))
    with pytest.raises(qmp.NoMonitor):
        await qmp.connect(ground / "vm" / "qmp", within=20, ended=ended)


async def test_the_wait_for_the_socket_ends_at_its_bound(ground):
    with pytest.raises(qmp.TimedOut):
        await qmp.connect(ground / "qmp", within=0.05)


async def test_a_stranger_on_the_socket_is_no_monitor(ground):
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(ground / "qmp"))
        listening.listen()
        connecting = asyncio.create_task(qmp.connect(ground / "qmp", within=5))
        accepted, _ = await asyncio.to_thread(listening.accept)
        with accepted:
            accepted.sendall(b'{"hello": "world"}\n')
            with pytest.raises(qmp.NoMonitor):
                await connecting


async def test_it_works_on_the_loop_of_the_daemon_too(ground, start):
    """Passing a descriptor and watching a pidfd touch what uvloop does in its own way."""
    await start(*running.qemu(ground))

    async def work():
        monitor = await qmp.connect(ground / "vm" / "qmp", within=20)
        number = await monitor.add_descriptor(0)
        await monitor.close()
        return number

    def run():
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(work())

    assert await asyncio.to_thread(run) == 0
