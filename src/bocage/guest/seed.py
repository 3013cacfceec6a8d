"""The seed: what a new guest is told about itself, as a NoCloud ISO image that cloud-init (and `tiny`) read.

Follows cloud-init's NoCloud data source: a volume CIDATA with `meta-data`, `user-data` and `network-config`.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import email.mime.multipart
import email.mime.text
import io
import ipaddress
import re
from typing import Any

import yaml

from bocage import errors
from bocage.guest import password, tools
from bocage.words import N_

VOLUME = "CIDATA"
"""The volume's label, by which the guest finds it."""

hash_password = password.hash_password
"""The form in which a seed takes a password."""

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.IGNORECASE)
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.IGNORECASE)
_HASH = re.compile(r"\$[0-9a-z]+\$[ -9;-~]+")  # crypt(5): printable, no colon
_PASSED_AS_IS = {
    "#!": "x-shellscript",
    "#cloud-boothook": "cloud-boothook",
    "#include": "x-include-url",
    "#part-handler": "part-handler",
    "## template: jinja": "jinja2",
    "#cloud-config-archive": "cloud-config-archive",
}


class Invalid(tools.Error, errors.Invalid, ValueError):
    """A value of the seed makes no sense."""

    type = "guest-seed-invalid"
    text = N_("{field}: '{value}' is not {right}")
    field: str
    value: str
    right: str


class BadUserData(tools.Error, errors.Invalid, ValueError):
    """cloud-init would not take the user data."""

    type = "guest-user-data-invalid"
    text = N_("the user data cannot be used: {reason}")
    hint = N_("user data is YAML whose first line is '#cloud-config', or a script that starts with '#!'")
    reason: str


class SaidTwice(tools.Error, errors.Invalid, ValueError):
    """The user data and the seed's own fields say the same thing."""

    type = "guest-seed-said-twice"
    text = N_("the user data says '{key}' already, and so do the other options")
    hint = N_("say it in one place: leave it out of the user data, or leave the options out")
    key: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NicSeed:
    """One interface, found by its MAC address. Without `address` (`10.0.0.2/24`) it asks by DHCP."""

    mac: str
    address: str | None = None
    gateway: str | None = None
    dns: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """What the guest is told. `instance_id` changes when it should take itself for a new machine.

    Without `user` the keys and the password are those of the image's own default user. `password_hash`
    is what `hash_password` gives. An empty `network` leaves it to the guest, which asks by DHCP.
    """

    instance_id: str
    hostname: str
    user: str | None = None
    ssh_keys: tuple[str, ...] = ()
    password_hash: str | None = None
    user_data: str | None = None
    network: tuple[NicSeed, ...] = ()


def build(seed: Seed) -> bytes:
    """The seed as an ISO 9660 image with Rock Ridge and Joliet names. Raises Invalid, BadUserData, SaidTwice."""
    import pycdlib  # late: it takes longer to import than most commands run

    documents = {"meta-data": meta_data(seed), "user-data": user_data(seed)}
    if seed.network:
        documents["network-config"] = network_config(seed)
    image = pycdlib.PyCdlib()
    image.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=VOLUME)
    for name, text in documents.items():
        content = text.encode()
        plain = f"/{name.replace('-', '').upper()}.;1"
        image.add_fp(io.BytesIO(content), len(content), plain, rr_name=name, joliet_path=f"/{name}")
    written = io.BytesIO()
    image.write_fp(written)
    image.close()
    return written.getvalue()


def meta_data(seed: Seed) -> str:
    """The document `meta-data`: who this instance is."""
    if not seed.instance_id.strip():
        raise Invalid(field="instance-id", value=seed.instance_id, right="a name")
    labels = seed.hostname.split(".")
    if len(seed.hostname) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise Invalid(field="hostname", value=seed.hostname, right="a host name (RFC 1123: letters, digits, '-')")
    return _yaml({"instance-id": seed.instance_id, "local-hostname": seed.hostname})


def user_data(seed: Seed) -> str:
    """The document `user-data`: the person's own, with the user, keys and password of the seed added."""
    ours = _account(seed)
    theirs = seed.user_data
    if theirs is None:
        return _cloud_config(ours)
    first = theirs.split("\n", 1)[0].strip()
    if first == "#cloud-config":
        return _merged(theirs, ours)
    kind = next((kind for start, kind in _PASSED_AS_IS.items() if first.startswith(start)), None)
    if kind is None and not first.lower().startswith(("content-type: multipart/", "mime-version:")):
        shown = first[:60] or "it is empty"
        raise BadUserData(reason=f"its first line is '{shown}'" if first else shown)
    if not ours:
        return theirs
    if kind is None:
        raise SaidTwice(key="a whole multipart document")
    parts = email.mime.multipart.MIMEMultipart(boundary="===============part==")
    parts.attach(email.mime.text.MIMEText(_cloud_config(ours), "cloud-config", "utf-8"))
    parts.attach(email.mime.text.MIMEText(theirs, kind, "utf-8"))
    return parts.as_string()


