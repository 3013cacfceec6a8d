"""Reading the values of options: `sockets=1,cores=2`, `2222:22`, keys, files.

Only their shape is looked at here; whether a value holds is said by the API, for all its clients alike.
"""

from __future__ import annotations

import ipaddress
import os
import re
import sys
from typing import Any

from bocage.cli import failure

USB_ID = re.compile(r"[0-9a-fA-F]{4}:[0-9a-fA-F]{4}")
_CPU_PARTS = ("sockets", "cores", "threads")
_MEMORY_PARTS = ("startup", "minimum", "maximum", "buffer", "weight")
_DISK_PARTS = ("size", "volume", "bus", "cache", "format", "preallocated", "serial")
_NIC_PARTS = ("model", "mac", "ip", "vlan", "trunk", "spoofing", "firewall")
_SMBIOS_PARTS = ("uuid", "manufacturer", "product", "version", "serial", "sku", "family")
_BOARD_FIELDS = {"disk": "disk_bus", "nic": "nic_model", "added-memory": "added_memory"}
_BOARD_PARTS = (
    *("video", "sound", "pointer", "usb", "scsi", "disk", "nic", "rtc", "drift", "hpet", "hyperv"),
    *("secure-boot", "tpm", "watchdog", "added-memory", "limit-cpus", "limit-memory"),
)
_LARGEST_TEXT = 1 << 20
_SPANS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400, "y": 366 * 86_400}


def cpus(text: str, *, option: str = "--cpus") -> dict[str, int]:
    """`2` (cores of one socket), or `sockets=1,cores=2,threads=2`."""
    right = "write a number such as 2, or sockets=1,cores=2,threads=2"
    if text.isascii() and text.isdigit():
        return {"cores": int(text[:9])}
    parts = pairs(text, option=option, known=_CPU_PARTS, right=right)
    try:
        return {key: int(value) for key, value in parts.items()}
    except ValueError as error:
        raise failure.Usage(option=option, wrong=f"'{text}' counts no vCPUs", right=right) from error


def memory(text: str, *, option: str = "--memory") -> str | dict[str, Any]:
    """`1G`, or for dynamic memory `startup=1G,minimum=512M,maximum=4G,buffer=20,weight=100`."""
    if "=" not in text:
        return text
    right = "write a size such as 1G, or startup=1G,minimum=512M,maximum=4G"
    parts: dict[str, Any] = pairs(text, option=option, known=_MEMORY_PARTS, right=right)
    for key in ("buffer", "weight"):
        if key in parts:
            number = parts[key].removesuffix("%")
            if not (number.isascii() and number.isdigit()):
                raise failure.Usage(option=option, wrong=f"{key}: '{parts[key]}' is no number", right=right)
            parts[key] = int(number[:9])
    return parts


def disk(text: str, *, option: str = "--disk") -> dict[str, Any]:
    """`20G`, or `20G,bus=sata,cache=none` (`size=` may stand before it), or `volume=NAME`."""
    if "=" not in text.partition(",")[0]:
        text = f"size={text}"
    right = "write a size such as 20G, or 20G,bus=sata,cache=none, or volume=NAME"
    found: dict[str, Any] = pairs(text, option=option, known=_DISK_PARTS, right=right)
    if "preallocated" in found:
        found["preallocated"] = found["preallocated"] in ("yes", "true", "on", "1")
    return found


def nic(text: str, *, option: str = "--network") -> dict[str, Any]:
    """`default`, or `default,model=e1000,mac=52:54:00:12:34:56,ip=10.80.1.20,firewall=web+ssh`."""
    network, _, rest = text.partition(",")
    right = "write a network's name, or NAME,model=e1000,mac=52:54:00:12:34:56,ip=10.80.1.20,firewall=web+ssh"
    more = pairs(rest, option=option, known=_NIC_PARTS, right=right) if rest else {}
    found: dict[str, Any] = {"network": network, **{key: value.lower() for key, value in more.items()}}
    if "firewall" in found:
        found["firewall"] = found["firewall"].split("+")
    try:
        if "vlan" in found:
            found["vlan"] = int(found["vlan"])
        if "trunk" in found:
            found["trunk"] = [int(one) for one in found["trunk"].split("+")]
    except ValueError as error:
        raise failure.Usage(option=option, wrong="a VLAN is a number", right="vlan=10, trunk=20+30") from error
    return found


