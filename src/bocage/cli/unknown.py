"""What to say to a word that is no noun or verb of ours: the nearest of ours, or what another tool's word is here."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from bocage import errors
from bocage.cli import foreign
from bocage.words import N_


class Error(errors.Invalid):
    """A word that the command line does not know."""


class UnknownVerb(Error):
    type = "unknown-verb"
    text = N_("there is no '{command}'")
    hint = N_("'{path} --help' shows what there is")
    command: str
    path: str


class DidYouMean(Error):
    type = "unknown-verb-near"
    text = N_("there is no '{command}'")
    hint = N_("did you mean {nearest}?")
    command: str
    nearest: str


class SaidElsewhere(Error):
    type = "word-of-another-tool"
    text = N_("{tool}'s {word} is here '{command}'. Nothing was done.")
    tool: str
    word: str
    command: str


class MeansElsewhere(Error):
    type = "word-of-another-tool-warned"
    text = N_("{tool}'s {word} {meaning}; here '{command}'. Nothing was done.")
    tool: str
    word: str
    meaning: str
    command: str


class NotYet(Error):
    type = "word-of-what-is-not-there-yet"
    text = N_("there are no {what} yet. Nothing was done.")
    hint = N_("'bocage vm clone' and 'bocage vm export' copy a VM that is stopped")
    what: str


def verb(noun: str, words: Sequence[str], known: Sequence[str]) -> Error:
    """The error for the first of `words`, said where `noun` expects one of `known`."""
    word = words[0]
    path = noun if noun == "bocage" else f"bocage {noun}"
    command = f"{path} {word}"
    if noun == "bocage" and word in foreign.TOOLS:
        return _of_tool(word, words[1:])
    if what := foreign.NOT_YET.get(word.lower()):
        return NotYet(what=what)
    if said := foreign.find(word, within=noun):
        return _elsewhere(said)
    if noun == "bocage" and word in foreign.OUR_VM_VERBS:
        return DidYouMean(command=command, nearest=f"'bocage vm {word}'")
    if ours := foreign.everyday(word.lower(), known):
        return DidYouMean(command=command, nearest=f"'{path} {ours}'")
    if noun == "bocage" and (ours := foreign.everyday(word.lower(), foreign.OUR_VM_VERBS)):
        return DidYouMean(command=command, nearest=f"'bocage vm {ours}'")
    if near := _nearest(word.lower(), known):
        return DidYouMean(command=command, nearest=" or ".join(f"'{path} {one}'" for one in near))
    return UnknownVerb(command=command, path=path)


def _of_tool(tool: str, words: Sequence[str]) -> Error:
    word = next((one for one in words if not one.startswith("-")), "")
    if what := foreign.NOT_YET.get(word.lower()):
        return NotYet(what=what)
    if said := foreign.of_tool(tool, word):
        return _elsewhere(said)
    ours = f"bocage vm {word}" if word in foreign.OUR_VM_VERBS else "bocage vm"
    return SaidElsewhere(tool=tool, word=word or "command", command=ours)


def _elsewhere(said: foreign.Word) -> Error:
    if said.meaning:
        return MeansElsewhere(tool=said.tool, word=said.word, meaning=said.meaning, command=said.here)
    return SaidElsewhere(tool=said.tool, word=said.word, command=said.here)


def _nearest(word: str, known: Sequence[str]) -> list[str]:
    """The likeliest one or two: a second only where it is about as near as the first."""
    near = difflib.get_close_matches(word, known, n=2, cutoff=0.6)
    scores = [difflib.SequenceMatcher(None, one, word).ratio() for one in near]
    return [one for one, score in zip(near, scores, strict=True) if score > scores[0] - 0.1]
