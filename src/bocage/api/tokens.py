"""Tokens: how programs are known over the network. Shown once, kept as a hash."""

from __future__ import annotations

import datetime
from typing import Annotated

from pydantic import BaseModel
from starlette.responses import Response

from bocage.api import answers, auth, calls, paging, routing
from bocage.model import base, requests, work
from bocage.store import resources

router = routing.router("token", "/tokens")

Reading = Annotated[calls.Call, calls.may("token:read")]


class Created(BaseModel):
    """A new token, and its text, which nobody sees again; null where a repeated request is answered."""

    token: str | None
    resource: work.Token


@router.get("", name="list", response_model=answers.Listed[work.Token], responses=routing.problem_responses(410))
async def list_(call: Reading, limit: paging.Limit = 100, after: paging.After = None) -> Response:
    """All tokens, without what would open anything."""
    return await call.api.views.page(work.Token, None, limit=limit, after=after)


@router.post("", name="create", status_code=201, response_model=Created, responses=routing.problem_responses(409))
async def create(request: requests.TokenCreate, call: Annotated[calls.Call, calls.may("token:create")]) -> Response:
    """Make a token. Its text is in this answer and nowhere else."""
    minted = auth.mint()
    expires = base.now() + datetime.timedelta(days=request.days) if request.days else None
    token = work.Token(
        metadata=base.Metadata(uid=minted.uid, name=request.name, project=auth.PROJECT),
        spec=work.TokenSpec(hash=minted.hash, expires=expires),
    )
    transaction = resources.Transaction()
    transaction.create(token)
    kept = Created(token=None, resource=token)
    await call.commit(transaction, answers.json(kept.model_dump_json(), 201))  # what is kept lacks the secret
    shown = kept.model_copy(update={"token": minted.text})
    return answers.json(shown.model_dump_json(), 201, {"cache-control": "no-store"})


@router.delete("/{name}", name="delete", status_code=204, responses=routing.problem_responses(404))
async def delete(name: calls.Name, call: Annotated[calls.Call, calls.may("token:delete")]) -> Response:
    """Take a token away; it opens nothing from now on."""
    token = await call.resources.find(work.Token, auth.PROJECT, name)
    await call.resources.delete(token)
    return Response(status_code=204)
