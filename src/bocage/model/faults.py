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
_CHOICE = re.compile(r"function-\w+\[.*\]|union-\w+")  # names of one of several forms: no part of the document
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


class Given(Fault):
    """One that repeats the value, shortened."""

    given: str


class NotText(Given):
    type = "fault-no-text"
    text = N_("{given} is no text")
    hint = N_("text")


class NotWhole(Given):
    type = "fault-no-whole-number"
    text = N_("{given} is no whole number")
    hint = N_("a whole number")


class NotNumber(Given):
    type = "fault-no-number"
    text = N_("{given} is no number")
    hint = N_("a number")


class NotTruth(Given):
    type = "fault-no-truth"
    text = N_("{given} is no truth value")
    hint = N_("true or false")


class NotObject(Given):
    type = "fault-no-object"
    text = N_("{given} is no object")
    hint = N_("a JSON object")


class NotList(Given):
    type = "fault-no-list"
    text = N_("{given} is no list")
    hint = N_("a JSON list")


class NotTime(Given):
    type = "fault-no-time"
    text = N_("{given} is no time")
    hint = N_("a time such as 2026-01-31T12:00:00Z")


class NotAllowed(Given):
    type = "fault-choice"
    text = N_("{given} is not one of the choices")
    hint = N_("one of {choices}")
    choices: str


class TooSmall(Given):
    type = "fault-too-small"
    text = N_("{given} is too small")
    hint = N_("{bound}")
    bound: str


class TooLarge(Given):
    type = "fault-too-large"
    text = N_("{given} is too large")
    hint = N_("{bound}")
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


class WrongForm(Given):
    type = "fault-form"
    text = N_("{given} does not have the right form")
    hint = N_("it matches {pattern}")
    pattern: str


class NoName(Given):
    type = "fault-no-name"
    text = N_("{given} is no name")
    hint = N_("lower-case letters, digits and hyphens inside, 63 at most, such as web1")


class NoTag(Given):
    type = "fault-no-tag"
    text = N_("{given} is no tag")
    hint = N_("up to 63 letters, digits and . : / = - _")


class NoLine(Given):
    type = "fault-no-line"
    text = N_("{given} is no plain line")
    hint = N_("one line without control characters")


class NoMac(Given):
    type = "fault-no-mac"
    text = N_("{given} is no MAC address")
    hint = N_("a unicast address in lower case, such as 52:54:00:12:34:56")


class NoPath(Given):
    type = "fault-no-path"
    text = N_("{given} is no absolute path")
    hint = N_("a path that begins with /")


class NoDigest(Given):
    type = "fault-no-digest"
    text = N_("{given} is no SHA-256 digest")
    hint = N_("64 hexadecimal digits in lower case")


class NoUrl(Given):
    type = "fault-no-url"
    text = N_("{given} is no web address")
    hint = N_("an address that begins with http:// or https://")


class NoUid(Given):
    type = "fault-no-uid"
    text = N_("{given} is no uid")
    hint = N_("a UUID in lower case, such as 5f0c9f1e-6f0a-4c53-9c1e-0d1f5a3f7c11")


class NotFinite(Given):
    type = "fault-not-finite"
    text = N_("{given} is no finite number")
    hint = N_("a finite number")


class Unfit(Fault):
    """What a check of our own refused, in its words."""

    type = "fault-unfit"
    text = N_("{said}")
    said: str


class NoUnit(Given):
    type = "fault-size"
    text = N_("{given}: {said}")
    hint = N_("a number with a unit, such as 512M, 2G or 1.5T")
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
    text = N_("there is no {kind:kind} {given}")
    hint = N_("'bocage {kind} list' shows what there is")
    kind: str
    given: str


class Taken(Given):
    """A value that only one VM may have and another has."""

    hint = N_("choose another")
    by: str


class MacTaken(Taken):
    type = "fault-mac-taken"
    text = N_("the MAC address {given} is that of {by}")


class VolumeTaken(Taken):
    type = "fault-volume-taken"
    text = N_("the volume {given} is a disk of {by}")


class SmbiosTaken(Taken):
    type = "fault-smbios-uuid-taken"
    text = N_("the SMBIOS uuid {given} is that of {by}")


@dataclasses.dataclass(frozen=True, slots=True)
class At:
    """A fault and the path of its field, such as `spec.disks.0.size`."""

    path: str
    fault: words.Message


_FORMS: dict[str, type[Given]] = {
    r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$": NoName,
    r"^[\w.:/=-]{1,63}$": NoTag,
    r"^[^\x00-\x1f\x7f]*$": NoLine,
    r"^[0-9a-f][02468ace](:[0-9a-f]{2}){5}$": NoMac,
    r"^/[^\x00-\x1f]*$": NoPath,
    r"^[0-9a-f]{64}$": NoDigest,
    r"^https?://": NoUrl,
    r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$": NoUid,
}
_TYPES: dict[str, type[Given]] = {
    "string_type": NotText,
    "int_type": NotWhole,
    "int_parsing": NotWhole,
    "int_parsing_size": NotWhole,
    "int_from_float": NotWhole,
    "float_type": NotNumber,
    "float_parsing": NotNumber,
    "bool_type": NotTruth,
    "bool_parsing": NotTruth,
    "dict_type": NotObject,
    "model_type": NotObject,
    "model_attributes_type": NotObject,
    "mapping_type": NotObject,
    "tuple_type": NotList,
    "list_type": NotList,
    "datetime_type": NotTime,
    "datetime_parsing": NotTime,
    "datetime_from_date_parsing": NotTime,
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
    parts = [str(part) for part in error["loc"]]
    path = ".".join([*([prefix] if prefix else []), *(part for part in parts if not _CHOICE.fullmatch(part))])
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
        return _TYPES[kind](given=given)
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
        return _FORMS[pattern](given=given) if pattern in _FORMS else WrongForm(given=given, pattern=pattern)
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
        return "{…}" if isinstance(value, dict) else "[…]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value[: _SHOWN + 1]) if isinstance(value, str) else str(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
