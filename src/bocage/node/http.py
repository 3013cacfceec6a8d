"""The node's own interface, on a Unix socket for the API alone: what is a stream and no state.

Logs, consoles, screens, keys, uploads, definitions: all by the VM's uid.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import pathlib
import shlex
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketState

from bocage import errors, serving, words
from bocage.engine import base as engine
from bocage.engine import inside as insides
from bocage.engine import usb
from bocage.engine.qemu import boundedlog
from bocage.engine.qemu import console as serial
from bocage.model import base, ground, requests, vm
from bocage.model import lun as luns
from bocage.model import power as powers
from bocage.node import asking, conversation, doctor, inside, power, replicas, started, streaming, tasks
from bocage.node.carrying import adoption, export
from bocage.node.life import arriving
from bocage.node.life.crew import Crew
from bocage.node.life.standing import Standing
from bocage.node.place import directory, edits, slicing
from bocage.node.rounds.sampling import Sampling
from bocage.node.shop import Shop
from bocage.storage import devices
from bocage.storage import directory as storage_directory
from bocage.store import resources

log = logging.getLogger(__name__)

_PIECE = 256 << 10


class Interface:
    """The routes, over one node."""

    def __init__(self, shop: Shop, crew: Crew, sampling: Sampling, known: resources.Resources | None = None) -> None:
        """`known` is where VMs are looked up; the node's own store when it is not given."""
        self._shop, self._crew, self._sampling = shop, crew, sampling
        self._known = known or shop.ground.resources

    def app(self) -> Starlette:
        """The ASGI application."""
        routes = [
            Route("/vms/{uid}/log", self.log),
            Route("/vms/{uid}/expect", self.expect, methods=["POST"]),
            Route("/vms/{uid}/screenshot", self.screenshot),
            Route("/vms/{uid}/off", self.off, methods=["POST"]),
            Route("/vms/{uid}/keys", self.keys, methods=["POST"]),
            Route("/vms/{uid}/command", self.command),
            Route("/vms/{uid}/yaml", self.yaml),
            Route("/vms/{uid}/diff", self.diff),
            Route("/vms/{uid}/isolation", self.isolation),
            Route("/vms/{uid}/edited", self.edited),
            Route("/vms/{uid}/export", self.export),
            Route("/vms/{uid}/exec", self.execute, methods=["POST"]),
            Route("/vms/{uid}/file", self.read_file, methods=["GET"]),
            Route("/vms/{uid}/file", self.write_file, methods=["PUT"]),
            Route("/vms/{uid}/password", self.set_password, methods=["POST"]),
            Route("/use", self.use),
            Route("/history/{uid}", self.history),
            Route("/uploads/{key}", self.upload_offset, methods=["GET", "HEAD"]),
            Route("/uploads/{key}", self.upload, methods=["PATCH"]),
            Route("/uploads/{key}", self.upload_discard, methods=["DELETE"]),
            Route("/doctor", self.doctor),
            Route("/disks", self.disks),
            Route("/usb", self.usb),
            Route("/hosts/{uid}/power", self.power),
            Route("/hosts/{uid}/bmc", self.look_at_bmc, methods=["POST"]),
            Route("/storage/{uid}/lun", self.seal_lun, methods=["POST"]),
            Route("/arrivals/{uid}", self.expect_vm, methods=["POST"]),
            Route("/arrivals/{uid}", self.expects_vm, methods=["GET"]),
            Route("/arrivals/{uid}", self.expect_no_more, methods=["DELETE"]),
            Route("/arrivals/{uid}/go", self.let_vm_go, methods=["POST"]),
            Route("/replicas/{uid}", self.keep_replica, methods=["POST"]),
            Route("/replicas/{uid}", self.keep_no_replica, methods=["DELETE"]),
            WebSocketRoute("/vms/{uid}/console", self.console),
        ]
        handlers = {errors.Problem: _problem, OSError: _os_problem, Exception: _fault}
        return Starlette(routes=routes, exception_handlers=handlers)

    async def log(self, request: Request) -> Response:
        """A log from `offset` (its tail without one), and with `follow` whatever comes after."""
        _, place = await self._machine(request)
        path = place.qemu_log if request.query_params.get("source") == "qemu" else place.serial_log
        follow = request.query_params.get("follow") in ("true", "1")
        if not await asyncio.to_thread(path.exists):  # of a VM that is being made
            return PlainTextResponse("", headers={"Bocage-Offset": "0"})
        first = await asyncio.to_thread(boundedlog.start_offset, path)
        offset = max(asking.whole_number(request.query_params, "offset", first), first)
        body = _follow(path, offset) if follow else _read_all(path, offset)
        return streaming.Stream(body, media_type="text/plain; charset=utf-8", headers={"Bocage-Offset": str(offset)})

    async def expect(self, request: Request) -> Response:
        """Send a line, perhaps, and wait for one that matches."""
        asked = await asking.body(request, asking.Expect)
        machine, place = await self._machine(request)
        line = await self._console(machine, place).expect(pattern=asked.pattern, send=asked.send, within=asked.timeout)
        return JSONResponse({"line": line})

    async def console(self, socket: WebSocket) -> None:
        """The serial line, both ways: binary frames. A problem is told before it is open; it ends with the VM."""
        query = socket.query_params
        try:
            machine, place = await self._machine(socket)
            line = self._console(machine, place)
            async with contextlib.AsyncExitStack() as stack:
                talk = conversation.Conversation(socket, line, self._standing(machine))
                if query.get("write") != "false":
                    talk.type = await stack.enter_async_context(line.writer(take_over=query.get("take") == "true"))
                await socket.accept()
                await talk.carry()
        except errors.Problem as problem:
            await _refuse(socket, problem)
        except OSError as error:
            await _refuse(socket, tasks.from_os(error))

    async def screenshot(self, request: Request) -> Response:
        """The screen as PNG."""
        machine, _ = await self._machine(request)
        with tempfile.TemporaryDirectory(dir=self._shop.ground.home.cache) as scratch:
            path = pathlib.Path(scratch) / "screen.png"
            await self._running(machine).screenshot(path)
            content = await asyncio.to_thread(path.read_bytes)
        return Response(content, media_type="image/png")

    async def off(self, request: Request) -> Response:
        """Have it go off though nobody can write that it should: answered when it has. Raises errors.TimedOut."""
        asked = await asking.body(request, asking.Off)
        machine, _ = await self._machine(request)
        running = self._running(machine)
        if asked.within:
            if not await running.ask_agent_to_shut_down():
                await running.press_power_button()
            try:
                async with asyncio.timeout(asked.within):
                    await running.ended()
            except TimeoutError as error:
                if not asked.kill:
                    raise errors.TimedOut(what=machine.name, bound=asked.within) from error
        if asked.kill:
            await running.kill()
        return Response(status_code=204)

    async def keys(self, request: Request) -> Response:
        """Press keys together."""
        asked = await asking.body(request, requests.SendKeys)
        machine, _ = await self._machine(request)
        await self._running(machine).send_keys(asked.keys)
        return Response(status_code=204)

    async def command(self, request: Request) -> Response:
        """The line that runs it, and the script around it that starts it by hand."""
        machine, _ = await self._machine(request)
        plan, engine = await self._shop.preparation.plan(machine, connect=False), self._shop.ground.engine
        argv = engine.command(plan)
        return JSONResponse({"command": argv, "line": shlex.join(argv), "script": engine.by_hand(plan)})

    async def yaml(self, request: Request) -> Response:
        """Its definition, as the file says it."""
        _, place = await self._machine(request)
        try:
            return PlainTextResponse(await asyncio.to_thread(place.definition.read_text, errors="replace"))
        except FileNotFoundError as error:
            raise adoption.NoDefinition(path=str(place.path)) from error

    async def diff(self, request: Request) -> Response:
        """What waits for a cold start, and what was edited by hand."""
        machine, place = await self._machine(request)
        edited = await asyncio.to_thread(edits.differences, place, machine)
        return JSONResponse({"pending": await self._pending(machine), "edited": edited})

    async def edited(self, request: Request) -> Response:
        """The definition as a person edited it."""
        _, place = await self._machine(request)
        held = await asyncio.to_thread(edits.edited, place)
        document = {
            "metadata": held.vm.metadata.model_dump(mode="json", exclude={"revision", "status_revision"}),
            "spec": held.vm.spec.model_dump(mode="json"),
        }
        return JSONResponse({"api": "bocage/1", "kind": "VM", **document})

    async def export(self, request: Request) -> Response:
        """The whole VM as one archive, or what comes after `offset` of it."""
        machine, _ = await self._machine(request)
        chain = request.query_params.get("chain") in ("true", "1")
        stream = export.stream(self._shop.preparation, machine, chain=chain)
        if offset := asking.whole_number(request.query_params, "offset", 0):
            sha256 = request.query_params.get("sha256", "")
            stream = export.rest(stream, machine, offset=offset, sha256=sha256)
        return streaming.Stream(await export.started(stream), media_type="application/zstd")

    async def isolation(self, request: Request) -> Response:
        """What its process really may."""
        machine, _ = await self._machine(request)
        found = await asyncio.to_thread(self._running(machine).confinement)
        return _json(found)

    async def execute(self, request: Request) -> Response:
        """Run a command in the guest."""
        return await inside.execute(await self._inside(request), request, self._shop.ground.home.cache)

    async def read_file(self, request: Request) -> Response:
        """A file of the guest."""
        return await inside.read_file(await self._inside(request), request)

    async def write_file(self, request: Request) -> Response:
        """Write a file of the guest."""
        return await inside.write_file(await self._inside(request), request)

    async def set_password(self, request: Request) -> Response:
        """Give an account of the guest another password."""
        return await inside.set_password(await self._inside(request), request)

    async def use(self, request: Request) -> Response:
        """What this host and its VMs use now."""
        uses = self._sampling.now()
        given = await self._shop.preparation.admission.shown()
        return _json(uses.model_copy(update={"host": uses.host.model_copy(update={"given": given})}))

    async def history(self, request: Request) -> Response:
        """What a VM, or the host, has used in the last `span` seconds, in `most` steps at most."""
        span = asking.whole_number(request.query_params, "span")
        most = max(asking.whole_number(request.query_params, "most"), 1)
        return _json(await self._sampling.history(request.path_params["uid"], span=span, most=most))

    async def upload_offset(self, request: Request) -> Response:
        """How much of an upload is here."""
        shelf = self._shop.ground.library(await self._storage(request))
        return Response(headers={"Upload-Offset": str(shelf.intake.offset(request.path_params["key"]))})

    async def upload(self, request: Request) -> Response:
        """Take the next part of an upload."""
        storage, key = await self._storage(request), request.path_params["key"]
        intake = self._shop.ground.library(storage).intake
        offset = asking.whole_number(request.headers, "upload-offset")
        limit = intake.offset(key) + await self._shop.preparation.rooms.left(storage.uid)
        async with self._shop.ground.rights.work(storage.uid):
            reached = await intake.append(key, offset, request.stream(), limit=limit)
        return Response(status_code=204, headers={"Upload-Offset": str(reached)})

    async def upload_discard(self, request: Request) -> Response:
        """Forget an upload."""
        storage = await self._storage(request)
        async with self._shop.ground.rights.work(storage.uid):
            await self._shop.ground.library(storage).intake.discard(request.path_params["key"])
        return Response(status_code=204)

    async def doctor(self, request: Request) -> Response:
        """The checks of this machine."""
        return JSONResponse(await doctor.examine(self._shop))

    async def disks(self, request: Request) -> Response:
        """The disks of this machine."""
        return JSONResponse({"disks": [one.model_dump(mode="json") for one in await devices.look()]})

    async def usb(self, request: Request) -> Response:
        """The USB devices of this machine."""
        found = await asyncio.to_thread(usb.look)
        refs = {one.uid: one.ref for one in (await self._shop.ground.resources.list(vm.VM)).items}
        held = self._shop.preparation.usb.holder
        found = [one.model_copy(update={"vm": refs.get(held(one.node) or "")}) for one in found]
        return JSONResponse({"devices": [one.model_dump(mode="json") for one in found]})

    async def power(self, request: Request) -> Response:
        """Whether a host has power, as its BMC says."""
        return JSONResponse({"power": await power.state(self._shop.ground, request.path_params["uid"])})

    async def look_at_bmc(self, request: Request) -> Response:
        """Who a BMC is that is to be a host's, and what is to be kept of it."""
        asked = await asking.body(request, powers.BmcRequest)
        return _json(await power.look(self._shop.ground, request.path_params["uid"], asked))

    async def seal_lun(self, request: Request) -> Response:
        """What is to be kept of a LUN that is to be a storage's."""
        asked = await asking.body(request, luns.LunRequest)
        return _json(await slicing.sealed(self._shop.ground, request.path_params["uid"], asked))

    async def expect_vm(self, request: Request) -> Response:
        """Have a VM come here from the host that asks, while it runs."""
        asked = await asking.body(request, arriving.Asked)
        shop = self._shop
        return JSONResponse(await arriving.expect(shop.ground, shop.preparation, request.path_params["uid"], asked))

    async def expects_vm(self, request: Request) -> Response:
        """Whether all is well with it, which is wanted still."""
        arriving.of(self._shop.ground, request.path_params["uid"]).still_wanted()
        return JSONResponse({})

    async def expect_no_more(self, request: Request) -> Response:
        """It does not come."""
        arriving.of(self._shop.ground, request.path_params["uid"]).abandon()
        return JSONResponse({})

    async def let_vm_go(self, request: Request) -> Response:
        """The records say that it is this host's: it goes on."""
        asked = await asking.body(request, arriving.Go)
        await arriving.of(self._shop.ground, request.path_params["uid"]).go(asked.stood)
        return JSONResponse({})

    async def keep_replica(self, request: Request) -> Response:
        """Serve the files of a VM's replica to the host that has the VM."""
        asked, shop = await asking.body(request, replicas.Asked), self._shop
        return JSONResponse(await replicas.prepare(shop.ground, shop.preparation, request.path_params["uid"], asked))

    async def keep_no_replica(self, request: Request) -> Response:
        """Serve them no more, and remove them."""
        await replicas.discard(self._shop.ground, request.path_params["uid"])
        return JSONResponse({})

    async def _pending(self, machine: vm.VM) -> list[dict[str, object]]:
        """Where the machine that runs, or is saved, differs from the spec."""
        actor = self._crew.of(machine.uid)
        built: vm.VMSpec | None = None
        if actor is not None and actor.standing.machine is not None:
            built = await asyncio.to_thread(started.read, self._shop.ground.home.vm_runtime(machine.uid))
        elif await self._shop.preparation.has_saved(machine):
            built = (await self._shop.preparation.as_it_was(machine)).spec
        return edits.pending(built, machine) if built else []

    async def _storage(self, request: Request) -> ground.Storage:
        name = request.query_params.get("storage") or "local"
        storage = await self._shop.ground.resources.find(ground.Storage, None, name)
        await asyncio.to_thread(storage_directory.uid_at, pathlib.Path(storage.spec.path))
        return storage

    async def _machine(self, request: Request | WebSocket) -> tuple[vm.VM, directory.Directory]:
        uid = request.path_params["uid"]
        actor = self._crew.of(uid)
        if actor is None:
            raise resources.Missing(kind="vm", name=uid)
        machine = await self._known.get(vm.VM, actor.standing.project, uid)
        return machine, await self._shop.preparation.place(machine)

    async def _inside(self, request: Request) -> insides.Inside:
        machine, _ = await self._machine(request)
        return self._running(machine).inside

    def _running(self, machine: vm.VM) -> engine.Machine:
        running = self._standing(machine).machine
        assert running
        return running

    def _standing(self, machine: vm.VM) -> Standing:
        """What is known of a VM that runs."""
        actor = self._crew.of(machine.uid)
        if actor is None or actor.standing.machine is None:
            raise engine.NotRunning(name=machine.name)
        return actor.standing

    def _console(self, machine: vm.VM, place: directory.Directory) -> serial.Console:
        return serial.Console.of(machine.name, place.path, self._shop.ground.home.vm_runtime(machine.uid))


