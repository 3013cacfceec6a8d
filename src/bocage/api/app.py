"""The application: all routers under /api/v1, behind one gate, with one description of itself."""

from __future__ import annotations

import asyncio
import functools
import os
import pathlib
from collections.abc import Collection
from typing import Any

import pydantic_core
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

import bocage
from bocage import errors
from bocage.api import (
    adopt,
    alarms,
    answers,
    auth,
    calls,
    cluster,
    disks,
    events,
    failovers,
    firewall,
    gate,
    halting,
    hosts,
    images,
    index,
    inside,
    meta,
    metrics,
    networks,
    nics,
    nodes,
    passages,
    plans,
    policies,
    problems,
    routing,
    samples,
    schedules,
    snapshots,
    storages,
    streams,
    systems,
    tasks,
    templates,
    tokens,
    uploads,
    usb,
    use,
    verbs,
    views,
    vms,
    volumes,
)
from bocage.membership import standing
from bocage.store import resources
from bocage.store.etcd import access

_EVERYWHERE = {
    401: "A token is needed, or this one is not known.",
    403: "This asker may not do it.",
    422: "Something in the request does not hold.",
    500: "A fault of the program itself.",
    503: "It cannot be done now.",
}
_WITH_BODY = {413: "The body is too large.", 415: "The body is not of a kind that is taken."}
_METHODS = ("get", "put", "post", "patch", "delete", "head")


def create(
    kept: resources.Resources,
    *,
    node_socket: pathlib.Path,
    host: str | None = None,
    membership: standing.Standing | None = None,
    papers: access.Certificates | None = None,
    allowed_uids: Collection[int] | None = None,
) -> FastAPI:
    """The application over a store, and over the node behind a socket.

    `host` is the uid of the host that it runs on, `membership` how that stands to a cluster, and `papers` what the
    other hosts of that know it by. `allowed_uids` may ask over the Unix socket; root and the daemon's own user when it
    is not given. Close `app.state.api` at the end.
    """
    allowed = {0, os.geteuid()} if allowed_uids is None else allowed_uids
    app = FastAPI(
        title="Bocage",
        version=bocage.__version__,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={
            errors.Problem: problems.on_problem,
            RequestValidationError: problems.on_invalid,
            WebSocketRequestValidationError: problems.on_invalid,
            HTTPException: problems.on_refused,
        },
    )
    closing = asyncio.Event()
    app.state.api = calls.Api(
        resources=kept,
        index=index.Index(kept.store),
        views=views.Views(kept.store),
        nodes=nodes.Nodes(kept, node_socket, closing, host=host, papers=papers),
        host=host,
        membership=membership,
        closing=closing,
    )
    app.add_middleware(gate.Gate, authentication=auth.Authentication(kept, allowed_uids=allowed))
    app.router.routes.append(routing.Lanes(routes()))
    app.openapi = description  # type: ignore[method-assign]
    return app


def routes() -> list[BaseRoute]:
    """Every route of the API."""
    described = routing.router("meta", "")
    described.add_api_route("/openapi.json", _openapi, name="openapi", response_model=dict[str, Any])
    routers = (
        vms.router,
        uploads.imports,
        verbs.router,
        passages.router,
        disks.router,
        snapshots.router,
        schedules.router,
        nics.router,
        usb.router,
        streams.router,
        inside.router,
        images.router,
        templates.router,
        volumes.router,
        networks.router,
        firewall.router,
        storages.router,
        hosts.router,
        failovers.router,
        cluster.router,
        policies.router,
        halting.router,
        systems.router,
        tasks.router,
        tasks.in_project,
        events.router,
        alarms.router,
        tokens.router,
        uploads.router,
        adopt.router,
        use.router,
        metrics.router,
        plans.router,
        meta.router,
        described,
    )
    return [route for router in routers for route in router.routes]


@functools.cache
def description() -> dict[str, Any]:
    """What the API says of itself (OpenAPI 3.1)."""
    described = get_openapi(
        title="Bocage",
        version=bocage.__version__,
        openapi_version="3.1.0",
        summary="Virtual machines on one host or many.",
        routes=routes(),
        separate_input_output_schemas=False,
    )
    _complete(described)
    return described


async def _openapi(request: Request) -> Response:
    """This description (OpenAPI 3.1)."""
    return answers.json(await asyncio.to_thread(lambda: pydantic_core.to_json(description())))


def _complete(described: dict[str, Any]) -> None:
    """What every route has: problems, examples, and who may ask."""
    schemas = described["components"]["schemas"]
    schemas["Problem"] = problems.Document.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= schemas["Problem"].pop("$defs", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas["Saying"]["properties"] |= {
        "text": {"type": "string", "description": "The sentence, in the reader's language.", "readOnly": True},
        "hint": {"type": "string", "description": "What helps; empty when nothing does.", "readOnly": True},
    }
    for name, sample in (samples.REQUESTS | samples.answers()).items():
        schemas[name]["examples"] = [sample]
    described["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    described["security"] = [{"token": []}]
    for path in described["paths"].values():
        for method, operation in path.items():
            if method in _METHODS:
                said = _EVERYWHERE | (_WITH_BODY if "requestBody" in operation else {})
                for status, description in said.items():
                    operation["responses"][str(status)] = routing.problem_response(description)
