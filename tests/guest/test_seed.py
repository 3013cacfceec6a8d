"""The NoCloud seed: what is in it, and what is refused."""

import email
import io
from typing import Any

import pycdlib
import pytest
import yaml

from bocage import errors, words
from bocage.guest import password, seed

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEJxmzfBgLoFbhcjUsxv6CZxvCA4uvQO6ZdGkYPm1DqZ ada@example"
MAC = "52:54:00:00:00:01"


def told(**values: Any) -> seed.Seed:
    return seed.Seed(**{"instance_id": "i-1", "hostname": "alpha", **values})


def cloud_config(document: str) -> Any:
    first, rest = document.split("\n", 1)
    assert first == "#cloud-config"
    return yaml.safe_load(rest)


def test_the_image_is_labelled_and_holds_the_documents_under_their_long_names():
    image = pycdlib.PyCdlib()
    image.open_fp(io.BytesIO(seed.build(told(network=(seed.NicSeed(mac=MAC),)))))
    assert image.pvd.volume_identifier.rstrip() == b"CIDATA"
    read = {}
    for name in ("meta-data", "user-data", "network-config"):
        for path in ({"rr_path": f"/{name}"}, {"joliet_path": f"/{name}"}):
            content = io.BytesIO()
            image.get_file_from_iso_fp(content, **path)
            read[name] = content.getvalue().decode()
    assert yaml.safe_load(read["meta-data"]) == {"instance-id": "i-1", "local-hostname": "alpha"}
    assert cloud_config(read["user-data"]) in (None, {})
    assert yaml.safe_load(read["network-config"])["version"] == 2


def test_without_a_network_there_is_no_network_document():
    assert b"NETWORKCONFIG" not in seed.build(told())


def test_a_user_gets_keys_password_and_sudo():
    hashed = seed.hash_password("open sesame")
    config = cloud_config(seed.user_data(told(user="ada", ssh_keys=(KEY,), password_hash=hashed)))
    (account,) = config["users"]
    assert account["name"] == "ada"
    assert account["ssh_authorized_keys"] == [KEY]
    assert account["hashed_passwd"] == hashed
    assert account["lock_passwd"] is False
    assert account["sudo"]
    assert config["ssh_pwauth"] is True


def test_without_a_password_the_account_is_locked_and_ssh_takes_none():
    config = cloud_config(seed.user_data(told(user="ada", ssh_keys=(KEY,))))
    assert config["users"][0]["lock_passwd"] is True
    assert "ssh_pwauth" not in config


def test_root_may_log_in_when_it_is_the_user():
    config = cloud_config(seed.user_data(told(user="root", ssh_keys=(KEY,))))
    assert config["disable_root"] is False
    assert "sudo" not in config["users"][0]


def test_without_a_user_keys_and_password_are_the_default_users():
    hashed = seed.hash_password("x")
    config = cloud_config(seed.user_data(told(ssh_keys=(KEY,), password_hash=hashed)))
    assert config["ssh_authorized_keys"] == [KEY]
    assert config["password"] == hashed
    assert config["chpasswd"] == {"expire": False}


def test_static_addresses_and_dhcp_are_matched_by_mac():
    network = (
        seed.NicSeed(mac=MAC.upper(), address="10.0.0.2/24", gateway="10.0.0.1", dns=("10.0.0.1", "fd00::1")),
        seed.NicSeed(mac="52:54:00:00:00:02"),
        seed.NicSeed(mac="52:54:00:00:00:03", address="fd00::2/64", gateway="fd00::1"),
    )
    assert yaml.safe_load(seed.network_config(told(network=network))) == {
        "version": 2,
        "ethernets": {
            "nic0": {
                "match": {"macaddress": MAC},
                "dhcp4": False,
                "addresses": ["10.0.0.2/24"],
                "routes": [{"to": "0.0.0.0/0", "via": "10.0.0.1"}],
                "nameservers": {"addresses": ["10.0.0.1", "fd00::1"]},
            },
            "nic1": {"match": {"macaddress": "52:54:00:00:00:02"}, "dhcp4": True},
            "nic2": {
                "match": {"macaddress": "52:54:00:00:00:03"},
                "dhcp4": False,
                "addresses": ["fd00::2/64"],
                "routes": [{"to": "::/0", "via": "fd00::1"}],
            },
        },
    }


def test_the_persons_own_user_data_stays_as_it_is_when_nothing_is_added():
    for text in ("#cloud-config\n# mine\npackages: [nano]\n", "#!/bin/sh\necho hello\n", "#cloud-config\n"):
        assert seed.user_data(told(user_data=text)) == text