@contextlib.asynccontextmanager
async def serve(
    shop: Shop, crew: Crew, sampling: Sampling, path: pathlib.Path, known: resources.Resources | None = None
) -> AsyncIterator[None]:
    """Answer on a Unix socket, for this user alone."""
    async with serving.unix(Interface(shop, crew, sampling, known).app(), path, mode=0o600):
        yield


def _json(document: base.Part) -> Response:
    return Response(document.model_dump_json(), media_type="application/json")


async def _refuse(socket: WebSocket, problem: errors.Problem) -> None:
    if socket.application_state is WebSocketState.CONNECTING:
        await socket.send_denial_response(_told(problem))
    else:
        await conversation.close(socket, 4000 + problem.status, words.say(problem))


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.Problem)
    return _told(error)


def _told(problem: errors.Problem) -> Response:
    content = {"type": problem.type, "params": problem.params, "status": problem.status}
    return Response(json.dumps(content, default=str), problem.status, media_type="application/problem+json")


async def _os_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, OSError)
    return await _problem(request, tasks.from_os(error))


async def _fault(request: Request, error: Exception) -> Response:
    reference = base.new_uid()[:8]
    log.error("%s %s failed [%s]", request.method, request.url.path, reference, exc_info=error)
    return await _problem(request, errors.Internal(reference=reference))


async def _read_all(path: pathlib.Path, offset: int) -> AsyncGenerator[bytes, None]:
    end = (await asyncio.to_thread(path.stat)).st_size
    while offset < end:
        piece = await asyncio.to_thread(boundedlog.read, path, offset, min(_PIECE, end - offset))
        if not piece.data:
            return
        yield piece.data
        offset = piece.offset + len(piece.data)


async def _follow(path: pathlib.Path, offset: int) -> AsyncGenerator[bytes, None]:
    async with contextlib.aclosing(boundedlog.follow(path, offset)) as pieces:
        async for piece in pieces:
            yield piece.data
