import asyncio
import signal

from bocage import words
from bocage.engine.qemu import ending


async def test_an_exit_code_is_told(tmp_path):
    (tmp_path / "status").write_text('{"keeper-pid": 1}\n{"exit-code": 1}\n')
    ended = await ending.ended_how(tmp_path / "status")
    assert (ended.exit_code, ended.signal) == (1, None)
    assert words.say(ended.reason) == "QEMU ended with exit code 1"


async def test_a_signal_is_told_by_its_name(tmp_path):
    (tmp_path / "status").write_text('{ "child-pid": 5 }\n{ "exit-code": 139 }\n')
    ended = await ending.ended_how(tmp_path / "status", program="passt")
    assert ended.signal == signal.SIGSEGV
    assert words.say(ended.reason) == "passt was killed by signal SIGSEGV"


async def test_a_kill_is_for_lack_of_memory_only_when_the_group_counted_one(tmp_path):
    (tmp_path / "status").write_text('{"exit-code": 137}\n')
    assert not (await ending.ended_how(tmp_path / "status")).out_of_memory
    ended = await ending.ended_how(tmp_path / "status", oom_kills=1)
    assert ended.out_of_memory
    assert words.say(ended.reason) == "the kernel killed QEMU for lack of memory"


async def test_what_nobody_saw_is_unknown(tmp_path):
    assert isinstance((await ending.ended_how(tmp_path / "nothing")).reason, ending.EndUnknown)
    (tmp_path / "status").write_text('{"keeper-pid": true}\nrubbish\n[1]\n{"exit-code": "7"}\n')
    assert isinstance((await ending.ended_how(tmp_path / "status")).reason, ending.EndUnknown)


async def test_the_keepers_last_word_is_waited_for(tmp_path):
    status = tmp_path / "status"
    keeper = await asyncio.create_subprocess_exec(
        *("sh", "-c", f"read x; echo '{{\"exit-code\": 3}}' >>{status}"), stdin=asyncio.subprocess.PIPE
    )
    status.write_text(f'{{"keeper-pid": {keeper.pid}}}\n')
    asking = asyncio.create_task(ending.ended_how(status))
    await asyncio.sleep(0)
    await keeper.communicate(b"\n")
    assert (await asking).exit_code == 3


async def test_only_lines_of_this_run_are_its_last_ones(tmp_path):
    (tmp_path / "log").write_text("an earlier run's trouble\nfirst\nlast\n")
    (tmp_path / "status").write_text('{"keeper-pid": 1, "log-offset": 25}\n{"exit-code": 1}\n')
    ended = await ending.ended_how(tmp_path / "status", log=tmp_path / "log")
    assert ended.last_lines == ("first", "last")
