import pathlib

import pytest

from bocage.cli import failure, read

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ me@here"


def test_vcpus_are_a_number_or_a_shape():
    assert read.cpus("4") == {"cores": 4}
    assert read.cpus("sockets=1,cores=2,threads=2") == {"sockets": 1, "cores": 2, "threads": 2}


@pytest.mark.parametrize("text", ["", "two", "sockets=x", "sockets=1,sockets=2", "dies=2", "2,4", "sockets"])
def test_other_vcpus_are_refused_with_what_would_be_right(text):
    with pytest.raises(failure.Usage) as caught:
        read.cpus(text)
    assert "--cpus" in str(caught.value)
    assert "sockets=1,cores=2" in caught.value.right


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("2222:22", {"host_port": 2222, "guest_port": 22}),
        ("0.0.0.0:80:8080", {"host_address": "0.0.0.0", "host_port": 80, "guest_port": 8080}),
        ("[::1]:80:80", {"host_address": "::1", "host_port": 80, "guest_port": 80}),
        ("53:53/udp", {"host_port": 53, "guest_port": 53, "protocol": "udp"}),
    ],
)
def test_published_ports_are_read(text, found):
    assert read.publish(text) == found


@pytest.mark.parametrize("text", ["22", "a:b", "1.2.3:80:80", "80:80/sctp", "999999:1", "80:80:80:80", "::1:80:80"])
def test_what_names_no_two_ports_is_refused(text):
    with pytest.raises(failure.Usage):
        read.publish(text)


def test_a_disk_is_a_size_or_a_description():
    assert read.disk("20G") == {"size": "20G"}
    assert read.disk("size=20G,bus=sata,preallocated=yes") == {"size": "20G", "bus": "sata", "preallocated": True}
    assert read.disk("20G,bus=sata") == {"size": "20G", "bus": "sata"}
    assert read.disk("volume=data1") == {"volume": "data1"}


def test_a_nic_is_a_network_with_more_behind_it():
    assert read.nic("lan") == {"network": "lan"}
    found = read.nic("lan,model=e1000,mac=52:54:00:AB:CD:EF")
    assert found == {"network": "lan", "model": "e1000", "mac": "52:54:00:ab:cd:ef"}


def test_an_address_is_for_the_first_nic_unless_another_one_is_named():
    found = read.address("10.0.0.5/24,gateway=10.0.0.1,dns=10.0.0.1+10.0.0.2")
    assert found == {
        "nic": "nic0",
        "address": "10.0.0.5/24",
        "gateway": "10.0.0.1",
        "dns": ["10.0.0.1", "10.0.0.2"],
    }
    assert read.address("10.0.0.5/24,nic=nic1")["nic"] == "nic1"


def test_an_identity_is_read_key_by_key():
    found = read.smbios(["uuid=5F0C", "serial=abc=1", "oem=one", "oem=two"])
    assert found == {"uuid": "5f0c", "serial": "abc=1", "oem_strings": ["one", "two"]}
    with pytest.raises(failure.Usage):
        read.smbios(["colour=red"])


def test_a_key_is_given_as_text_or_by_its_file(tmp_path: pathlib.Path):
    file = tmp_path / "id.pub"
    file.write_text(f"# mine\n{KEY}\n\n")
    assert read.ssh_keys(KEY) == [KEY]
    assert read.ssh_keys(str(file)) == [KEY]


def test_a_private_key_is_not_sent_anywhere(tmp_path: pathlib.Path):
    file = tmp_path / "id"
    file.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n")
    with pytest.raises(failure.Usage) as caught:
        read.ssh_keys(str(file))
    assert "abc" not in str(caught.value)
    assert caught.value.right == f"give the public one, {file}.pub"


def test_a_file_that_is_not_there_is_a_wrong_value(tmp_path: pathlib.Path):
    with pytest.raises(failure.Usage) as caught:
        read.text_file("--user-data", str(tmp_path / "none"))
    assert failure.code(caught.value) == failure.USAGE