def publish(text: str, *, option: str = "--publish") -> dict[str, Any]:
    """`2222:22`, `0.0.0.0:2222:22`, `5353:53/udp`."""
    match = re.fullmatch(r"(?:(\[[0-9a-fA-F:.]+\]|[0-9.]+):)?(\d{1,5}):(\d{1,5})(?:/(tcp|udp))?", text)
    right = "write HOST_PORT:GUEST_PORT such as 2222:22, with an address before it (0.0.0.0:8080:80) or /udp behind"
    if not match:
        raise failure.Usage(option=option, wrong=f"'{text}' names no two ports", right=right)
    where, outside, inside, protocol = match.groups()
    found: dict[str, Any] = {"host_port": int(outside), "guest_port": int(inside)}
    if where:
        try:
            found["host_address"] = str(ipaddress.ip_address(where.strip("[]")))
        except ValueError as error:
            raise failure.Usage(option=option, wrong=f"'{where}' is no IP address", right=right) from error
    if protocol:
        found["protocol"] = protocol
    return found


def address(text: str, *, option: str = "--address") -> dict[str, Any]:
    """`10.0.0.5/24,gateway=10.0.0.1,dns=10.0.0.1,nic=nic0`."""
    first, _, rest = text.partition(",")
    right = "write 10.0.0.5/24, or 10.0.0.5/24,gateway=10.0.0.1,dns=10.0.0.1"
    more = pairs(rest, option=option, known=("gateway", "dns", "nic"), right=right) if rest else {}
    found: dict[str, Any] = {"nic": more.get("nic", "nic0"), "address": first}
    if "gateway" in more:
        found["gateway"] = more["gateway"]
    if "dns" in more:
        found["dns"] = more["dns"].split("+")
    return found


def replacements(texts: list[str], *, option: str = "--network") -> dict[str, str] | None:
    """`OLD=NEW`, as often as wanted; None for none."""
    found: dict[str, str] = {}
    for text in texts:
        old, _, new = text.partition("=")
        if not old or not new or "=" in new or found.setdefault(old, new) != new:
            right = "write OLD=NEW: the network's name there, and the one here that takes its place"
            raise failure.Usage(option=option, wrong=f"'{text}' is not understood", right=right)
    return found or None


def smbios(texts: list[str], *, option: str = "--smbios") -> dict[str, Any]:
    """`uuid=…`, `serial=…`; `oem=…` as often as wanted."""
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or key not in (*_SMBIOS_PARTS, "oem"):
            known = ", ".join((*_SMBIOS_PARTS, "oem"))
            raise failure.Usage(
                option=option, wrong=f"'{text}' is not KEY=VALUE with a known key", right=f"keys: {known}"
            )
        if key == "oem":
            found.setdefault("oem_strings", []).append(value)
        else:
            found[key] = value.lower() if key == "uuid" else value
    return found


def ports(serial: list[str] | None, parallel: list[str] | None) -> list[dict[str, Any]] | None:
    """`file`, `/dev/ttyS0`, `listen:127.0.0.1:4001,rfc2217`, `connect:printer:9100`; None when none was given.

    Serial ports are COM2 and on, for COM1 is the console; parallel ports LPT1 and on.
    """
    if serial is None and parallel is None:
        return None
    wanted = [("serial", "com", number, text) for number, text in enumerate(serial or (), 2)]
    wanted += [("parallel", "lpt", number, text) for number, text in enumerate(parallel or (), 1)]
    return [
        {"name": f"{short}{n}", "kind": kind, "number": n, **_outlet(text, kind)} for kind, short, n, text in wanted
    ]


def _outlet(text: str, kind: str) -> dict[str, Any]:
    to, _, rest = text.partition(":")
    where, _, more = rest.partition(",")
    if text == "file":
        return {"to": "file"}
    if text.startswith("/dev/"):
        return {"to": "device", "device": text}
    if to in ("listen", "connect") and where and more in ("", "telnet", "rfc2217"):
        return {"to": to, "address": where, **({more: True} if more else {})}
    right = "write file, /dev/ttyS0, listen:127.0.0.1:4001 or connect:printer:9100, perhaps with ,telnet or ,rfc2217"
    raise failure.Usage(option=f"--{kind}", wrong=f"'{text}' leads nowhere", right=right)


