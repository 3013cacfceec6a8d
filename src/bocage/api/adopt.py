"""Adoption: VMs from directories of a lost database or of another machine."""

from __future__ import annotations

from typing import Annotated

from starlette.responses import Response

from bocage import errors
from bocage.api import calls, facts, problems, routing
from bocage.model import requests
from bocage.model.work import Task
from bocage.words import N_

router = routing.router("adopt", "/adopt")


class OnlyLocally(problems.Error, errors.Forbidden):
    type = "adopt-only-locally"
    text = N_("directories of the host are adopted only from its own command line")
    hint = N_("run 'bocage adopt' on the host, or name a storage")


class Nothing(problems.Error, errors.Invalid):
    type = "adopt-nothing"
    text = N_("there is nothing to adopt: neither directories nor a storage were given")


class NameForSeveral(problems.Error, errors.Invalid):
    type = "adopt-name-for-several"
    text = N_("a name can be given to one directory, not to several and not to a storage")
    hint = N_("adopt it by itself: 'bocage adopt DIR --name {name}'")
    name: str


@router.post("", name="take", status_code=202, response_model=Task, responses=routing.problem_responses(404))
async def take(request: requests.Adopt, call: Annotated[calls.Call, calls.may("host:adopt")]) -> Response:
    """Take in VMs, and the images beside them, from directories or a whole storage."""
    if request.directories and not call.asker.local:
        raise OnlyLocally
    if not request.directories and request.storage is None:
        raise Nothing
    if request.name is not None and (request.storage is not None or len(request.directories) != 1):
        raise NameForSeveral(name=request.name)
    storage = await facts.storage_named(call, request.storage) if request.storage is not None else None
    await facts.check_networks(call, "default", request.networks.values())
    host = call.api.reaching(storage) if storage else (await call.api.this_host()).uid
    params = request.model_dump(mode="json", exclude={"storage"})
    return await call.accept(call.task("adopt", host=host, **params, storage=storage.uid if storage else None))
