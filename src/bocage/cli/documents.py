"""Resources as YAML for people: written to be edited, read with YAML 1.2's few plain types.

YAML 1.1 would read the MAC address 52:54:00:12:34:56 as a number and `no` as false.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from bocage.cli import failure
from bocage.words import N_

API = "bocage/1"
_METADATA = ("name", "title", "notes", "tags", "protected")


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}


class _Dumper(yaml.SafeDumper):
    pass


for _tag, _pattern, _first in (
    ("tag:yaml.org,2002:bool", r"true|false", "tf"),
    ("tag:yaml.org,2002:int", r"-?(0|[1-9][0-9]{0,18})", "-0123456789"),
    ("tag:yaml.org,2002:float", r"-?(0|[1-9][0-9]*)\.[0-9]+", "-0123456789"),
    ("tag:yaml.org,2002:null", r"null|~|", ["n", "~", ""]),
):
    _Loader.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), list(_first))


def _string(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _string)


class NotYaml(failure.Error):
    type = "document-not-yaml"
    status = 422
    text = N_("{where} is no YAML document: {reason}")
    where: str
    reason: str


def editable(vm: dict[str, Any]) -> dict[str, Any]:
    """Of a VM as the API gives it what a person may change, and the spec."""
    about = {key: vm["metadata"].get(key) for key in _METADATA}
    return {"api": API, "kind": "VM", "metadata": about, "spec": vm["spec"]}


def write(document: Any) -> str:
    """The document as YAML, its fields in their own order."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def read(text: str, *, where: str) -> list[dict[str, Any]]:
    """The documents in a text; raises NotYaml."""
    try:
        found = [one for one in yaml.load_all(text, Loader=_Loader) if one is not None]
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise NotYaml(where=where, reason=at + (getattr(error, "problem", None) or str(error))) from error
    except RecursionError as error:
        raise NotYaml(where=where, reason="it is nested too deep") from error
    for one in found:
        if not isinstance(one, dict):
            raise NotYaml(where=where, reason="fields with values are expected, such as 'name: web1'")
    return found
