"""A store with one host, an application over it, and a node that is only as real as the API needs it."""

import asyncio
import contextlib
import dataclasses
import json
import pathlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from bocage import home, serving
from bocage.api import app as application
from bocage.api import serve
from bocage.model import base, confinement, ground, sample, vm, work
from bocage.store import resources, sqlite

DIGEST = "ab" * 32
VMS = "/projects/default/vms"


@dataclasses.dataclass
class World:
    """What there is before anybody asks for anything."""

    path: pathlib.Path
    kept: resources.Resources
    host: ground.Host
    storage: ground.Storage
    image: ground.Image
    cd: ground.Image
    network: ground.Network

    @property
    def home(self) -> home.Home:
        return home.Home(self.path, self.path)

    async def set_status(self, name: str, **values: Any) -> vm.VM:
        """Be the node: write a VM's status."""
        machine = await self.kept.find(vm.VM, "default", name)
        return await self.kept.change_status(
            vm.VM, "default", machine.uid, lambda one: one.status.model_copy(update=values)
        )

    async def own(self, machine: vm.VM) -> None:
        """Be the leader: give a VM to the host."""
        transaction = resources.Transaction()
        transaction.set_owner(machine, vm.Owner(host=self.host.uid, generation=1), expected=0)
        await self.kept.commit(transaction)

    async def tasks(self, action: str) -> list[work.Task]:
        return [task for task in (await self.kept.list(work.Task)).items if task.spec.action == action]

    async def end(self, task: work.Task, state: work.TaskState = work.TaskState.DONE, **more: Any) -> None:
        """Be the node: end a task."""
        status = work.TaskStatus(state=state, started=base.now(), ended=base.now(), **more)
        await self.kept.change_status(work.Task, "default", task.uid, lambda _: status)


@pytest.fixture
async def world(tmp_path):
    """An empty installation of one host."""
    world = await make_world(tmp_path)
    yield world
    await world.kept.store.close()


async def make_world(path: pathlib.Path) -> World:
    """A store in `path` with what a fresh host has: itself, its storage, a network, two images."""
    store = await sqlite.open(path / "bocage.db")
    kept = resources.Resources(store)
    status = ground.HostStatus(
        machines={"q35": "pc-q35-7.2", "pc": "pc-i440fx-7.2"}, cpu_model="qemu64", firmware=("bios", "uefi")
    )
    host = ground.Host(metadata=base.Metadata(name="here"), spec=ground.HostSpec(), status=status)
    storage = ground.Storage(
        metadata=base.Metadata(name="local"),
        spec=ground.StorageSpec(host=host.uid, path="/srv/bocage"),
        status=ground.StorageStatus(state="ready"),
    )
    image = ground.Image(
        metadata=base.Metadata(name="tiny", project="default"),
        spec=ground.ImageSpec(sha256=DIGEST, format="qcow2", virtual_size="20M", storage=storage.uid),
    )
    cd = ground.Image(
        metadata=base.Metadata(name="windows", project="default"),
        spec=ground.ImageSpec(sha256="cd" * 32, format="iso", virtual_size="600M", storage=storage.uid),
    )
    network = ground.Network(metadata=base.Metadata(name="default", project="default"), spec=ground.NetworkSpec())
    await kept.create(host, storage, image, cd, network)
    return World(path, kept, host, storage, image, cd, network)


@pytest.fixture
async def app(world):
    app = application.create(
        world.kept, node_socket=world.home.node_socket, host=world.host.uid, allowed_uids=[0, 1000]
    )
    yield app
    await app.state.api.close()


def asking(app: Any, client: tuple[str, int] = ("unix", 0), **options: Any) -> httpx.AsyncClient:
    """A client that asks an application without a server between."""
    transport = httpx.ASGITransport(app, client=client)
    return httpx.AsyncClient(transport=transport, base_url="http://bocage/api/v1", **options)


