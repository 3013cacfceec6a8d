"""What is wrong with the fields of a document: each fault with its path, what is wrong, what would be right."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

from bocage import errors, words
from bocage.words import N_

MOST = 50  # faults that are told of one document
_SHOWN = 60  # characters of a wrong value that are repeated
_SECRET = frozenset({"password", "hash"})  # fields whose values are never repeated
_FIELD_FIRST = re.compile(r"([a-z_]+): (.+)", re.DOTALL)


class Fault(words.Message):
    """One field that does not hold: the text says what is wrong, the hint what would be right."""


class Missing(Fault):
    type = "fault-missing"
    text = N_("it is missing")
    hint = N_("give a value")


class Surplus(Fault):
    type = "fault-surplus"
    text = N_("there is no such field")
    hint = N_("leave it out, or look for a misspelling")


class WrongType(Fault):
    type = "fault-type"
    text = N_("{given} is no {wanted}")
    hint = N_("{wanted}")
    given: str
    wanted: str


class NotAllowed(Fault):
    type = "fault-choice"
    text = N_("{given} is not one of the choices")
    hint = N_("one of {choices}")
    given: str
    choices: str


class TooSmall(Fault):
    type = "fault-too-small"
    text = N_("{given} is too small")
    hint = N_("{bound}")
    given: str
    bound: str


class TooLarge(Fault):
    type = "fault-too-large"
    text = N_("{given} is too large")
    hint = N_("{bound}")
    given: str
    bound: str


class TooShort(Fault):
    type = "fault-too-short"
    text = N_("it is too short")
    hint = N_("{least} or more")
    least: int


class TooLong(Fault):
    type = "fault-too-long"
    text = N_("it is too long")
    hint = N_("{most} at most")
    most: int


class WrongForm(Fault):
    type = "fault-form"
    text = N_("{given} does not have the right form")
    hint = N_("{form}")
    given: str
    form: str


class NotFinite(Fault):
    type = "fault-not-finite"
    text = N_("{given} is no finite number")
    hint = N_("a finite number")
    given: str


class Unfit(Fault):
    """What a check of our own refused, in its words."""

    type = "fault-unfit"
    text = N_("{said}")
    hint = N_("see what it says")
    said: str


class NoUnit(Fault):
    type = "fault-size"
    text = N_("{given}: {said}")
    hint = N_("a number with a unit, such as 512M, 2G or 1.5T")
    given: str
    said: str


class Fixed(Fault):
    """A field that people cannot change this way."""

    type = "fault-fixed"
    text = N_("it cannot be changed to {given}")
    hint = N_("{present}")
    given: str
    present: str


class Unknown(Fault):
    """A reference to what is not there."""

    type = "fault-reference"
    text = N_("there is no {kind} {given}")
    hint = N_("'bocage {kind} list' shows what there is")
    kind: str
    given: str


class Taken(Fault):
    """A value that must be unique and is another's."""

    type = "fault-taken"
    text = N_("{what} {given} is in use by {by}")
    hint = N_("choose another, or leave it out")
    what: str
    given: str
    by: str


@dataclasses.dataclass(frozen=True, slots=True)
class At:
    """A fault and the path of its field, such as `spec.disks.0.size`."""

    path: str
    fault: words.Message


