"""The cluster that this host is part of: how it begins, how hosts join it, how it stands."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field
from starlette.responses import Response

from bocage.api import answers, calls, routing
from bocage.membership import standing
from bocage.model import base

router = routing.router("cluster", "/cluster")

Reading = Annotated[calls.Call, calls.may("cluster:read")]
Address = Annotated[str, Field(max_length=64)]


class Member(BaseModel):
    """One member of the store that all hosts share (etcd)."""

    host: str
    """The name of the host that it is on; empty before that has its name in the store."""
    name: str
    """etcd's own name of it: the host's uid; empty before its first start."""
    peer: str
    votes: bool
    """Whether it counts for the majority. One that does not follows, and gets its vote when another host comes."""
    witness: bool
    """Whether it is on a machine that runs no VMs."""
    leads: bool
    answers: bool
    reason: str
    """Why it does not answer."""
    version: str
    size: int
    """Bytes of its database."""


class Peer(BaseModel):
    """A host of the cluster."""

    name: str
    uid: str
    address: str


class Cluster(BaseModel):
    incarnation: str | None
    """Which store this is: another one after it was restored. Null: this host is part of no cluster."""
    address: str | None
    """This host's own, at which the others reach it."""
    hosts: list[Peer]
    members: list[Member]


class Place(BaseModel):
    """Where a host is in its cluster, from the moment on at which its daemon has started anew."""

    incarnation: str
    address: str


class Init(base.Part):
    address: Address | None = None
    """An IP address of this host at which the other hosts reach it; None: that towards the default gateway."""


class Join(base.Part):
    word: Annotated[str, Field(max_length=512)]
    """As `invite` on a host of the cluster gave it."""
    address: Address | None = None
    """An IP address of this host at which the other hosts reach it; None: that towards the host of the word."""
    witness: bool = False
    """It is to vote and run no VMs: the third of two hosts."""


class Invitation(BaseModel):
    word: str
    """For one host, good for an hour."""


@router.get("", name="get", response_model=Cluster)
async def get(call: Reading) -> Response:
    """The cluster: its hosts, and the members of its store, each asked how it is."""
    found = await call.api.membership.show() if call.api.membership else standing.NONE
    return answers.json(Cluster.model_validate(found).model_dump_json())


@router.post("/init", name="init", response_model=Place, responses=routing.problem_responses(409))
async def init(request: Init, call: Annotated[calls.Call, calls.may("cluster:init")]) -> Response:
    """Make a cluster of this host alone: what the store holds goes into etcd. The daemon starts anew; VMs go on."""
    at = await _membership(call).init(request.address)
    return answers.json(Place(incarnation=at.incarnation, address=at.address).model_dump_json())


@router.post("/invite", name="invite", response_model=Invitation, responses=routing.problem_responses(409))
async def invite(call: Annotated[calls.Call, calls.may("cluster:invite")]) -> Response:
    """A word that lets one host in, once, within an hour."""
    word = await _membership(call).invite()
    return answers.json(Invitation(word=str(word)).model_dump_json(), 200, {"cache-control": "no-store"})


@router.post("/join", name="join", response_model=Place, responses=routing.problem_responses(409))
async def join(request: Join, call: Annotated[calls.Call, calls.may("cluster:join")]) -> Response:
    """Have this host, which must have no VMs, become part of a cluster. The daemon starts anew."""
    at = await _membership(call).join(request.word, request.address, witness=request.witness)
    return answers.json(Place(incarnation=at.incarnation, address=at.address).model_dump_json())


def _membership(call: calls.Call) -> standing.Standing:
    """Raises standing.InNone where the API is served without a daemon."""
    if call.api.membership is None:
        raise standing.InNone
    return call.api.membership
