"""How this host stands to a cluster: by itself or in one, and the ways from the one to the other.

Whatever is done here leaves a host that is by itself, as before, or one in a cluster: `cluster.json` is written last.
Then the daemon starts anew, and its VMs go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import ipaddress
import logging
import socket
import uuid
from collections.abc import AsyncIterator
from typing import Any

from bocage import errors, files
from bocage.home import Home
from bocage.membership import conversion, invitation, member, papers, place
from bocage.model import ground, vm
from bocage.store import line, resources, secrets
from bocage.words import N_

log = logging.getLogger(__name__)

_BEGIN_WITHIN = 30.0  # seconds until an etcd of one member answers
_NAMED = 5
NONE: dict[str, Any] = {"incarnation": None, "address": None, "hosts": [], "members": []}
"""What is shown of no cluster."""


class Error(errors.Problem):
    """Anything that goes wrong with clusters."""


class InOne(Error, errors.Conflict):
    type = "cluster-already"
    text = N_("this host is part of a cluster already")
    hint = N_("'bocage cluster show' shows it; 'bocage cluster invite' lets another host in")


class InNone(Error, errors.Conflict):
    type = "cluster-none"
    text = N_("this host is part of no cluster")
    hint = N_("'bocage cluster init' makes one, 'bocage cluster join WORD' joins one")


class UnderWay(Error, errors.Conflict):
    type = "cluster-under-way"
    text = N_("this host is just becoming part of a cluster")


class NoAddress(Error, errors.Invalid):
    type = "cluster-no-address"
    text = N_("{address} is no address of this host: {reason}")
    hint = N_("give one at which the other hosts reach this one: '--address IP'; 'ip address' shows those that it has")
    address: str
    reason: str


class PortTaken(Error, errors.Conflict):
    type = "cluster-port-taken"
    text = N_("port {port} at {address} is taken: {reason}")
    hint = N_("'ss -ltnp' shows who has it; Debian's own etcd service is not needed: 'systemctl disable --now etcd'")
    address: str
    port: int
    reason: str


class OnlyWitness(Error, errors.Conflict):
    type = "cluster-only-witness"
    text = N_("this machine is a witness: it votes, and lets nobody in")
    hint = N_("run it on a host of the cluster")


class HasVMs(Error, errors.Conflict):
    type = "join-has-vms"
    text = N_("this host has VMs of its own ({names}); a host that joins a cluster must have none")
    hint = N_(
        "'bocage vm export' and 'bocage vm delete' them, those in the trash too, and import them when it has joined"
    )
    names: str


class Standing:
    """One daemon's."""

    def __init__(self, home: Home, uid: str, kept: resources.Resources, anew: asyncio.Event) -> None:
        """`anew` is set when the daemon is to start anew, on another store than it has."""
        self._home, self._uid, self._kept = home, uid, kept
        self._anew = anew
        self._at = place.read(home)  # that of the store that is open
        self._busy = False

    async def init(self, address: str | None) -> place.Place:
        """Make a cluster of this host alone; the daemon is to start anew then.

        Raises InOne, UnderWay, NoAddress, PortTaken, member.NoEtcd, and what etcd and the disk raise.
        """
        async with self._alone() as store:
            member.installed()
            own = _own_address(address, "192.0.2.1")
            at = place.Place(uuid.uuid4().hex, own, (place.url(own, place.CLIENT_PORT),))
            etcd = member.Member(self._home, self._uid, own)
            try:
                await asyncio.to_thread(self._papers, own)
                await etcd.start({}, new=True)
                await self._found(at, store)
                await asyncio.to_thread(at.write, self._home)
            except BaseException:
                await etcd.stop()
                raise
        return at

    async def invite(self) -> invitation.Word:
        """A word for another host. Raises InNone, OnlyWitness, and what the store raises."""
        if self._at is None:
            raise InNone
        if self._at.witness:
            raise OnlyWitness
        mark = papers.fingerprint(await asyncio.to_thread(self._home.authority.read_bytes))
        around = place.url(self._at.address, place.HOST_PORT).removeprefix("https://")
        return await invitation.make(self._kept.store, around, mark)

    async def join(self, text: str, address: str | None, *, witness: bool) -> place.Place:
        """Become part of the cluster that a word is of, as a host or as a witness; the daemon is to start anew then.

        What its storage holds comes along. Raises InOne, UnderWay, HasVMs, NoAddress, PortTaken, member.NoEtcd,
        invitation.Malformed, and what `joining.join` and the cluster's store raise.
        """
        from bocage.membership import bringing, joining  # late, as all that needs httpx
        from bocage.store.etcd import engine

        word = invitation.Word.parse(text)
        async with self._alone() as store:
            await store.hold()
            machines = (await self._kept.list(vm.VM, trash=True)).items
            if machines:
                more = "…" if len(machines) > _NAMED else ""
                raise HasVMs(names=", ".join(one.name for one in machines[:_NAMED]) + more)
            member.installed()
            own = _own_address(address, word.address.rpartition(":")[0].strip("[]"))
            host = await self._kept.get(ground.Host, None, self._uid)
            at = await joining.join(self._home, word, uid=self._uid, name=host.name, address=own, witness=witness)
            if not witness:
                into = await engine.open(at.access(self._home), client=self._uid)
                try:
                    await bringing.bring(self._kept, resources.Resources(into), host)
                finally:
                    await into.close()
            await asyncio.to_thread(at.write, self._home)
        return at

    @property
    def in_one(self) -> bool:
        """Whether this host is part of a cluster."""
        return self._at is not None

    async def show(self) -> dict[str, Any]:
        """The cluster whose store is open; `incarnation` is None where there is none. Raises what the store raises."""
        if self._at is None:
            return NONE
        at = place.read(self._home) or self._at
        from bocage.membership import council, witnesses
        from bocage.store.etcd import gateway

        hosts = (await self._kept.list(ground.Host)).items
        watching = await witnesses.list_all(self._kept.store)
        names = {one.uid: one.name for one in hosts} | {one.uid: one.name for one in watching}
        voters = {one.uid for one in watching}
        by = gateway.Gateway(at.access(self._home))
        try:
            seats = await council.seats(by)
            found = await asyncio.gather(*[council.standing(by, one) for one in seats])
        finally:
            await by.close()
        members = [
            {"host": names.get(one.name, ""), "name": one.name, "peer": one.peer, "votes": one.votes}
            | {"witness": one.name in voters}
            | dataclasses.asdict(how)
            for one, how in zip(seats, found, strict=True)
        ]
        return {
            "incarnation": at.incarnation,
            "address": at.address,
            "hosts": [{"name": one.name, "uid": one.uid, "address": one.status.address} for one in hosts],
            "members": members,
        }

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncIterator[line.Line[Any]]:
        """While this host goes over to another store, which is held some time; else all is as before."""
        if place.read(self._home):
            raise InOne
        if self._busy:
            raise UnderWay
        store = self._kept.store
        assert isinstance(store, line.Line)
        self._busy = True
        try:
            await member.sweep(self._home)
            self._home.cluster.mkdir(mode=0o700)
            yield store
            self._anew.set()
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                self._home.cluster_document.unlink()
            await asyncio.to_thread(files.remove_tree, self._home.cluster)
            self._busy = False
            store.go_on()
            raise

    def _papers(self, address: str) -> None:
        home = self._home
        authority, authority_key = papers.authority()
        key, request = papers.request()
        certificate = papers.sign(request, authority=authority, key=authority_key, uid=self._uid, address=address)
        secrets.Box.open(home.secret_key)  # made, so that all hosts have the same
        for path, content in (
            (home.authority, authority),
            (home.authority_key, authority_key),
            (home.certificate, certificate),
            (home.certificate_key, key),
        ):
            files.write_durably(path, content, mode=0o600)

    async def _found(self, at: place.Place, store: line.Line[Any]) -> None:
        from bocage.store.etcd import engine, founding, gateway

        how = at.access(self._home)
        by = gateway.Gateway(how)
        try:
            await founding.found(by, at.incarnation, within=_BEGIN_WITHIN)
        finally:
            await by.close()
        into = await engine.open(how, client=self._uid)
        try:
            await store.hold()
            count = await conversion.copy(self._kept.store, into)
            await conversion.begin_protocol(into, at.incarnation)
        finally:
            await into.close()
        log.info("%d entries of the database were copied into etcd", count)


def _own_address(given: str | None, towards: str) -> str:
    """An address of this host, that is given or from which `towards` is reached; its ports are free.

    Raises NoAddress and PortTaken.
    """
    address = given
    if address is None:
        family = socket.AF_INET6 if ":" in towards else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((towards, 9))  # sends nothing
                address = str(probe.getsockname()[0])
            except OSError as error:
                raise NoAddress(address="?", reason=error.strerror or str(error)) from error
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
    except ValueError as error:
        raise NoAddress(address=address, reason="it is no IP address") from error
    for port in (0, place.CLIENT_PORT, place.PEER_PORT, place.HOST_PORT):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError as error:
                reason = error.strerror or str(error)
                raise (
                    PortTaken(address=address, port=port, reason=reason)
                    if port
                    else NoAddress(address=address, reason=reason)
                ) from error
    return address