_FORMS = {
    r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$": N_("lower-case letters, digits and hyphens inside, 63 at most: web1"),
    r"^[\w.:/=-]{1,63}$": N_("up to 63 letters, digits and . : / = - _"),
    r"^[^\x00-\x1f\x7f]*$": N_("one line without control characters"),
    r"^[0-9a-f][02468ace](:[0-9a-f]{2}){5}$": N_("a unicast MAC address in lower case: 52:54:00:12:34:56"),
    r"^/[^\x00-\x1f]*$": N_("an absolute path"),
    r"^[0-9a-f]{64}$": N_("64 hexadecimal digits in lower case"),
    r"^https?://": N_("an address that begins with http:// or https://"),
}
_TYPES = {
    "string_type": N_("text"),
    "int_type": N_("whole number"),
    "int_parsing": N_("whole number"),
    "int_parsing_size": N_("whole number of a sane size"),
    "int_from_float": N_("whole number"),
    "float_type": N_("number"),
    "float_parsing": N_("number"),
    "bool_type": N_("true or false"),
    "bool_parsing": N_("true or false"),
    "dict_type": N_("object"),
    "model_type": N_("object"),
    "model_attributes_type": N_("JSON object"),
    "mapping_type": N_("object"),
    "tuple_type": N_("list"),
    "list_type": N_("list"),
    "datetime_type": N_("time such as 2026-01-31T12:00:00Z"),
    "datetime_parsing": N_("time such as 2026-01-31T12:00:00Z"),
    "datetime_from_date_parsing": N_("time such as 2026-01-31T12:00:00Z"),
}


def problem(faults: Iterable[At], *, summary: str = "") -> errors.InvalidFields:
    """The problem that tells these faults, the first of them in its sentence."""
    found = list(faults)[:MOST]
    told = [{"path": at.path, "wrong": words.say(at.fault), "right": words.advise(at.fault)} for at in found]
    if not summary and told:
        first = told[0]
        summary = f"{first['path']}: {first['wrong']}" if first["path"] else first["wrong"]
    return errors.InvalidFields(summary=summary, faults=told)


def read(found: Iterable[Mapping[str, Any]], *, prefix: str = "") -> list[At]:
    """The faults in pydantic's list of errors (`ValidationError.errors()`)."""
    return [_read(one, prefix) for one in found]


def _read(error: Mapping[str, Any], prefix: str) -> At:
    path = ".".join([*([prefix] if prefix else []), *(str(part) for part in error["loc"])])
    kind, context, given = error["type"], error.get("ctx") or {}, _shown(error.get("input"))
    if error["loc"] and error["loc"][-1] in _SECRET:
        given = "…"
    if kind == "value_error":
        return _own_words(path, str(context.get("error", error["msg"])))
    return At(path, _fault(kind, context, given, str(error["msg"])))


def _fault(kind: str, context: Mapping[str, Any], given: str, said: str) -> words.Message:
    if kind == "missing":
        return Missing()
    if kind == "extra_forbidden":
        return Surplus()
    if kind in _TYPES:
        return WrongType(given=given, wanted=_TYPES[kind])
    if kind in ("literal_error", "enum"):
        return NotAllowed(given=given, choices=str(context.get("expected", "")))
    if kind in ("greater_than_equal", "greater_than"):
        bound = context.get("ge", context.get("gt"))
        return TooSmall(given=given, bound=f"≥ {bound}" if "ge" in context else f"> {bound}")
    if kind in ("less_than_equal", "less_than"):
        bound = context.get("le", context.get("lt"))
        return TooLarge(given=given, bound=f"≤ {bound}" if "le" in context else f"< {bound}")
    if kind in ("too_short", "string_too_short"):
        return TooShort(least=int(context["min_length"]))
    if kind in ("too_long", "string_too_long"):
        return TooLong(most=int(context["max_length"]))
    if kind == "string_pattern_mismatch":
        pattern = str(context.get("pattern"))
        return WrongForm(given=given, form=_FORMS.get(pattern, pattern))
    if kind == "finite_number":
        return NotFinite(given=given)
    if kind == "size":
        return NoUnit(given=given, said=said)
    return Unfit(said=said)


def _own_words(path: str, said: str) -> At:
    """A validator's sentence; one that begins with a field's name tells more of the path."""
    if match := _FIELD_FIRST.fullmatch(said):
        return At(f"{path}.{match[1]}" if path else match[1], Unfit(said=match[2]))
    return At(path, Unfit(said=said))


def _shown(value: Any) -> str:
    if isinstance(value, (dict, list, tuple)):
        return "an object" if isinstance(value, dict) else "a list"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value[: _SHOWN + 1]) if isinstance(value, str) else str(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
