"""Where this machine's apt gets Debian from, said for another release.

Follows sources.list(5), the one-line form and deb822. A machine with a mirror or a proxy of its own uses it.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Iterator

DEFAULT = "http://deb.debian.org/debian"
_DEFAULT_SECURITY = "http://deb.debian.org/debian-security"
_USUAL_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_ALIASES = ("stable", "oldstable", "testing")


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """One line: where, which suite. `options` are those of the one-line form, such as `trusted=yes`."""

    uri: str
    suite: str
    options: tuple[str, ...] = ()

    def line(self) -> str:
        """The one-line form, with the component `main`."""
        options = f"[{' '.join(self.options)}] " if self.options else ""
        return f"deb {options}{self.uri} {self.suite} main"


def for_release(release: str, *, etc: pathlib.Path = pathlib.Path("/etc")) -> list[Source]:
    """The sources of `release`: the machine's own for its own release, with the suite's name replaced.

    A machine that is no Debian, or whose sources are for nothing that is known, gets Debian's own.
    """
    own = _codename(etc / "os-release")
    names = "|".join(re.escape(name) for name in (own, release, *_ALIASES) if name)
    found: dict[Source, None] = {}
    for source in _configured(etc / "apt"):
        if fits := re.fullmatch(rf"(?:{names})((?:-updates|-security|/updates)?)", source.suite):
            found[dataclasses.replace(source, suite=release + fits[1])] = None
    if any(source.suite == release for source in found):
        return list(found)
    return [
        Source(DEFAULT, release),
        Source(DEFAULT, f"{release}-updates"),
        Source(_DEFAULT_SECURITY, f"{release}-security"),
    ]


def _codename(os_release: pathlib.Path) -> str:
    try:
        found = re.search(r'^VERSION_CODENAME="?([a-z]+)"?$', os_release.read_text(), re.MULTILINE)
    except OSError:
        return ""
    return found[1] if found else ""


def _configured(apt: pathlib.Path) -> Iterator[Source]:
    parts = apt / "sources.list.d"
    for path in (apt / "sources.list", *sorted(parts.glob("*.list")), *sorted(parts.glob("*.sources"))):
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError):
            continue
        yield from _stanzas(text) if path.suffix == ".sources" else _lines(text)


def _lines(text: str) -> Iterator[Source]:
    for line in text.splitlines():
        if found := re.match(r"\s*deb\s+(?:\[([^]]*)\]\s+)?(\S+)\s+(\S+)\s+(.*)", line.partition("#")[0]):
            options, uri, suite, components = found.groups()
            if "main" in components.split():
                yield Source(uri, suite, _kept((options or "").split()))


def _stanzas(text: str) -> Iterator[Source]:
    for stanza in re.split(r"\n\s*\n", re.sub(r"^#.*\n?", "", text, flags=re.MULTILINE)):
        fields = {
            key.lower(): value.strip()
            for key, value in re.findall(r"^(\S+?):((?:.*(?:\n[ \t].*)*))", stanza, re.MULTILINE)
        }
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in ("no", "false"):
            continue
        if "main" not in fields.get("components", "").split():
            continue
        options = _kept([f"{key}={value}" for key, value in fields.items()])
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                yield Source(uri, suite, options)


def _kept(options: list[str]) -> tuple[str, ...]:
    """What must be said of a mirror; Debian's own keyring goes without saying, and a key in the text stays behind."""
    kept = []
    for option in options:
        key, _, value = option.partition("=")
        if key == "trusted" or (key == "signed-by" and value.startswith("/") and value != _USUAL_KEYRING):
            kept.append(f"{key}={value}")
    return tuple(kept)
