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
    """A value of the seed makes no sense. `value` is what was given."""

    value: str


class BadInstance(Invalid):
    """Nothing by which cloud-init could tell this machine from the one before."""

    type = "guest-seed-instance"
    text = N_("the seed's instance id is empty")


class BadHostName(Invalid):
    """No name as RFC 1123 has them."""

    type = "guest-seed-hostname"
    text = N_("'{value}' is no host name")
    hint = N_("a host name has letters, digits and '-', which is neither first nor last")


class BadUser(Invalid):
    """No name of a user."""

    type = "guest-seed-user"
    text = N_("'{value}' is no user's name")
    hint = N_("a user's name begins with a small letter, and has small letters, digits, '-' and '_'")


class BadKey(Invalid):
    """No public key of OpenSSH."""

    type = "guest-seed-ssh-key"
    text = N_("'{value}' is no public key of ssh")
    hint = N_("a public key is one line such as 'ssh-ed25519 AAAA… name', from a file that ends in .pub")


class BadHash(Invalid):
    """No hash as crypt(5) has them; `value` stays hidden."""

    type = "guest-seed-password-hash"
    text = N_("that is no hash of a password")


class BadMac(Invalid):
    """No MAC address."""

    type = "guest-seed-mac"
    text = N_("'{value}' is no MAC address")
    hint = N_("a MAC address looks like 52:54:00:12:34:56")


class BadAddress(Invalid):
    """No address with a prefix."""

    type = "guest-seed-address"
    text = N_("'{value}' is no address with its prefix")
    hint = N_("an address with its prefix looks like 10.0.0.2/24")


class BadServer(Invalid):
    """No address of a name server."""

    type = "guest-seed-dns"
    text = N_("'{value}' is no IP address of a name server")


class BadGateway(Invalid):
    """No gateway that could be reached; `network` is where it would have to be, empty without a static address."""

    type = "guest-seed-gateway"
    text = N_("the gateway '{value}' cannot be reached from '{network}'")
    hint = N_("a gateway is another address of the interface's own network, and needs a static address")
    network: str


class BadUserData(tools.Error, errors.Invalid, ValueError):
    """cloud-init would not take the user data."""

    hint = N_("user data is YAML whose first line is '#cloud-config', or a script that starts with '#!'")


class NoKindOfUserData(BadUserData):
    """Its first line is none of those by which cloud-init knows what it is."""

    type = "guest-user-data-kind"
    text = N_("the user data begins with '{first}', which says nothing to cloud-init")
    first: str


class NoYaml(BadUserData):
    """It is called a cloud-config, and cannot be read as one; `fault` is the YAML reader's."""

    type = "guest-user-data-yaml"
    text = N_("the user data is no YAML: {fault}")
    fault: str


class NoMapping(BadUserData):
    """It is YAML, of another shape."""

    type = "guest-user-data-shape"
    text = N_("the user data is YAML, but no mapping of keys to values")


class SaidTwice(tools.Error, errors.Invalid, ValueError):
    """The user data and the seed's own fields say the same thing."""

    type = "guest-seed-said-twice"
    text = N_("the user data says '{key}' already, and so do the other options")
    hint = N_("say it in one place: leave it out of the user data, or leave the options out")
    key: str


class NotJoined(tools.Error, errors.Invalid, ValueError):
    """A multipart document is complete as it is."""

    type = "guest-user-data-multipart"
    text = N_("nothing can be added to user data that is a multipart document")
    hint = N_("leave out user, keys and password, and say them in the document")


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
    """The seed as an ISO 9660 image with Rock Ridge and Joliet names.

    Raises Invalid, BadUserData, SaidTwice, NotJoined.
    """
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
        raise BadInstance(value=seed.instance_id)
    labels = seed.hostname.split(".")
    if len(seed.hostname) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise BadHostName(value=seed.hostname)
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
        raise NoKindOfUserData(first=first[:60])
    if not ours:
        return theirs
    if kind is None:
        raise NotJoined
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
        raise BadHash(value="…")
    config: dict[str, Any] = {}
    if seed.user is None:
        if seed.ssh_keys:
            config["ssh_authorized_keys"] = list(seed.ssh_keys)
        if seed.password_hash:
            config |= {"password": seed.password_hash, "chpasswd": {"expire": False}}
    else:
        if not _USER.fullmatch(seed.user):
            raise BadUser(value=seed.user)
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
        raise NoYaml(fault=" ".join(str(error).split())) from error
    if document is None:
        document = {}
    if not isinstance(document, dict):
        raise NoMapping
    if not ours:
        return theirs
    if twice := sorted(set(map(str, document)) & set(ours)):
        raise SaidTwice(key=twice[0])
    return _cloud_config({**document, **ours})


def _interface(nic: NicSeed) -> dict[str, Any]:
    if not _MAC.fullmatch(nic.mac):
        raise BadMac(value=nic.mac)
    settings: dict[str, Any] = {"match": {"macaddress": nic.mac.lower()}}
    if nic.address is None:
        if nic.gateway is not None:
            raise BadGateway(value=nic.gateway, network="")
        settings["dhcp4"] = True
    else:
        own = _address(nic.address)
        settings |= {"dhcp4": False, "addresses": [str(own)]}
        if nic.gateway is not None:
            gateway = _ip(nic.gateway)
            if gateway is None or gateway not in own.network or gateway == own.ip:
                raise BadGateway(value=nic.gateway, network=str(own.network))
            everywhere = "0.0.0.0/0" if gateway.version == 4 else "::/0"
            settings["routes"] = [{"to": everywhere, "via": str(gateway)}]
    if nic.dns:
        settings["nameservers"] = {"addresses": [_server(one) for one in nic.dns]}
    return settings


def _address(text: str) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface:
    try:
        if "/" in text:
            return ipaddress.ip_interface(text)
    except ValueError:
        pass
    raise BadAddress(value=text)


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _server(text: str) -> str:
    address = _ip(text)
    if address is None:
        raise BadServer(value=text)
    return str(address)


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
    raise BadKey(value=key.strip().split("\n")[0][:40])


def _cloud_config(document: dict[str, Any]) -> str:
    return "#cloud-config\n" + _yaml(document)


def _yaml(document: dict[str, Any]) -> str:
    return yaml.safe_dump(document, sort_keys=False, default_flow_style=False, allow_unicode=True, width=1000)
