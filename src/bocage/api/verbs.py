"""What is asked of a VM: each verb writes what should be and its task in one transaction."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

from fastapi import Body
from starlette.responses import Response

from bocage import errors
from bocage.api import answers, calls, facts, machines, policies, problems, routing
from bocage.model import base, ground, requests, vm, work
from bocage.model.work import Task
from bocage.planner import definition, rescue
from bocage.store import remembered, resources
from bocage.words import N_

router = routing.router("vm", routing.IN_PROJECT + "/vms/{name}")

Power = Annotated[calls.Call, calls.may("vm:power")]
Changing = Annotated[calls.Call, calls.may("vm:change")]
_PROBLEMS = routing.problem_responses(404, 409)


class NotReached(problems.Error, errors.Conflict):
    type = "storage-not-reached"
    text = N_("{host}, which has {name}, does not reach the storage {storage}")
    hint = N_("'bocage storage show {storage}' says which hosts do")
    storage: str
    host: str
    name: str


_UNWRITTEN_BOUND = 40.0  # seconds that a guest gets while nobody can write that it should be off
_MORE = 15.0  # seconds to look at it and to pull the plug
_RESCUE = "rescue"  # the image that is taken when none is named
_RESCUE_STOPS = 30.0  # seconds that a rescue system gets to write what it holds


class NoRescueImage(problems.Error, errors.NotFound):
    type = "no-rescue-image"
    text = N_("there is no image named {image} to rescue with")
    hint = N_("'bocage image build rescue' makes one; a CD of another system is taken with --image")
    image: str


@dataclasses.dataclass(frozen=True, slots=True)
class Verb:
    """A verb without parameters of its own."""

    name: str
    said: str
    power: vm.Power | None = None
    must_be_up: bool = True


VERBS = (
    Verb("kill", "Pull the plug, at once; saved memory is thrown away.", vm.Power.STOPPED, must_be_up=False),
    Verb("reboot", "Restart the guest in an orderly way; a cold start when changes wait."),
    Verb("reset", "Press the reset button."),
    Verb("pause", "Hold its vCPUs.", vm.Power.PAUSED),
    Verb("resume", "Let its vCPUs go on.", vm.Power.RUNNING),
    Verb("save", "Keep its memory in a file and end its process; the next start goes on from there.", vm.Power.SAVED),
)


@router.post("/start", name="start", status_code=202, response_model=Task, responses=_PROBLEMS)
async def start(
    project: calls.Project, name: calls.Name, call: Power, request: Annotated[requests.Start | None, Body()] = None
) -> Response:
    """Start it, or let it go on from its saved memory."""
    asked = request or requests.Start()
    power = vm.Power.PAUSED if asked.paused else vm.Power.RUNNING

    def wanted(machine: vm.VM) -> resources.Transaction:
        machines.check_not_in_trash(machine)
        rescue.check(machine)
        boot = machine.spec.boot
        if asked.boot is not None:
            boot = definition.boot_once(machine, asked.boot)
        return machines.update(machine, power=power, boot=boot)

    machine = await machines.find(call, project, name)
    if not asked.anyway:
        await policies.check_start(call, machine)
    return await machines.ask(call, machine, "vm.start", wanted, boot=asked.boot, paused=asked.paused)


@router.post("/stop", name="stop", status_code=202, response_model=Task, responses=_PROBLEMS)
async def stop(
    project: calls.Project, name: calls.Name, call: Power, request: Annotated[requests.Stop | None, Body()] = None
) -> Response:
    """Ask the guest to switch off; what happens at the bound says the request, else the VM's stop policy."""
    asked = request or requests.Stop()

    def wanted(machine: vm.VM) -> resources.Transaction:
        machines.check_not_in_trash(machine)
        if machine.status.state is vm.State.SAVED:
            raise machines.SavedMemory(name=machine.name)
        return machines.update(machine, power=vm.Power.STOPPED)

    machine = await machines.find(call, project, name)
    within = machine.spec.stop.within if asked.within is None else asked.within
    if answer := await _off_at_once(call, machine, within=min(within, _UNWRITTEN_BOUND), kill=asked.kill):
        return answer
    return await machines.ask(call, machine, "vm.stop", wanted, within=asked.within, kill=asked.kill)


async def _off_at_once(call: calls.Call, machine: vm.VM, *, within: float, kill: bool) -> Response | None:
    """While the cluster's store is silent, what runs here is switched off by its node; nothing is written of it."""
    if remembered.silence.get() is None or machine.status.host != call.api.host:
        return None
    body = json.dumps({"within": within, "kill": kill}).encode()
    await call.api.nodes.own.forward("POST", f"/vms/{machine.uid}/off", content=body, within=within + _MORE)
    now = base.now()
    done = work.TaskStatus(state=work.TaskState.DONE, started=now, ended=now)
    return answers.accepted(
        call.task("vm.stop", subject=machine.ref, host=call.api.host).model_copy(update={"status": done})
    )