def network_config(seed: Seed) -> str:
    """The document `network-config`, version 2, each interface matched by its MAC address."""
    interfaces = {f"nic{number}": _interface(nic) for number, nic in enumerate(seed.network)}
    return _yaml({"version": 2, "ethernets": interfaces})


def _account(seed: Seed) -> dict[str, Any]:
    for key in seed.ssh_keys:
        _check_key(key)
    if seed.password_hash is not None and not _HASH.fullmatch(seed.password_hash):
        raise Invalid(field="password", value="…", right="a hash as crypt(5) has them")
    config: dict[str, Any] = {}
    if seed.user is None:
        if seed.ssh_keys:
            config["ssh_authorized_keys"] = list(seed.ssh_keys)
        if seed.password_hash:
            config |= {"password": seed.password_hash, "chpasswd": {"expire": False}}
    else:
        if not _USER.fullmatch(seed.user):
            raise Invalid(field="user", value=seed.user, right="a user's name (a-z, 0-9, '-', '_')")
        account: dict[str, Any] = {"name": seed.user, "lock_passwd": seed.password_hash is None}
        if seed.user == "root":
            config["disable_root"] = False
        else:
            account |= {"groups": ["sudo"], "shell": "/bin/bash", "sudo": "ALL=(ALL) NOPASSWD:ALL"}
        if seed.ssh_keys:
            account["ssh_authorized_keys"] = list(seed.ssh_keys)
        if seed.password_hash:
            account["hashed_passwd"] = seed.password_hash
        config["users"] = [account]
    if seed.password_hash:
        config["ssh_pwauth"] = True
    return config


def _merged(theirs: str, ours: dict[str, Any]) -> str:
    try:
        document = yaml.safe_load(theirs)
    except yaml.YAMLError as error:
        raise BadUserData(reason=f"it is no YAML: {' '.join(str(error).split())}") from error
    if document is None:
        document = {}
    if not isinstance(document, dict):
        raise BadUserData(reason="it is no mapping of keys to values")
    if not ours:
        return theirs
    if twice := sorted(set(map(str, document)) & set(ours)):
        raise SaidTwice(key=twice[0])
    return _cloud_config({**document, **ours})


def _interface(nic: NicSeed) -> dict[str, Any]:
    if not _MAC.fullmatch(nic.mac):
        raise Invalid(field="network.mac", value=nic.mac, right="a MAC address such as 52:54:00:12:34:56")
    settings: dict[str, Any] = {"match": {"macaddress": nic.mac.lower()}}
    if nic.address is None:
        if nic.gateway is not None:
            raise Invalid(field="network.gateway", value=nic.gateway, right="of use without a static address")
        settings["dhcp4"] = True
    else:
        own = _address(nic.address)
        settings |= {"dhcp4": False, "addresses": [str(own)]}
        if nic.gateway is not None:
            gateway = _ip("network.gateway", nic.gateway)
            if gateway not in own.network or gateway == own.ip:
                raise Invalid(field="network.gateway", value=nic.gateway, right=f"another address within {own.network}")
            everywhere = "0.0.0.0/0" if gateway.version == 4 else "::/0"
            settings["routes"] = [{"to": everywhere, "via": str(gateway)}]
    if nic.dns:
        settings["nameservers"] = {"addresses": [str(_ip("network.dns", one)) for one in nic.dns]}
    return settings


def _address(text: str) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface:
    try:
        if "/" in text:
            return ipaddress.ip_interface(text)
    except ValueError:
        pass
    raise Invalid(field="network.address", value=text, right="an address with its prefix, such as 10.0.0.2/24")


def _ip(field: str, text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError as error:
        raise Invalid(field=field, value=text, right="an IP address") from error


def _check_key(key: str) -> None:
    """An OpenSSH public key repeats its type inside (RFC 4253, section 6.6)."""
    kind, _, rest = key.strip().partition(" ")
    try:
        blob = base64.b64decode(rest.split(" ")[0], validate=True)
        length = int.from_bytes(blob[:4], "big")
        if "\n" not in key.strip() and kind and blob[4 : 4 + length] == kind.encode():
            return
    except (binascii.Error, ValueError):
        pass
    shown = key.strip().split("\n")[0][:40]
    raise Invalid(field="ssh-key", value=shown, right="an OpenSSH public key ('ssh-ed25519 AAAA…')")


def _cloud_config(document: dict[str, Any]) -> str:
    return "#cloud-config\n" + _yaml(document)


def _yaml(document: dict[str, Any]) -> str:
    return yaml.safe_dump(document, sort_keys=False, default_flow_style=False, allow_unicode=True, width=1000)
