"""Files that come over the network: piece by piece to the node, gone on with where they broke off."""

from __future__ import annotations

from typing import Annotated

from fastapi import Header, Path, Query
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from bocage import errors
from bocage.api import calls, facts, nodes, problems, routing
from bocage.model import base, ground, requests
from bocage.model.work import Task
from bocage.words import N_

router = routing.router("upload", "/uploads")
imports = routing.router("vm", routing.IN_PROJECT)

Key = Annotated[
    str,
    Path(pattern=r"^[A-Za-z0-9-]{8,64}$", description="Chosen by the sender.", examples=["5f0c9f1e-6f0a-4c53"]),
]
StorageName = Annotated[base.Name, Query(description="Where it is to lie.")]
Offset = Annotated[
    int, Header(ge=0, le=1 << 62, description="Where this piece begins: what HEAD said, 0 for a new upload.")
]
Uploading = Annotated[calls.Call, calls.may("image:add")]
_PROBLEMS = routing.problem_responses(404, 409, 502, 504)
_OFFSET = {"Upload-Offset": {"description": "Bytes that are here.", "schema": {"type": "integer"}}}
PIECE = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


class NotBytes(problems.Error, errors.Invalid):
    type = "upload-not-bytes"
    status = 415
    text = N_("an upload is raw bytes, not '{given}'")
    hint = N_("send it with 'Content-Type: application/octet-stream'")
    given: str


class Import(base.Part):
    """A VM from an archive that was uploaded."""

    upload: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{8,64}$")]
    name: base.Name | None = None
    """None: the one that it has."""
    new_identity: bool = False
    """A fresh uid, SMBIOS uuid and MAC addresses: for a copy beside the original."""
    storage: base.Name = "local"
    networks: requests.Networks = {}


@router.get("/{key}", name="get", response_class=Response, responses={200: {"headers": _OFFSET}, **_PROBLEMS})
async def get(key: Key, call: Uploading, storage: StorageName = "local") -> Response:
    """How much of an upload is here."""
    return await (await _node_of(call, storage)).forward("HEAD", f"/uploads/{key}", query={"storage": storage})


@router.head("/{key}", name="head", response_class=Response, responses={200: {"headers": _OFFSET}, **_PROBLEMS})
async def head(key: Key, call: Uploading, storage: StorageName = "local") -> Response:
    """How much of an upload is here."""
    return await (await _node_of(call, storage)).forward("HEAD", f"/uploads/{key}", query={"storage": storage})


@router.patch(
    "/{key}", name="send", status_code=204, responses={204: {"headers": _OFFSET}, **_PROBLEMS}, openapi_extra=PIECE
)
async def send(
    key: Key, request: Request, call: Uploading, upload_offset: Offset, storage: StorageName = "local"
) -> Response:
    """The next piece. What was received before the connection broke is kept."""
    return await _send(call, request, key, upload_offset, storage)


@router.delete("/{key}", name="discard", status_code=204, responses=_PROBLEMS)
async def discard(key: Key, call: Uploading, storage: StorageName = "local") -> Response:
    """Forget an upload."""
    node = await _node_of(call, storage)
    return await node.forward("DELETE", f"/uploads/{key}", query={"storage": storage})


@imports.put(
    "/imports/{key}",
    name="import_send",
    status_code=204,
    responses={204: {"headers": _OFFSET}, **_PROBLEMS},
    openapi_extra=PIECE,
)
async def send_import(
    project: calls.Project,
    key: Key,
    request: Request,
    call: Annotated[calls.Call, calls.may("vm:create")],
    upload_offset: Offset = 0,
    storage: StorageName = "local",
) -> Response:
    """An archive of a VM, or the rest of one from `Upload-Offset` on."""
    return await _send(call, request, key, upload_offset, storage)


@imports.post(
    "/vms/import", name="import", status_code=202, response_model=Task, responses=routing.problem_responses(404, 409)
)
async def import_vm(
    project: calls.Project, request: Import, call: Annotated[calls.Call, calls.may("vm:create")]
) -> Response:
    """Make a VM from an archive that was sent before."""
    storage = await facts.storage_named(call, request.storage)
    await facts.check_networks(call, project, request.networks.values())
    params = request.model_dump(mode="json", exclude={"storage"})
    task = call.task("vm.import", host=call.api.reaching(storage), project=project, **params, storage=storage.uid)
    return await call.accept(task)


def check_bytes(request: Request) -> None:
    """Raises NotBytes."""
    kind = request.headers.get("content-type", "application/octet-stream")
    if kind.partition(";")[0].strip().lower() != "application/octet-stream":
        raise NotBytes(given=kind[:100])


async def _node_of(call: calls.Call, name: str) -> nodes.Node:
    """The node that uploads to a storage go to. Raises resources.Missing and ways.HostSilent."""
    storage = await call.resources.find(ground.Storage, None, name)
    return await call.api.nodes.of(call.api.reaching(storage))


async def _send(call: calls.Call, request: Request, key: str, offset: int, storage: str) -> Response:
    check_bytes(request)
    node = await _node_of(call, storage)
    return await node.forward(
        "PATCH",
        f"/uploads/{key}",
        query={"storage": storage},
        headers={"upload-offset": str(offset), "content-type": "application/octet-stream"},
        content=request.stream(),
        within=None,
    )
