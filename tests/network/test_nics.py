"""Which NIC is meant, and what one is to have after a reboot: from what the kernel shows."""

from __future__ import annotations

import pytest

from bocage.network import kernel, nics
from bocage.network.nics import Ways

ONE, OTHER = "52:54:00:00:00:01", "52:54:00:00:00:02"


def link(name: str, mac: str, kind: str = "", *, master: str = "", permanent: str = "") -> kernel.Link:
    return kernel.Link(
        name=name, kind=kind, alias="", mac=mac, permanent=permanent, mtu=1500, up=True, carrier=True, master=master,
        on="", addresses=(), owner=None, port_isolated=False,
    )  # fmt: skip


LINKS = [
    link("lo", "00:00:00:00:00:00"),
    link("bcu-1a2b3c4d", ONE, "bridge"),
    link("eno1", ONE, master="bond0"),
    link("eno2", ONE, master="bond0", permanent=OTHER),
    link("bond0.10", ONE, "vlan"),
    link("bond0", ONE, "bond", master="bcu-1a2b3c4d"),
    link("eno3", "52:54:00:00:00:03"),
]


@pytest.mark.parametrize(
    ("asked", "kind", "found"),
    [
        (ONE, None, "bond0"),
        (ONE, "", "eno1"),
        (OTHER, None, "eno2"),
        ("eno1", None, "eno1"),
        ("bond0", "bond", "bond0"),
        ("bond0.10", None, "bond0.10"),
        ("52:54:00:00:00:03".upper(), None, "eno3"),
        ("eno3", "bond", None),
        ("bcu-1a2b3c4d", None, None),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_of_those_that_bear_one_mac_a_bond_is_meant(
    asked: str, kind: str | None, found: str | None, turned: bool
) -> None:
    chosen = nics.chosen(LINKS[::-1] if turned else LINKS, asked, kind=kind)
    assert (chosen.name if chosen else None) == found


def test_of_a_bond_those_that_came_late_are_free_and_bear_one_of_its_macs() -> None:
    late = link("eno4", "52:54:00:00:00:04")
    macs = (ONE, OTHER, late.mac)
    assert nics.late(LINKS, macs) == []
    assert nics.late([*LINKS, late], macs) == ["eno4"]
    renamed = link("eno4", "02:00:00:00:00:01", permanent=late.mac)
    assert nics.late([*LINKS, renamed], macs) == ["eno4"]
    assert nics.late([*LINKS, link("eno4", late.mac, master="br0"), link("eno5.7", late.mac, "vlan")], macs) == []


CONFIRMED = Ways(
    ("192.0.2.2/24", "2001:db8::2/64"),
    (),
    ("203.0.113.0/24 via 192.0.2.1", "default via 192.0.2.1"),
    ("default via fe80::1 metric 1024",),
)
LEASED = Ways((), ("192.0.2.70/24",), ("default via 192.0.2.1",))
CLOUD = Ways(("198.51.100.7/32",), (), ("10.0.0.1 scope link", "default via 10.0.0.1"))


@pytest.mark.parametrize(
    ("confirmed", "now", "wanted"),
    [
        (CONFIRMED, Ways(), CONFIRMED),
        (CONFIRMED, CONFIRMED, CONFIRMED),
        (CLOUD, Ways(), CLOUD),
        (CONFIRMED, Ways(("192.0.2.2/24",)), CONFIRMED),
        (LEASED, Ways(), LEASED),
        (
            LEASED,
            Ways((), ("10.7.0.5/16",), ("default via 10.7.0.1",)),
            Ways((), ("10.7.0.5/16",), ("default via 10.7.0.1",)),
        ),
        (  # somebody numbered it otherwise since
            CONFIRMED,
            Ways(("10.7.0.5/16",), (), ("default via 10.7.0.1",)),
            Ways(("10.7.0.5/16", "2001:db8::2/64"), (), ("default via 10.7.0.1",), CONFIRMED.routes6),
        ),
    ],
)
def test_a_nic_that_comes_up_is_to_have_what_was_confirmed_and_what_it_was_given_since(
    confirmed: Ways, now: Ways, wanted: Ways
) -> None:
    assert nics.settled(confirmed, now) == wanted