def usb(text: str) -> dict[str, str]:
    """`0529:0001`, `0403:6001,serial=A50285BI`, `port=1-2.3`."""
    right = "write 0529:0001, 0403:6001,serial=A50285BI or port=1-2.3; 'bocage host usb' lists what there is"
    given = text if "=" in text.partition(",")[0] else f"id={text}"
    found = pairs(given, option="--usb", known=("id", "serial", "port"), right=right)
    if not USB_ID.fullmatch(found.get("id", "0000:0000")) or not {"id", "port"} & found.keys():
        raise failure.Usage(option="--usb", wrong=f"'{text}' names no device", right=right)
    return {key: value.lower() if key == "id" else value for key, value in found.items()}


def board(texts: list[str], *, option: str = "--board") -> dict[str, Any]:
    """`video=cirrus`, `rtc=localtime`, `hyperv=relaxed+vapic`, `limit-memory=64M`."""
    found: dict[str, Any] = {}
    right = f"write KEY=VALUE such as video=cirrus; keys: {', '.join(_BOARD_PARTS)}"
    for piece in several(texts):
        for key, value in pairs(piece, option=option, known=_BOARD_PARTS, right=right).items():
            match key.split("-"):
                case ["rtc"] | ["drift"]:
                    found.setdefault("rtc", {})["base" if key == "rtc" else "drift"] = value
                case ["limit", what]:
                    found.setdefault("limits", {})[what] = int(value) if value.isdecimal() else value
                case ["hyperv"]:
                    found["hyperv"] = [] if value == "none" else value.split("+")
                case ["watchdog"]:
                    model, _, action = value.rpartition(":")
                    found["watchdog"] = {"model": model or "i6300esb", "action": action}
                case ["hpet"] | ["secure", "boot"]:
                    found[key.replace("-", "_")] = value in ("yes", "true", "on", "1")
                case _:
                    found[_BOARD_FIELDS.get(key, key)] = value
    return found


def pairs(text: str, *, option: str, known: tuple[str, ...], right: str) -> dict[str, str]:
    """`key=value,key=value` with known keys, each once; raises failure.Usage."""
    found: dict[str, str] = {}
    for piece in text.split(","):
        key, equals, value = piece.partition("=")
        if not equals or not value or key not in known or key in found:
            raise failure.Usage(option=option, wrong=f"{_quoted(piece, text)} is not understood", right=right)
        found[key] = value
    return found


def _quoted(piece: str, text: str) -> str:
    return f"'{piece}'" if piece == text else f"'{piece}' in '{text}'"


def counts(text: str, *, option: str) -> dict[str, int]:
    """`hourly=24,daily=7`."""
    right = "write how many of each period are kept, such as hourly=24,daily=7"
    known = ("hourly", "daily", "weekly", "monthly", "yearly")
    found = pairs(text, option=option, known=known, right=right)
    try:
        return {key: int(value) for key, value in found.items()}
    except ValueError as error:
        raise failure.Usage(option=option, wrong=f"'{text}' counts nothing", right=right) from error


def several(texts: list[str]) -> list[str]:
    """Values that were given one by one or with commas between them."""
    return [piece for text in texts for piece in text.split(",") if piece]


def ssh_keys(text: str, *, option: str = "--ssh-key") -> list[str]:
    """A public key as it is, or those in a file."""
    if " " in text.strip() and not os.path.exists(text):
        return [text.strip()]
    content = text_file(option, text)
    if "PRIVATE KEY" in content:
        raise failure.Usage(option=option, wrong=f"{text} is a private key", right=f"give the public one, {text}.pub")
    return [line.strip() for line in content.splitlines() if line.strip() and not line.startswith("#")]


def span(text: str, *, option: str) -> float:
    """`90s`, `30m`, `6h`, `1d`, `2w`, `1y` in seconds."""
    match = re.fullmatch(r"(\d{1,8})([smhdwy])", text)
    if not match:
        right = "write a number with s, m, h, d, w or y, such as 30m or 1d"
        raise failure.Usage(option=option, wrong=f"'{text}' is no span of time", right=right)
    seconds = float(int(match[1]) * _SPANS[match[2]])
    if not 10 <= seconds <= _SPANS["y"]:
        raise failure.Usage(option=option, wrong=f"'{text}' is not kept", right="between 10s and 1y")
    return seconds


def text_file(option: str, path: str, *, most: int = _LARGEST_TEXT) -> str:
    """A text file's content, `most` characters of it; `-` is standard input. Raises failure.Usage."""
    try:
        if path == "-":
            return sys.stdin.read(most)
        with open(os.path.expanduser(path), encoding="utf-8") as file:
            return file.read(most)
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise failure.Usage(option=option, wrong=f"{path} cannot be read: {said}") from error
