"""What the program says: types with parameters, whose sentence comes from a catalogue when it is shown.

Errors, events, alarms, task steps and a planner's reasons are all a `Message`. Programs look at its
`type` and its fields; people read `say(message)`.
"""

from __future__ import annotations

import contextvars
import dataclasses
import functools
import gettext
import pathlib
import pwd
import string
from typing import Any, ClassVar, dataclass_transform

LOCALE_DIR = pathlib.Path(__file__).parent / "locale"

language: contextvars.ContextVar[str] = contextvars.ContextVar("language", default="en")
"""The reader's language, an IETF tag such as `en` or `fr`; set per request."""

_types: dict[str, type[Message]] = {}


def N_(text: str) -> str:  # noqa: N802 - gettext's own name for "translate later"
    """Mark `text` for the catalogue; it is looked up when it is shown."""
    return text


@dataclass_transform(eq_default=False)
class Message:
    """A sentence with parameters. A subclass declares `type`, `text`, perhaps `hint`, and its fields.

    `text` and `hint` are format strings over the fields. Beside Python's own format
    specifications they know `{n:size}` (bytes as `2G`), `{s:seconds}`, `{k:kind}` (`vm` as `VM`), `{who:asker}`
    (`unix:0` as `root`) and `{m:saying}` (a message inside this one, kept as its type and parameters).
    """

    type: ClassVar[str] = ""
    text: ClassVar[str] = ""
    hint: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        dataclasses.dataclass(eq=False)(cls)
        if "type" in cls.__dict__:
            if known := _types.get(cls.type):
                raise TypeError(f"message type {cls.type!r} is both {known.__qualname__} and {cls.__qualname__}")
            _types[cls.type] = cls

    @property
    def params(self) -> dict[str, Any]:
        """The fields by name, as JSON would hold them."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]


class Unknown(Message):
    """A message of a type that this version does not know (written by a newer or an older one)."""

    type = "unknown-message"
    text = N_("{name}: {said}")
    name: str
    said: str


def known_types() -> dict[str, type[Message]]:
    """Every declared message type by its name, for the documentation and the catalogue's test."""
    return dict(_types)


def revive(type_name: str, params: dict[str, Any]) -> Message:
    """The message that was kept as its type and parameters."""
    cls = _types.get(type_name)
    if cls is not None:
        try:
            return cls(**params)
        except TypeError:
            pass  # the fields changed since it was kept: shown as it is
    said = ", ".join(f"{key}={value}" for key, value in params.items())
    return Unknown(name=type_name, said=said)


def say(message: Message) -> str:
    """The message's sentence in the reader's language."""
    return _fill(message.text, message.params)


def advise(message: Message) -> str:
    """The message's next step in the reader's language; empty when there is none."""
    return _fill(message.hint, message.params) if message.hint else ""


def size(count: int) -> str:
    """Bytes for people: `512M`, `1.5G`; three digits at most."""
    value = float(count)
    for unit in "BKMGTP":
        if abs(value) < 1024 or unit == "P":
            break
        value /= 1024
    digits = f"{value:.1f}" if value < 10 and value != int(value) else f"{value:.0f}"
    return f"{digits}{unit}"


def seconds(span: float) -> str:
    """A time span for people: `0.3 s`, `12 s`, `4 min`, `2 h`, `3 d`."""
    if abs(span) < 10:
        return f"{span:.1f} s"
    for limit, divisor, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if abs(span) < limit:
            return f"{span / divisor:.0f} {unit}"
    return f"{span / 86_400:.0f} d"


def asker(name: str) -> str:
    """Who asked, for people: `root` for `unix:0`, `token backup` for `token:backup`."""
    how, _, who = name.partition(":")
    if how == "unix" and who.isdigit():
        try:
            return pwd.getpwuid(int(who)).pw_name
        except (KeyError, OverflowError):
            return f"uid {who}"
    return f"token {who}" if how == "token" and who else name


class _Formatter(string.Formatter):
    def format_field(self, value: Any, format_spec: str) -> str:
        if format_spec == "size":
            return size(int(value))
        if format_spec == "seconds":
            return seconds(float(value))
        if format_spec == "kind":
            return {"vm": "VM", "cd": "CD drive", "nic": "NIC"}.get(str(value), str(value))
        if format_spec == "asker":
            return asker(str(value))
        if format_spec == "saying":
            return say(revive(str(value["type"]), value["params"])) if isinstance(value, dict) else str(value)
        if isinstance(value, (list, tuple)) and not format_spec:
            return ", ".join(str(item) for item in value)
        return str(super().format_field(value, format_spec))


_formatter = _Formatter()


@functools.cache
def _catalogue(tag: str) -> gettext.NullTranslations:
    return gettext.translation("bocage", localedir=LOCALE_DIR, languages=[tag], fallback=True)


def _fill(text: str, params: dict[str, Any]) -> str:
    return _formatter.vformat(_catalogue(language.get()).gettext(text), (), params)
