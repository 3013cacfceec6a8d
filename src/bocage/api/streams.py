"""What is no state: consoles, logs, screens, exports, all passed through from the VM's node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import Query, WebSocket
from pydantic import BaseModel, Field
from starlette.responses import Response

from bocage import errors
from bocage.api import answers, calls, machines, problems, routing
from bocage.model import base, confinement, requests, vm
from bocage.planner import parts
from bocage.words import N_

router = routing.router("vm", routing.IN_PROJECT + "/vms/{name}")

Reading = Annotated[calls.Call, calls.may("vm:read")]
Console = Annotated[calls.Call, calls.may("vm:console")]
_PROBLEMS = routing.problem_responses(404, 409, 502, 504)
_LONGEST = 86_400.0  # seconds that a console is waited on


class NoEdit(problems.Error, errors.Conflict):
    type = "vm-not-edited"
    text = N_("the vm.yaml of {name} was not edited by hand")
    name: str


class Expect(base.Part):
    """What to wait for on the serial line."""

    send: Annotated[str, Field(max_length=65_536)] | None = None
    """Sent first, with Enter; then only what comes after it counts."""
    pattern: Annotated[str, Field(min_length=1, max_length=4096)]
    """A regular expression that a whole line is searched for."""
    timeout: Annotated[float, Field(gt=0, le=_LONGEST)] = 60.0
    """Seconds."""


class Expected(BaseModel):
    line: str


class Command(BaseModel):
    """QEMU's line, as words and for a shell, and the script that makes what it needs and then runs it."""

    command: list[str]
    line: str
    script: str


class Differences(BaseModel):
    """What waits for a cold start, and what was edited in `vm.yaml` by hand."""

    pending: list[dict[str, Any]]
    edited: list[dict[str, Any]]


@router.get(
    "/log",
    name="log",
    response_class=Response,
    responses={**routing.binary("text/plain", "The log, from `Bocage-Offset` on."), **_PROBLEMS},
)
async def log(
    project: calls.Project,
    name: calls.Name,
    call: Console,
    source: Annotated[Literal["serial", "qemu"], Query(description="The serial line's, or QEMU's own.")] = "serial",
    follow: Annotated[bool, Query(description="Go on with what is said from now on.")] = False,
    offset: Annotated[int | None, Query(ge=0, le=(1 << 63) - 1, description="Bytes from its beginning.")] = None,
) -> Response:
    """What the VM, or its QEMU, has said."""
    return await _pass(call, project, name, "log", query={"source": source, "follow": follow, "offset": offset})


@router.websocket("/console", name="console")
async def console(
    socket: WebSocket, project: str, name: str, call: Console, write: bool = True, take: bool = False
) -> None:
    """The serial line: binary frames both ways. One writes, several watch; `take` takes the writing over.

    It is closed with 1000 when the VM is off, with 4409 when another has taken over, with 1001 when the
    daemon ends, and the reason in words.
    """
    machine = await machines.find(call, project, name)
    node = await machines.node_of(call, machine)
    await node.converse(socket, f"/vms/{machine.uid}/console", {"write": write, "take": take})


@router.post("/expect", name="expect", response_model=Expected, responses=_PROBLEMS)
async def expect(project: calls.Project, name: calls.Name, request: Expect, call: Console) -> Response:
    """Wait for a line on the serial line; 504 `expect-timed-out` when none has come."""
    return await _pass(call, project, name, "expect", method="POST", body=request, within=request.timeout + 30.0)


@router.get(
    "/screenshot",
    name="screenshot",
    response_class=Response,
    responses={**routing.binary("image/png", "The screen."), **_PROBLEMS},
)
async def screenshot(project: calls.Project, name: calls.Name, call: Console) -> Response:
    """The screen as PNG."""
    return await _pass(call, project, name, "screenshot")


@router.post("/keys", name="send_keys", status_code=204, responses=_PROBLEMS)
async def keys(project: calls.Project, name: calls.Name, request: requests.SendKeys, call: Console) -> Response:
    """Press keys together."""
    return await _pass(call, project, name, "keys", method="POST", body=request)


@router.get("/command", name="command", response_model=Command, responses=_PROBLEMS)
async def command(project: calls.Project, name: calls.Name, call: Reading) -> Response:
    """The QEMU line that runs it, and the script that starts it by hand when Bocage is gone."""
    return await _pass(call, project, name, "command")


@router.get(
    "/yaml",
    name="yaml",
    response_class=Response,
    responses={**routing.binary("text/plain", "The definition."), **_PROBLEMS},
)
async def yaml(project: calls.Project, name: calls.Name, call: Reading) -> Response:
    """Its definition as it lies in its directory."""
    return await _pass(call, project, name, "yaml")


@router.get("/isolation", name="isolation", response_model=confinement.Confinement, responses=_PROBLEMS)
async def isolation(project: calls.Project, name: calls.Name, call: Reading) -> Response:
    """What the process of a running VM really may: read from the kernel, whatever was meant."""
    machine = await machines.find(call, project, name)
    told = await (await machines.node_of(call, machine)).document("GET", f"/vms/{machine.uid}/isolation")
    held = confinement.Confinement.model_validate(told)
    return answers.json(held.model_dump_json(context=base.WORDS))


@router.get("/diff", name="diff", response_model=Differences, responses=_PROBLEMS)
async def diff(project: calls.Project, name: calls.Name, call: Reading) -> Response:
    """What waits for a cold start, and what was edited by hand."""
    return await _pass(call, project, name, "diff")


@router.post("/apply", name="apply", response_model=vm.VM, responses=_PROBLEMS)
async def apply(
    project: calls.Project, name: calls.Name, call: Annotated[calls.Call, calls.may("vm:change")]
) -> Response:
    """Take the hand edit of its `vm.yaml`."""
    machine = await machines.find(call, project, name)
    held = await (await machines.node_of(call, machine)).document("GET", f"/vms/{machine.uid}/edited")
    if not held:
        raise NoEdit(name=machine.name)
    document = parts.validated(requests.Document, held, "")
    return answers.one(await machines.take(call, machine, document, expected=None))


@router.get(
    "/export",
    name="export",
    response_class=Response,
    responses={**routing.binary("application/zstd", "The VM, as an archive."), **_PROBLEMS},
)
async def export(
    project: calls.Project,
    name: calls.Name,
    call: Annotated[calls.Call, calls.may("vm:export")],
    form: Annotated[Literal["archive"], Query(description="What it is packed as.")] = "archive",
    chain: Annotated[bool, Query(description="Linked disks with their image, not flat.")] = False,
    offset: Annotated[int, Query(ge=0, le=1 << 62, description="Bytes that are there from an export cut off.")] = 0,
    sha256: Annotated[str, Query(pattern=r"^([0-9a-f]{64})?$", description="The digest of those bytes.")] = "",
) -> Response:
    """The whole VM as one stream, with checksums; or its rest, when the VM is as it was (else `export-differs`)."""
    query = {"form": form, "chain": chain, "offset": offset, "sha256": sha256}
    return await _pass(call, project, name, "export", query=query, within=None)


async def _pass(
    call: calls.Call,
    project: str,
    name: str,
    what: str,
    *,
    method: str = "GET",
    query: Mapping[str, Any] | None = None,
    body: BaseModel | None = None,
    within: float | None = 60.0,
) -> Response:
    machine = await machines.find(call, project, name)
    node = await machines.node_of(call, machine)
    return await node.forward(
        method,
        f"/vms/{machine.uid}/{what}",
        query=query,
        content=None if body is None else body.model_dump_json().encode(),
        headers={} if body is None else {"content-type": "application/json"},
        within=within,
    )
