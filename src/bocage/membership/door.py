"""The port on which the hosts of a cluster speak to each other, with mutual TLS; strangers may ask to be let in."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from starlette.types import ASGIApp

from bocage import errors, serving
from bocage.home import Home
from bocage.membership import admission, place
from bocage.store import resources
from bocage.words import N_


class Unusable(errors.Unavailable):
    type = "cluster-address-unusable"
    text = N_("{address} cannot be listened on: {reason}")
    hint = N_(
        "this host is in the cluster with that address: give it back to a NIC; 'ip address' shows those that are there"
    )
    address: str
    reason: str


@contextlib.asynccontextmanager
async def serve(home: Home, at: place.Place, kept: resources.Resources, inside: ASGIApp) -> AsyncIterator[None]:
    """Serve `inside` to hosts, until the end of the block. Raises Unusable."""
    try:
        listener = serving.listen(at.address, place.HOST_PORT)
    except OSError as error:
        where = place.url(at.address, place.HOST_PORT).removeprefix("https://")
        raise Unusable(address=where, reason=error.strerror or str(error)) from error
    app = admission.Door(admission.Desk(home, kept).app(), inside)
    papers = place.certificates(home)
    async with serving.tls(app, listener, authority=papers.authority, certificate=papers.certificate, key=papers.key):
        yield
