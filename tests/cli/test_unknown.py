import re

import pytest

from bocage import words
from bocage.cli import app, foreign
from tests.cli.conftest import Bocage


def test_virsh_destroy_is_told_what_it_would_have_done(bocage: Bocage):
    ended = bocage("vm", "destroy", "web1")
    assert ended.code == 2
    assert "virsh's destroy pulls the plug; here 'bocage vm kill'. Nothing was done." in ended.err


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("vm undefine web1", "bocage vm delete"),
        ("vm dominfo web1", "bocage vm show"),
        ("vm domblklist web1", "bocage vm show"),
        ("vm shutdown web1", "bocage vm stop"),
        ("vm launch tiny web1", "bocage vm create NAME --image IMAGE --start"),
        ("incus exec web1 -- ls", "bocage vm exec"),
        ("Get-VM", "bocage vm list"),
        ("vm get-vm", "bocage vm list"),
        ("Stop-VM web1 -TurnOff", "bocage vm kill"),
        ("Start-VM", "bocage vm start"),
        ("qm list", "bocage vm list"),
        ("qm stop 100", "bocage vm kill"),
        ("qm destroy 100", "bocage vm delete"),
        ("virsh domstate x", "bocage vm show"),
        ("incus delete x", "bocage vm delete"),
        ("docker ps", "bocage vm list"),
        ("network destroy lan", "bocage network delete"),
    ],
)
def test_words_of_other_tools_lead_to_ours_and_do_nothing(bocage: Bocage, line: str, command: str):
    ended = bocage(*line.split())
    assert ended.code == 2
    assert f"'{command}'" in ended.err
    assert "Nothing was done." in ended.err


@pytest.mark.parametrize(
    ("line", "near"),
    [
        ("vm lst", "bocage vm list"),
        ("vm sart web1", "bocage vm start"),
        ("imagee list", "bocage image"),
        ("list", "bocage vm list"),
        ("console web1", "bocage vm console"),
        ("vm disk atach", "bocage vm disk attach"),
        ("vm disk add", "bocage vm disk attach"),
        ("vm disk remove web1", "bocage vm disk detach"),
        ("vm cd remove web1", "bocage vm cd eject"),
        ("vm remove web1", "bocage vm delete"),
        ("network add", "bocage network create"),
        ("image remove", "bocage image delete"),
        ("storage edit", "bocage storage set"),
        ("token revoke", "bocage token delete"),
        ("ls", "bocage vm list"),
        ("nets list", "bocage network"),
        ("datastores", "bocage storage"),
    ],
)
def test_a_misspelt_word_is_answered_with_the_nearest_of_ours(bocage: Bocage, line: str, near: str):
    ended = bocage(*line.split())
    assert ended.code == 2
    assert f"did you mean '{near}'" in ended.err


@pytest.mark.parametrize("line", ["backup", "vm backup web1", "vzdump 100", "qmrestore"])
def test_what_other_tools_have_and_this_one_has_not_yet_is_said(bocage: Bocage, line: str):
    ended = bocage(*line.split())
    assert ended.code == 2
    assert re.search("there are no backups yet. Nothing was done.", ended.err)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("vm create x --imag tiny", "did you mean '--image'?"),
        ("vm undelete x --purge", "'bocage vm undelete --help' shows how it is used"),
    ],
)
def test_a_misspelt_option_is_answered_with_the_nearest_or_with_the_help(bocage: Bocage, line: str, said: str):
    ended = bocage(*line.split())
    assert ended.code == 2
    assert ended.err.splitlines()[1].strip() == said


def test_a_word_that_is_like_none_of_ours_is_answered_with_where_to_look(bocage: Bocage):
    ended = bocage("vm", "xyzzy")
    assert (ended.code, ended.out) == (2, "")
    assert "'bocage vm --help'" in ended.err


def test_every_command_that_a_foreign_word_leads_to_is_one_of_ours():
    for table in (*foreign._BY_NOUN.values(), *foreign._BY_TOOL.values()):
        for word in table.values():
            group = app.NOUNS
            for part in word.here.rpartition("bocage ")[2].split():
                command = group.get_command(None, part)
                assert command is not None, f"{word.tool} {word.word}: {word.here}"
                if not hasattr(command, "sections"):
                    break
                group = command


def test_our_verbs_are_all_known_where_the_noun_was_forgotten():
    assert frozenset(app.NOUNS.get_command(None, "vm").list_commands(None)) == foreign.OUR_VM_VERBS


def test_every_sentence_can_be_said():
    for word in foreign._BY_NOUN["vm"].values():
        from bocage.cli import unknown

        assert "Nothing was done." in words.say(unknown._elsewhere(word))