def _add(verb: Verb) -> None:
    def wanted(machine: vm.VM) -> resources.Transaction:
        if verb.must_be_up:
            machines.check_up(machine)
        machines.check_not_in_trash(machine)
        if verb.power is vm.Power.SAVED:
            rescue.check(machine)
        return machines.update(machine, power=verb.power or machine.spec.power)

    async def act(project: calls.Project, name: calls.Name, call: Power) -> Response:
        machine = await machines.find(call, project, name)
        if verb.name == "kill" and (answer := await _off_at_once(call, machine, within=0.0, kill=True)):
            return answer
        return await machines.ask(call, machine, f"vm.{verb.name}", wanted)

    router.post(
        f"/{verb.name}",
        name=verb.name,
        status_code=202,
        response_model=Task,
        responses=_PROBLEMS,
        description=verb.said,
        summary=verb.name.capitalize(),
    )(act)


for one in VERBS:
    _add(one)


@router.post("/rescue", name="rescue", status_code=202, response_model=Task, responses=_PROBLEMS)
async def begin_rescue(
    project: calls.Project, name: calls.Name, call: Power, request: Annotated[requests.Rescue | None, Body()] = None
) -> Response:
    """Boot a rescue system's CD on the disks of a VM that is off; or end that (`end`), and have it off again."""
    asked = request or requests.Rescue()
    machine = await machines.find(call, project, name)
    if asked.end:
        return await machines.ask(call, machine, "vm.stop", _rescue_ended, within=_RESCUE_STOPS, kill=True)
    try:
        image = await call.resources.find(ground.Image, project, asked.image or _RESCUE)
    except resources.Missing as error:
        raise NoRescueImage(image=asked.image or _RESCUE) from error
    rescue.check_medium(image)

    def wanted(present: vm.VM) -> resources.Transaction:
        rescue.check(present)
        if present.status.state is vm.State.SAVED:
            raise rescue.SavedFirst(name=present.name)
        machines.check_down(present)
        return machines.update(present, power=vm.Power.RUNNING, rescue=image.uid)

    return await machines.ask(call, machine, "vm.start", wanted)


def _rescue_ended(machine: vm.VM) -> resources.Transaction:
    if machine.spec.rescue is None:
        raise rescue.NotInRescue(name=machine.name)
    return machines.update(machine, power=vm.Power.STOPPED)


@router.post("/undelete", name="undelete", status_code=202, response_model=Task, responses=_PROBLEMS)
async def undelete(
    project: calls.Project, name: calls.Name, call: Annotated[calls.Call, calls.may("vm:delete")]
) -> Response:
    """Bring it back from the trash; of several with one name the one that was deleted last."""
    machine = await machines.find(call, project, name, in_trash=True)
    return await machines.ask(call, machine, "vm.undelete", machines.undeletion)


@router.post("/clone", name="clone", status_code=202, response_model=Task, responses=_PROBLEMS)
async def clone(
    project: calls.Project,
    name: calls.Name,
    request: requests.Clone,
    call: Annotated[calls.Call, calls.may("vm:create")],
) -> Response:
    """Make a full copy of a stopped VM, with an identity of its own."""
    machine = await machines.find(call, project, name)
    machines.check_down(machine)
    volumes = {}
    for disk in machine.spec.disks:
        volume = await call.resources.get(ground.Volume, project, disk.volume)
        volumes[volume.uid] = volume
    index = await call.api.index.fresh()
    made, _ = definition.clone(machine, volumes, name=request.name, start=request.start, macs=index.macs)
    host = await machines.host_of(call, machine)
    task = call.task("vm.clone", subject=made.vm.ref, host=host, warnings=await facts.warnings_of_room(call, made))
    return await call.accept(task, transaction=machines.creation(made), location=answers.path(made.vm))


@router.post("/flatten", name="flatten", status_code=202, response_model=Task, responses=_PROBLEMS)
async def flatten(project: calls.Project, name: calls.Name, call: Changing) -> Response:
    """Make its disks independent of the images that they are linked to, while it runs or not."""
    machine = await machines.find(call, project, name)
    machines.check_not_in_trash(machine)
    host = await machines.host_of(call, machine)
    return await call.accept(call.task("vm.flatten", subject=machine.ref, host=host))


@router.post("/move", name="move", status_code=202, response_model=Task, responses=_PROBLEMS)
async def move(project: calls.Project, name: calls.Name, request: requests.MoveDisks, call: Changing) -> Response:
    """Carry it to another storage of its host, with its disks, snapshots and saved memory, while it runs or not."""
    machine = await machines.find(call, project, name)
    machines.check_not_in_trash(machine)
    storage = await facts.storage_named(call, request.storage)
    host = await machines.host_of(call, machine)
    if host and not storage.reached_by(host):
        name_ = (await call.resources.get(ground.Host, None, host)).name
        raise NotReached(storage=storage.name, host=name_, name=machine.name)
    return await call.accept(call.task("vm.move", subject=machine.ref, host=host, storage=storage.uid))