@pytest.fixture
async def client(app):
    async with asking(app) as client:
        yield client


@pytest.fixture
async def served(world):
    """The API on a real Unix socket."""
    async with serve.serve(world.kept, homes=world.home, host=world.host.uid) as app:
        yield app


def over_socket(world: World, **options: Any) -> httpx.AsyncClient:
    """A client on that socket."""
    transport = httpx.AsyncHTTPTransport(uds=str(world.home.socket), limits=httpx.Limits(max_connections=None))
    options.setdefault("timeout", 30)
    return httpx.AsyncClient(transport=transport, base_url="http://bocage/api/v1", **options)


class FakeNode:
    """Answers as the node does; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.uploads: dict[str, bytearray] = {}
        self.ended = asyncio.Event()  # a stream was left by its listener
        self.edited: Any = None
        self.lines = 100_000  # of a log that is followed
        self.refusal: dict[str, Any] | None = None  # with which a console is refused
        self.uses = sample.Uses()

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/vms/{uid}/log", self.log),
                Route("/vms/{uid}/expect", self.expect, methods=["POST"]),
                Route("/vms/{uid}/keys", self.keys, methods=["POST"]),
                Route("/vms/{uid}/edited", self.edit),
                Route("/vms/{uid}/command", self.command),
                Route("/vms/{uid}/export", self.export),
                Route("/vms/{uid}/exec", self.inside, methods=["POST"]),
                Route("/vms/{uid}/password", self.inside, methods=["POST"]),
                Route("/vms/{uid}/file", self.inside, methods=["GET", "PUT"]),
                Route("/vms/{uid}/diff", self.diff),
                Route("/vms/{uid}/yaml", self.log_file),
                Route("/vms/{uid}/screenshot", self.screenshot),
                Route("/uploads/{key}", self.offset, methods=["HEAD", "GET"]),
                Route("/uploads/{key}", self.upload, methods=["PATCH"]),
                Route("/uploads/{key}", self.discard, methods=["DELETE"]),
                Route("/doctor", self.doctor),
                Route("/use", self.use),
                Route("/history/{uid}", self.history),
                Route("/vms/{uid}/isolation", self.isolation),
                WebSocketRoute("/vms/{uid}/console", self.console),
            ]
        )

    async def log(self, request: Request) -> Response:
        self.asked.append(dict(request.query_params))

        async def endless() -> AsyncIterator[bytes]:
            try:
                number = 0
                while number < self.lines:
                    yield b"line %d\n" % number
                    number += 1
                    await asyncio.sleep(0.01)
            finally:
                self.ended.set()

        if request.query_params["follow"] == "true":
            return StreamingResponse(endless(), media_type="text/plain", headers={"Bocage-Offset": "7"})
        return PlainTextResponse("all of it", headers={"Bocage-Offset": "7"})

    async def expect(self, request: Request) -> Response:
        asked = await request.json()
        if asked["pattern"] == "never":
            problem = {"type": "timed-out", "params": {"what": "the line", "bound": asked["timeout"]}, "status": 504}
            return JSONResponse(problem, 504, media_type="application/problem+json")
        if asked["pattern"] == "unknown":
            return JSONResponse({"type": "brand-new", "params": {"said": "so"}, "status": 409}, 409)
        return JSONResponse({"line": f"saw {asked['pattern']}"})

    async def keys(self, request: Request) -> Response:
        self.asked.append(await request.json())
        return Response(status_code=204)

    async def inside(self, request: Request) -> Response:
        body = await request.body()
        self.asked.append((request.method, dict(request.query_params), body))
        if request.url.path.endswith("/password"):
            return Response(status_code=204)
        if request.method == "PUT":
            return JSONResponse({"size": len(body), "mode": "0640"})
        if request.url.path.endswith("/exec"):
            return Response(b'{"exit_code": 0, "signal": null, "cut": []}\n', media_type="application/x-ndjson")
        return Response(b"abc", media_type="application/octet-stream", headers={"Bocage-Size": "3"})

    async def edit(self, request: Request) -> Response:
        return JSONResponse(self.edited)

    async def command(self, request: Request) -> Response:
        return JSONResponse({"command": ["qemu", "-S"], "line": "qemu -S", "script": "exec qemu -S\n"})

    async def diff(self, request: Request) -> Response:
        return JSONResponse({"pending": [], "edited": [{"path": "memory"}]})

    async def log_file(self, request: Request) -> Response:
        return PlainTextResponse("api: bocage/1")

    async def screenshot(self, request: Request) -> Response:
        return Response(b"\x89PNG", media_type="image/png")

    async def export(self, request: Request) -> Response:
        async def broken() -> AsyncIterator[bytes]:
            yield b"half"
            raise OSError("disk gone")

        return StreamingResponse(broken(), media_type="application/zstd")

    async def offset(self, request: Request) -> Response:
        return Response(headers={"Upload-Offset": str(len(self.uploads.get(request.path_params["key"], bytearray())))})

    async def upload(self, request: Request) -> Response:
        held = self.uploads.setdefault(request.path_params["key"], bytearray())
        if int(request.headers["upload-offset"]) != len(held):
            problem = {"type": "name-taken", "params": {"kind": "upload", "name": "other"}, "status": 409}
            return JSONResponse(problem, 409)
        with contextlib.suppress(Exception):
            async for piece in request.stream():
                held.extend(piece)
        self.ended.set()
        return Response(status_code=204, headers={"Upload-Offset": str(len(held))})

    async def discard(self, request: Request) -> Response:
        self.uploads.pop(request.path_params["key"], None)
        return Response(status_code=204)

    async def use(self, request: Request) -> Response:
        return Response(self.uses.model_dump_json(), media_type="application/json")

    async def history(self, request: Request) -> Response:
        self.asked.append((request.path_params["uid"], dict(request.query_params)))
        course = sample.Course(average=(None, 0.5), peak=(None, 0.75))
        told = sample.History(start=base.now(), step=60, courses={"cpu": course})
        return Response(told.model_dump_json(), media_type="application/json")

    async def isolation(self, request: Request) -> Response:
        gap = base.Saying(type="isolation-gap-root")
        held = confinement.Confinement(
            pid=4711, uid=0, gid=0, new_privileges=True, seccomp="off", threads=3, threads_unfiltered=3, gaps=(gap,)
        )
        return Response(held.model_dump_json(), media_type="application/json")

    async def doctor(self, request: Request) -> Response:
        return JSONResponse({"checks": [{"level": "ok", "type": "x", "params": {}, "text": "well", "hint": ""}]})

    async def console(self, socket: WebSocket) -> None:
        if self.refusal:
            return await socket.send_denial_response(JSONResponse(self.refusal, self.refusal["status"]))
        await socket.accept()
        self.asked.append(dict(socket.query_params))
        try:
            while (piece := await socket.receive_bytes()) != b"end":
                await socket.send_bytes(b"<" + piece + b">")
            await socket.close(4409, "somebody else writes")
        except WebSocketDisconnect:
            self.ended.set()


@pytest.fixture
async def node(world):
    fake = FakeNode()
    async with serving.unix(fake.app(), world.home.node_socket, mode=0o600):
        yield fake


async def create(client: httpx.AsyncClient, name: str = "web1", **more: Any) -> dict[str, Any]:
    """Make a VM; returns its task."""
    answer = await client.post(VMS, json={"name": name, "image": "tiny", **more})
    assert answer.status_code == 202, answer.text
    return dict(answer.json())


def problem(answer: httpx.Response, status: int, kind: str) -> dict[str, Any]:
    """The problem that an answer must be."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document = json.loads(answer.content)
    assert document["type"] == f"urn:bocage:problem:{kind}", document
    assert document["status"] == status
    assert document["title"]
    return dict(document)
