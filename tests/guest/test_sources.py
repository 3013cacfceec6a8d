"""Where Debian is fetched from: the machine's own mirror, for another release."""

import pathlib

import pytest

from bocage.guest import sources


@pytest.fixture
def etc(tmp_path):
    (tmp_path / "apt" / "sources.list.d").mkdir(parents=True)
    (tmp_path / "os-release").write_text('ID=debian\nVERSION_CODENAME=bookworm\nNAME="Debian"\n')
    return tmp_path


def lines(release: str, etc: pathlib.Path) -> list[str]:
    return [source.line() for source in sources.for_release(release, etc=etc)]


DEFAULTS = [
    "deb http://deb.debian.org/debian trixie main",
    "deb http://deb.debian.org/debian trixie-updates main",
    "deb http://deb.debian.org/debian-security trixie-security main",
]


def test_the_one_line_form_is_understood(etc):
    (etc / "apt" / "sources.list").write_text(
        "# deb http://old.example/debian bookworm main\n"
        "deb [arch=amd64 trusted=yes] http://mirror.example/debian bookworm main contrib # ours\n"
        "deb-src http://mirror.example/debian bookworm main\n"
        "deb http://mirror.example/debian bookworm-updates main\n"
        "deb [signed-by=/etc/keys/a.gpg] http://other.example/tools stable main\n"
        "deb http://vendor.example/x vendor main\n"
    )
    assert lines("trixie", etc) == [
        "deb [trusted=yes] http://mirror.example/debian trixie main",
        "deb http://mirror.example/debian trixie-updates main",
        "deb [signed-by=/etc/keys/a.gpg] http://other.example/tools trixie main",
    ]


def test_deb822_is_understood(etc):
    (etc / "apt" / "sources.list.d" / "debian.sources").write_text(
        "Types: deb deb-src\n# a remark\nURIs: http://a.example/debian http://b.example/debian\n"
        "Suites: bookworm\n bookworm-security\nComponents: main\n"
        "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
        "\n"
        "Types: deb\nURIs: http://c.example/debian\nSuites: bookworm\nComponents: main\nEnabled: no\n"
        "\n"
        "Types: deb\nURIs: http://d.example/debian\nSuites: bookworm\nComponents: main\nSigned-By:\n -----BEGIN\n .\n"
    )
    assert lines("bookworm", etc) == [
        "deb http://a.example/debian bookworm main",
        "deb http://a.example/debian bookworm-security main",
        "deb http://b.example/debian bookworm main",
        "deb http://b.example/debian bookworm-security main",
        "deb http://d.example/debian bookworm main",
    ]


def test_without_sources_of_its_own_a_machine_gets_debians(etc):
    assert lines("trixie", etc) == DEFAULTS


def test_sources_that_are_for_something_else_do_not_count(etc):
    (etc / "os-release").write_text("VERSION_CODENAME=noble\n")
    (etc / "apt" / "sources.list").write_text("deb http://vendor.example/tools tools main\n")
    assert lines("trixie", etc) == DEFAULTS
