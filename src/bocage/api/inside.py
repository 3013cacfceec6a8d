"""What is done inside a guest through its agent: commands, files, passwords. Whoever may this has the guest."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from bocage.api import calls, machines, routing, uploads
from bocage.model import inside

router = routing.router("vm", routing.IN_PROJECT + "/vms/{name}")

Inside = Annotated[calls.Call, calls.may("vm:inside")]
Path = Annotated[inside.Path, Query(description="Of the file in the guest; absolute.", examples=["/etc/hosts"])]
_PROBLEMS = routing.problem_responses(404, 409, 502, 504)
_GRACE = 120.0  # seconds beside the time that a command has: for what it has said, and a deaf guest


class WrittenFile(BaseModel):
    """A file as it is in the guest now; `mode` is null where it is not ours."""

    size: int
    mode: str | None


@router.post(
    "/exec",
    name="exec",
    response_class=Response,
    responses={**routing.binary("application/x-ndjson", "Output in base64, then how it ended."), **_PROBLEMS},
)
async def execute(project: calls.Project, name: calls.Name, request: inside.Exec, call: Inside) -> Response:
    """Run a program in the guest and wait for its end.

    The answer comes then, a JSON document a line: `{"stdout": BASE64}`, `{"stderr": BASE64}`, and at last
    `{"exit_code": 0, "signal": null, "cut": []}`. The agent keeps 16 MiB of each stream; `cut` names those of
    which there was more. 504 `guest-command-runs-on` when its time is over: it is not ended by that.
    """
    within = request.timeout + _GRACE
    return await _ask(call, project, name, "POST", "exec", body=request, within=within)


@router.get(
    "/file",
    name="read_file",
    response_class=Response,
    responses={**routing.binary("application/octet-stream", "Its content; `Bocage-Size` when known."), **_PROBLEMS},
)
async def read_file(project: calls.Project, name: calls.Name, path: Path, call: Inside) -> Response:
    """A file of the guest."""
    return await _ask(call, project, name, "GET", "file", query={"path": path}, within=_GRACE)


@router.put(
    "/file",
    name="write_file",
    response_model=WrittenFile,
    responses=_PROBLEMS,
    openapi_extra=uploads.PIECE,
)
async def write_file(
    project: calls.Project,
    name: calls.Name,
    path: Path,
    request: Request,
    call: Inside,
    mode: Annotated[str | None, Query(pattern="^0?[0-7]{3}$", description="Of a new file, in octal.")] = None,
) -> Response:
    """Write a file of the guest; one that is there is replaced and keeps its mode."""
    uploads.check_bytes(request)
    machine = await machines.find(call, project, name)
    node = await machines.node_of(call, machine)
    return await node.forward(
        "PUT",
        f"/vms/{machine.uid}/file",
        query={"path": path, "mode": mode},
        headers={"content-type": "application/octet-stream"},
        content=request.stream(),
        within=None,
    )


@router.post("/password", name="set_password", status_code=204, responses=_PROBLEMS)
async def password(project: calls.Project, name: calls.Name, request: inside.GuestPassword, call: Inside) -> Response:
    """Give an account of the guest another password. It is kept nowhere."""
    return await _ask(call, project, name, "POST", "password", body=request, within=_GRACE)


async def _ask(
    call: calls.Call,
    project: str,
    name: str,
    method: str,
    what: str,
    *,
    query: dict[str, Any] | None = None,
    body: BaseModel | None = None,
    within: float,
) -> Response:
    machine = await machines.find(call, project, name)
    node = await machines.node_of(call, machine)
    return await node.forward(
        method,
        f"/vms/{machine.uid}/{what}",
        query=query,
        content=body.model_dump_json().encode() if body else None,
        headers={"content-type": "application/json"} if body else {},
        within=within,
    )
