"""Letting a host in: whoever has a word gets the cluster's papers; all others need a certificate of the cluster.

It stands on the port on which hosts speak to each other. A stranger may ask there for the authority's certificate,
which is no secret, and for being let in; nothing else.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import json

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from bocage import errors, serving
from bocage.home import Home
from bocage.membership import invitation, papers, place, witnesses
from bocage.model import base, ground
from bocage.store import resources
from bocage.words import N_

_LARGEST = 64 << 10  # bytes of a request
_STRANGERS = ("/ca", "/join")


class Error(errors.Problem):
    """A host is not let in."""


class Malformed(Error, errors.Invalid):
    type = "join-malformed"
    text = N_("the request to join cannot be read: {reason}")
    reason: str


class NoStranger(Error, errors.Forbidden):
    type = "host-unknown"
    text = N_("only hosts of this cluster may ask this")


class NameTaken(Error, errors.Conflict):
    type = "join-host-name-taken"
    text = N_("the cluster has another host named {name}")
    hint = N_("give the machine another name ('hostnamectl set-hostname NAME'), restart its daemon, and join again")
    name: str


class OtherKind(Error, errors.Conflict):
    type = "join-other-kind"
    text = N_("the cluster knows {name} already, as a host or as a witness, and not as what it wants to be now")
    hint = N_("join as what it was before, or with another home")
    name: str


class AddressTaken(Error, errors.Conflict):
    type = "join-address-taken"
    text = N_("the cluster's host {name} has the address {address}")
    hint = N_("give this host an address of its own with '--address'")
    name: str
    address: str


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """Who wants to join."""

    secret: str
    uid: str
    name: str
    address: str
    request: str
    """For a certificate, PEM."""
    witness: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Papers:
    """What a host gets that is let in."""

    incarnation: str
    certificate: str
    authority: str
    clients: list[str]
    authority_key: str
    """Empty for a witness, as the next."""
    secret_key: str


class Door:
    """The application on the port for hosts: strangers come to `_STRANGERS`, hosts also to `inside`."""

    def __init__(self, strangers: ASGIApp, inside: ASGIApp) -> None:
        self._strangers, self._inside = strangers, inside

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("path") in _STRANGERS:
            await self._strangers(scope, receive, send)
        elif serving.is_host(scope):
            await self._inside(scope, receive, send)
        elif scope["type"] == "http":
            await _told(NoStranger())(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})


class Desk:
    """Where strangers ask."""

    def __init__(self, home: Home, kept: resources.Resources) -> None:
        self._home, self._kept = home, kept

    def app(self) -> Starlette:
        routes = [Route("/ca", self.authority), Route("/join", self.join, methods=["POST"])]
        return Starlette(routes=routes, exception_handlers={errors.Problem: _problem})

    async def authority(self, request: Request) -> Response:
        """The authority's certificate, which a stranger compares with its word."""
        return Response(self._home.authority.read_bytes(), media_type="application/x-pem-file")

    async def join(self, request: Request) -> Response:
        """Let a host in: once for each word, and nothing of it when anything does not hold."""
        asked = await _read(request)
        entry = await invitation.look_up(self._kept.store, asked.secret)
        known = await self._known(asked)
        authority, key = self._home.authority.read_bytes(), self._home.authority_key.read_bytes()
        signed = papers.sign(
            asked.request.encode(),
            authority=authority,
            key=key,
            uid=asked.uid,
            address=asked.address,
            days=papers.WITNESS_DAYS if asked.witness else papers.HOST_DAYS,
        )
        transaction = resources.Transaction(compare={entry.key: entry.revision}, deletes=[entry.key])
        if asked.witness:
            witnesses.enter(transaction, witnesses.Witness(asked.uid, asked.name, asked.address))
        elif not known:
            metadata = base.Metadata(uid=asked.uid, name=asked.name)
            status = ground.HostStatus(address=asked.address)
            transaction.create(ground.Host(metadata=metadata, spec=ground.HostSpec(), status=status))
        await self._kept.commit(transaction)
        at = place.read(self._home)
        assert at
        given = Papers(
            incarnation=at.incarnation,
            certificate=signed.decode(),
            authority=authority.decode(),
            clients=list(at.clients),
            authority_key="" if asked.witness else key.decode(),
            secret_key="" if asked.witness else self._home.secret_key.read_text(),
        )
        return JSONResponse(dataclasses.asdict(given), headers={"cache-control": "no-store"})

    async def _known(self, asked: Asked) -> bool:
        """Whether it was let in before. Raises NameTaken, AddressTaken and OtherKind."""
        hosts = (await self._kept.list(ground.Host)).items
        there = [witnesses.Witness(one.uid, one.name, one.status.address) for one in hosts]
        watching = await witnesses.list_all(self._kept.store)
        for other in [*there, *watching]:
            if other.uid == asked.uid:
                if (other in watching) != asked.witness:
                    raise OtherKind(name=other.name)
            elif other.name == asked.name:
                raise NameTaken(name=asked.name)
            elif other.address == asked.address:
                raise AddressTaken(name=other.name, address=asked.address)
        return any(one.uid == asked.uid for one in there)


async def _read(request: Request) -> Asked:
    content = b""
    async for piece in request.stream():
        content += piece
        if len(content) > _LARGEST:
            raise Malformed(reason="it is too large")
    try:
        told = json.loads(content)
        text = {field.name: str(told[field.name]) for field in dataclasses.fields(Asked) if field.name != "witness"}
        asked = Asked(**text, witness=told.get("witness") is True)
        ipaddress.ip_address(asked.address)
        base.Metadata(uid=asked.uid, name=asked.name)
    except (ValueError, KeyError, TypeError) as error:
        raise Malformed(reason=str(error)) from error
    return asked


async def _problem(_: Request, problem: Exception) -> Response:
    assert isinstance(problem, errors.Problem)
    return _told(problem)


def _told(problem: errors.Problem) -> Response:
    return JSONResponse({"type": problem.type, "params": problem.params}, status_code=problem.status)
