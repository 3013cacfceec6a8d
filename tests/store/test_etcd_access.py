"""etcd behind mutual TLS, with users: who gets in, and what happens when a token dies."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import AsyncIterator

import pytest

from bocage.store.etcd import access, gateway, records
from tests.store import members, papers
from tests.store.conformance import following, put, state

ROOT = access.User("root", "for the tests")
USER = access.User("bocage", "for the tests, too")


async def turn_on_users(by: gateway.Gateway) -> None:
    """A user of the store's keys alone."""
    low, past = (records.text(key) for key in (b"/bocage/", b"/bocage0"))
    permission = {"permType": "READWRITE", "key": low, "range_end": past}
    for path, said in (
        ("user/add", {"name": ROOT.name, "password": ROOT.password}),
        ("user/grant", {"user": ROOT.name, "role": "root"}),
        ("user/add", {"name": USER.name, "password": USER.password}),
        ("role/add", {"name": "store"}),
        ("role/grant", {"name": "store", "perm": permission}),
        ("user/grant", {"user": USER.name, "role": "store"}),
        ("enable", {}),
    ):
        await by.ask(f"auth/{path}", said, within=20)


async def refusal(how: access.Access) -> type[Exception] | None:
    """Why the member does not let a key of the store be read."""
    by = gateway.Gateway(how)
    try:
        await by.ask_one(by.order[0], "kv/range", {"key": records.text(b"/bocage/a")})
    except (gateway.Lost, gateway.Refused) as refused:
        return type(refused)
    finally:
        await by.close()
    return None


@pytest.fixture
async def ground(tmp_path: pathlib.Path) -> AsyncIterator[tuple[members.Cluster, papers.Authority, access.Access]]:
    """A member with mutual TLS and users, its authority, and how the store's own user reaches it."""
    authority = papers.Authority(tmp_path)
    with members.cluster(1, ["--unsafe-no-fsync"], papers=authority.issue("member")) as made:
        ours = authority.issue("client")
        by = gateway.Gateway(made.access(certificates=ours))
        await turn_on_users(by)
        await by.close()
        yield made, authority, made.access(certificates=ours, user=USER)


async def test_nobody_gets_in_with_another_certificate_or_password(ground, tmp_path):
    made, authority, ours = ground
    (tmp_path / "other").mkdir()
    stranger = papers.Authority(tmp_path / "other").issue("stranger")
    assert await refusal(ours) is None
    for why, certificates, user in (
        (gateway.Refused, ours.certificates, None),
        (gateway.Refused, ours.certificates, access.User(USER.name, "guessed")),
        (gateway.Lost, dataclasses.replace(stranger, authority=authority.path), USER),
        (gateway.Lost, dataclasses.replace(ours.certificates, authority=stranger.authority), USER),
        (gateway.Refused, authority.issue("named", common_name="somebody"), USER),
    ):
        assert await refusal(made.access(certificates=certificates, user=user)) is why, (certificates, user)
    with pytest.raises(ValueError, match="certificates"):
        made.access()
    assert USER.password not in repr(ours)


async def test_it_is_the_same_store_and_outlives_its_token(ground):
    made, _, ours = ground
    await members.found(ours, "/bocage/")
    with pytest.raises(gateway.Denied):
        await members.found(ours, "/other/")
    store = await members.opened(ours, "/bocage/")
    watch = store.watch("", since=0)
    await put(store, a="1")
    assert [change.revision for change in await following(watch)] == [1]

    made.members[0].kill()  # knows no token when it is back
    made.start(made.members[0])
    made.wait()
    assert await state(store) == {"a": b"1"}
    assert await put(store, a="2") == 2
    assert [change.revision for change in await following(watch)] == [2]

    root = gateway.Gateway(made.access(certificates=ours.certificates, user=ROOT))
    await root.ask("auth/user/add", {"name": "third", "password": "now all tokens are old"}, within=10)
    await root.close()
    assert await put(store, a="3") == 3
    assert [change.revision for change in await following(watch)] == [3]
    await store.close()
