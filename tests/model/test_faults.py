"""What is wrong with a document's fields, told field by field."""

import dataclasses
from typing import Any

import pydantic
import pytest

from bocage import words
from bocage.model import faults, requests


def _faults() -> list[type[words.Message]]:
    return [cls for cls in words.known_types().values() if issubclass(cls, faults.Fault)]


@pytest.mark.parametrize("cls", _faults())
def test_every_fault_says_what_is_wrong_and_what_would_be_right(cls):
    fault = cls(**{field.name: 1 for field in dataclasses.fields(cls)})
    assert words.say(fault)
    assert words.advise(fault) or cls is faults.Unfit, "whose words say both"


def read(**fields: Any) -> dict[str, faults.At]:
    with pytest.raises(pydantic.ValidationError) as refused:
        requests.VMCreate.model_validate({"name": "web1", **fields})
    return {at.path: at for at in faults.read(refused.value.errors(include_url=False))}


@pytest.mark.parametrize(
    ("fields", "path", "cls"),
    [
        ({"name": None}, "name", faults.NotText),
        ({"name": "Web"}, "name", faults.NoName),
        ({"name": 7}, "name", faults.NotText),
        ({"memory": 512}, "memory", faults.NoUnit),
        ({"cpus": "2"}, "cpus", faults.NotObject),
        ({"cpus": True}, "cpus", faults.NotObject),
        ({"cpus": 0}, "cpus.cores", faults.TooSmall),
        ({"cpus": 256}, "cpus.cores", faults.TooLarge),
        ({"cpus": {"sockets": 10, "cores": 25}}, "cpus", faults.Unfit),
        ({"cpus": {"cores": "x"}}, "cpus.cores", faults.NotWhole),
        ({"cpus": {"cores": 0}}, "cpus.cores", faults.TooSmall),
        ({"cpus": {"cores": 256}}, "cpus.cores", faults.TooLarge),
        ({"cpus": {"cores": 255, "sockets": 2}}, "cpus", faults.Unfit),
        ({"tags": "x"}, "tags", faults.NotList),
        ({"tags": ["a"] * 65}, "tags", faults.TooLong),
        ({"tags": ["a b"]}, "tags.0", faults.NoTag),
        ({"title": "a" * 201}, "title", faults.TooLong),
        ({"title": "a\nb"}, "title", faults.NoLine),
        ({"machine": "microvm"}, "machine", faults.NotAllowed),
        ({"firmware": "efi"}, "firmware", faults.NotAllowed),
        ({"protected": "perhaps"}, "protected", faults.NotTruth),
        ({"stop": {"within": "long"}}, "stop.within", faults.NotNumber),
        ({"stop": {"within": float("nan")}}, "stop.within", faults.NotFinite),
        ({"nics": [{"mac": "x"}]}, "nics.0.mac", faults.NoMac),
        ({"seed": {"password": ""}}, "seed.password", faults.TooShort),
        ({"nothing": 1}, "nothing", faults.Surplus),
    ],
)
def test_each_kind_of_mistake_is_known_by_its_path_and_type(fields, path, cls):
    assert type(read(**fields)[path].fault) is cls


def test_a_missing_field_is_named():
    with pytest.raises(pydantic.ValidationError) as refused:
        requests.VMCreate.model_validate({})
    [at] = faults.read(refused.value.errors(include_url=False), prefix="request")
    assert (at.path, type(at.fault)) == ("request.name", faults.Missing)


def test_the_form_that_a_value_was_read_as_is_no_part_of_the_path():
    assert isinstance(read(disk="9E")["disk"].fault, faults.NotObject | faults.NoUnit)
    assert isinstance(read(disk={"size": "9E"})["disk.size"].fault, faults.NoUnit)


def test_a_long_value_is_repeated_in_part_and_a_secret_never():
    said = words.say(read(name="A" * 1_000_000)["name"].fault)
    assert len(said) < 120
    assert "hunter2" not in str(read(seed={"password": ["hunter2"]})["seed.password"].fault.params)


def test_a_check_of_our_own_that_names_a_field_tells_it_in_the_path():
    error = {"type": "value_error", "loc": ("spec",), "msg": "", "input": {}, "ctx": {"error": "boot: no such device"}}
    [at] = faults.read([error])
    assert (at.path, words.say(at.fault)) == ("spec.boot", "no such device")


def test_a_problem_has_all_faults_up_to_a_bound_and_the_first_in_its_sentence():
    found = [faults.At(f"tags.{number}", faults.Missing()) for number in range(200)]
    problem = faults.problem(found)
    assert len(problem.faults) == faults.MOST
    assert str(problem) == "tags.0: it is missing"
    assert problem.faults[0] == {"path": "tags.0", "wrong": "it is missing", "right": "give a value"}
