import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from bocage.cli import app
from tests.cli.conftest import Bocage

NOUNS = "vm image storage volume network host os template task events alarm token adopt why doctor daemon version"
VM_VERBS = (
    "create list show start stop kill reboot reset pause resume save delete undelete rename clone export import "
    "migrate set edit apply diff command console log screenshot sendkey disk nic usb cd floppy upgrade-hardware "
    "snapshot flatten top stats isolation exec cp passwd rescue"
)


def lines(group: Any = app.NOUNS, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield before
    for verb in group.list_commands(None):
        command = group.get_command(None, verb)
        if hasattr(command, "sections"):
            yield from lines(command, (*before, verb))
        else:
            yield (*before, verb)


def test_all_nouns_and_verbs_that_are_promised_are_there():
    assert set(NOUNS.split()) <= set(app.NOUNS.list_commands(None))
    assert set(VM_VERBS.split()) == set(app.NOUNS.get_command(None, "vm").list_commands(None))


@pytest.mark.parametrize("line", list(lines()), ids=" ".join)
def test_help_fits_80_columns_and_names_the_command(bocage: Bocage, line: tuple[str, ...]):
    ended = bocage(*line, "--help")
    assert ended.code == 0
    assert ended.out.startswith("Usage: " + " ".join(("bocage", *line)))
    assert max(map(len, ended.out.splitlines())) <= 80
    assert "<str>" not in ended.out


def verb_of(words: list[str]) -> tuple[Any, list[str]]:
    """The command that a line names, and what follows."""
    found = app.NOUNS
    while hasattr(found, "sections"):
        found, words = found.get_command(None, words[0]), words[1:]
        assert found, words
    return found, words


@pytest.mark.parametrize("line", [line for line in lines() if line], ids=" ".join)
def test_the_examples_of_a_command_are_commands_with_options_that_there_are(line: tuple[str, ...]):
    command = app.NOUNS
    for word in line:
        command = command.get_command(None, word)
    if not hasattr(command, "sections"):
        assert command.examples, line
    for example in command.examples.splitlines():
        for call in re.findall(r"(?<![\w/.-])bocage ([^|&]+)", example):
            verb, words = verb_of(shlex.split(call))
            known = {name for param in verb.params for name in (*param.opts, *param.secondary_opts)}
            ours = words[: words.index("--")] if "--" in words else words  # what follows is another program's
            given = {word.partition("=")[0] for word in ours if re.match("--?[a-z]", word)}
            assert given <= known, example


def test_a_noun_alone_shows_its_help_as_a_usage_error(bocage: Bocage):
    ended = bocage("vm")
    assert (ended.code, ended.out) == (2, "")
    assert "console" in ended.err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("vm start", "missing argument 'NAME...'"),
        ("vm list --colour", "no such option: --colour"),
        ("vm create a b", "unexpected extra argument"),
        ("vm stop web1 --within soon", "--within"),
    ],
)
def test_a_wrong_use_is_told_once_with_where_help_is(bocage: Bocage, line: str, said: str):
    ended = bocage(*line.split())
    assert ended.code == 2
    assert said in ended.err
    assert ended.err.count("--help' shows how it is used") == 1
    assert "Traceback" not in ended.err


def test_listing_vms_imports_nothing_that_it_does_not_need():
    """The figure for `bocage vm list` hangs on it: each of these takes 50 to 110 ms to import."""
    program = (
        "import sys; from bocage import cli; cli.main(['vm', 'list']); "
        "print([name for name in ('pydantic', 'rich', 'httpx', 'yaml', 'asyncio') if name in sys.modules])"
    )
    environment = {"BOCAGE_URL": "unix:///nowhere/api.sock"}
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert ended.stdout.strip() == "[]"
    assert "does not answer" in ended.stderr