def test_a_user_is_added_to_the_persons_cloud_config():
    config = cloud_config(seed.user_data(told(user="ada", user_data="#cloud-config\npackages: [nano]\n")))
    assert config["packages"] == ["nano"]
    assert config["users"][0]["name"] == "ada"


def test_a_user_is_put_beside_the_persons_script():
    message = email.message_from_string(seed.user_data(told(user="ada", user_data="#!/bin/sh\necho hällo\n")))
    parts: Any = message.get_payload()
    ours, theirs = parts
    assert ours.get_content_type() == "text/cloud-config"
    assert cloud_config(ours.get_payload(decode=True).decode())["users"][0]["name"] == "ada"
    assert theirs.get_content_type() == "text/x-shellscript"
    assert theirs.get_payload(decode=True).decode() == "#!/bin/sh\necho hällo\n"


@pytest.mark.parametrize(
    "text",
    ["", "hello", "packages: [nano]", "#cloud-config\n- a\n- b\n", "#cloud-config\na: [", "#cloud-config\na: b: c"],
)
def test_user_data_that_cloud_init_would_not_take_is_refused(text):
    with pytest.raises(seed.BadUserData) as refused:
        seed.user_data(told(user_data=text))
    assert isinstance(refused.value, errors.Invalid)


def test_what_is_said_twice_is_refused():
    with pytest.raises(seed.SaidTwice, match="users"):
        seed.user_data(told(user="ada", user_data="#cloud-config\nusers: [default]\n"))


@pytest.mark.parametrize(
    ("fault", "values"),
    [
        (seed.BadHostName, {"hostname": "-alpha"}),
        (seed.BadHostName, {"hostname": "a_b"}),
        (seed.BadHostName, {"hostname": ""}),
        (seed.BadHostName, {"hostname": "a\nb"}),
        (seed.BadInstance, {"instance_id": " "}),
        (seed.BadUser, {"user": "Ada Lovelace"}),
        (seed.BadUser, {"user": "ada\n"}),
        (seed.BadKey, {"ssh_keys": ("hello",)}),
        (seed.BadKey, {"ssh_keys": ("ssh-rsa " + KEY.split()[1],)}),
        (seed.BadKey, {"ssh_keys": (KEY + "\n" + KEY,)}),
        (seed.BadHash, {"password_hash": "open sesame"}),
        (seed.BadHash, {"password_hash": "$6$a\n$b"}),
        (seed.BadMac, {"network": (seed.NicSeed(mac="52:54:00:00:00"),)}),
        (seed.BadAddress, {"network": (seed.NicSeed(mac=MAC, address="10.0.0.2"),)}),
        (seed.BadAddress, {"network": (seed.NicSeed(mac=MAC, address="10.0.0.400/24"),)}),
        (seed.BadGateway, {"network": (seed.NicSeed(mac=MAC, address="10.0.0.2/24", gateway="10.0.1.1"),)}),
        (seed.BadGateway, {"network": (seed.NicSeed(mac=MAC, gateway="10.0.1.1"),)}),
        (seed.BadServer, {"network": (seed.NicSeed(mac=MAC, dns=("one.one.one.one",)),)}),
    ],
)
def test_nonsense_is_refused_with_what_it_is(fault, values):
    with pytest.raises(fault) as refused:
        seed.build(told(**values))
    assert isinstance(refused.value, errors.Invalid)
    assert words.say(refused.value)


def test_the_hash_of_a_password_is_in_no_error():
    with pytest.raises(seed.BadHash) as refused:
        seed.build(told(password_hash="open sesame"))
    assert "sesame" not in str(refused.value.params)


def test_a_multipart_document_stays_alone():
    text = "Content-Type: multipart/mixed; boundary=x\n\n--x--\n"
    assert seed.user_data(told(user_data=text)) == text
    with pytest.raises(seed.NotJoined):
        seed.user_data(told(user_data=text, user="ada"))


def test_a_password_is_hashed_with_a_fresh_salt_and_can_be_checked():
    first, second = seed.hash_password("open sesame"), seed.hash_password("open sesame")
    assert first.startswith("$6$")
    assert first != second
    assert password.matches("open sesame", first)
    assert password.matches("open sesame", second)
    assert not password.matches("open sesam", first)


def test_the_hash_is_the_one_that_every_other_program_makes():
    known = "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1"
    assert password.matches("Hello world!", known)


@pytest.mark.parametrize("text", ["", "a\0b", "a\nb", "x" * 512])
def test_what_is_no_password_is_refused(text):
    with pytest.raises(password.Unhashable):
        seed.hash_password(text)
