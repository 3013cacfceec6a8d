from __future__ import annotations

import dataclasses
import importlib
import io
import pathlib
import pkgutil
import string

import pytest
from babel.messages import catalog, extract, mofile

import bocage
from bocage import errors, words

SOURCE = pathlib.Path(bocage.__file__).parent


def every_type() -> dict[str, type[words.Message]]:
    """All message types of the program: two modules of one process that declare the same one fail to import."""
    for module in pkgutil.walk_packages(bocage.__path__, "bocage."):
        if not module.name.endswith("__main__") and "_kvm_probe" not in module.name:
            importlib.import_module(module.name)
    return {name: cls for name, cls in words.known_types().items() if cls.__module__.startswith("bocage.")}


def test_every_message_fills_its_sentence_and_hint_from_its_own_fields():
    for name, cls in every_type().items():
        fields = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        for text in (cls.text, cls.hint):
            used = {part[1].split(".")[0] for part in string.Formatter().parse(text) if part[1]}
            assert used <= fields, (name, text, used - fields)


def test_every_problem_has_a_sentence_and_a_status_that_http_knows():
    problems = [cls for cls in every_type().values() if issubclass(cls, errors.Problem)]
    assert len(problems) > 100
    for cls in problems:
        assert cls.text, cls
        assert 400 <= cls.status < 600, cls


def test_every_sentence_is_found_by_the_catalogues_tools():
    found = set()
    for path in SOURCE.rglob("*.py"):
        with path.open("rb") as file:
            found |= {message[1] for message in extract.extract("python", file, keywords={"N_": None})}
    missing = [
        (name, text)
        for name, cls in every_type().items()
        for text in (cls.text, cls.hint)
        if text and text not in found
    ]
    assert missing == []


class Greeting(words.Message):
    type = "test-greeting"
    text = words.N_("{name} has {room:size} free")
    name: str
    room: int


def test_a_catalogue_gives_the_sentence_in_the_readers_language(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
):
    french = catalog.Catalog(locale="fr")
    french.add(Greeting.text, "{name} a {room:size} de libre")
    compiled = io.BytesIO()
    mofile.write_mo(compiled, french)
    place = tmp_path / "fr" / "LC_MESSAGES"
    place.mkdir(parents=True)
    (place / "bocage.mo").write_bytes(compiled.getvalue())
    monkeypatch.setattr(words, "LOCALE_DIR", tmp_path)
    words._catalogue.cache_clear()
    token = words.language.set("fr")
    try:
        assert words.say(Greeting(name="local", room=3 << 30)) == "local a 3G de libre"
    finally:
        words.language.reset(token)
        words._catalogue.cache_clear()
    assert words.say(Greeting(name="local", room=3 << 30)) == "local has 3G free"


def test_a_message_comes_back_from_its_type_and_parameters():
    kept = Greeting(name="local", room=5)
    back = words.revive(kept.type, kept.params)
    assert words.say(back) == words.say(kept)


def test_a_message_of_another_version_is_shown_as_it_is():
    assert "x-unheard-of" in words.say(words.revive("x-unheard-of", {"a": 1}))
    assert "test-greeting" in words.say(words.revive("test-greeting", {"other": 1}))


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0B"), (1023, "1023B"), (1 << 20, "1M"), (1536 << 20, "1.5G"), (12 << 40, "12T")]
)
def test_sizes_are_said_in_three_digits(count: int, said: str):
    assert words.size(count) == said


def test_a_message_inside_another_is_told_by_its_own_sentence():
    over = words.revive(
        "alarm-cleared", {"condition": {"type": "alarm-stays-down", "params": {"name": "web1"}}, "name": "web1"}
    )
    assert words.say(over) == "no longer so: web1 should run and does not"
    old = words.revive("alarm-cleared", {"condition": "alarm-stays-down", "name": "web1"})
    assert words.say(old) == "no longer so: alarm-stays-down"


@pytest.mark.parametrize(
    ("asker", "said"),
    [("unix:0", "root"), ("unix:3999999999", "uid 3999999999"), ("token:backup", "token backup"), ("bocage", "bocage")],
)
def test_who_asked_is_told_by_a_name(asker: str, said: str):
    assert words.asker(asker) == said
