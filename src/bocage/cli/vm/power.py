"""Running VMs: start, stop, kill, reboot, reset, pause, resume, save, rescue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from bocage import errors
from bocage.cli import complete, failure, options, output, session, waiting
from bocage.client import rest


def each(
    names: list[str],
    ask: Callable[[rest.Client, str], rest.Document],
    said: str,
    *,
    project: str,
    wait: bool,
    json: bool,
) -> None:
    """Ask for a task for each name, then wait for them all; with the exit code of the first that failed."""
    worst = failure.DONE
    with session.connect(project) as api:
        asked = []
        for name in names:
            try:
                asked.append((name, ask(api, name)))
            except errors.Problem as problem:
                if len(names) == 1:
                    raise
                code = failure.tell(problem)
                worst = worst or code
        for name, task in asked:
            try:
                waiting.finish(api, task, wait=wait, json=json, said=said.format(name=name))
            except errors.Problem as problem:
                if len(names) == 1:
                    raise
                code = failure.tell(problem)
                worst = worst or code
    if worst:
        raise typer.Exit(worst)


def start(
    names: options.VMNames,
    boot: Annotated[str | None, typer.Option(metavar="DEVICE", help="Boot from it, this once: cd0, disk0.")] = None,
    paused: Annotated[bool, typer.Option("--paused", help="Hold it before its first instruction.")] = False,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Also where it takes room that is kept for when a host dies.")
    ] = False,
    project: options.Project = options.DEFAULT,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Start VMs; one that was saved resumes where it was.

    Examples:
      bocage vm start web1 web2
      bocage vm start erp --boot cd0
    """
    said = "{name} is paused before its first instruction" if paused else "{name} is running"
    each(
        names,
        lambda api, name: api.vms.start(name, boot=boot, paused=paused, anyway=anyway),
        said,
        project=project,
        wait=wait,
        json=json,
    )


def stop(
    names: options.VMNames,
    within: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="The guest's time; else as its stop policy says.")
    ] = None,
    then_kill: Annotated[bool, typer.Option("--kill", help="Pull the plug when that time is over.")] = False,
    project: options.Project = options.DEFAULT,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Ask the guest to shut down, in order; 'bocage vm kill' pulls the plug.

    Examples:
      bocage vm stop web1
      bocage vm stop web1 --within 60 --kill
    """
    ask = lambda api, name: api.vms.stop(name, within=within, kill=then_kill)  # noqa: E731
    each(names, ask, "{name} is stopped", project=project, wait=wait, json=json)


def kill(
    names: options.VMNames,
    project: options.Project = options.DEFAULT,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Pull the plug: at once, whatever the guest is doing.

    Examples:
      bocage vm kill web1
    """
    each(names, _act("kill"), "{name} is off", project=project, wait=wait, json=json)


def reboot(
    names: options.VMNames,
    project: options.Project = options.DEFAULT,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Ask the guest to reboot; a cold start when changes wait for one.

    Examples:
      bocage vm reboot web1
    """
    each(names, _act("reboot"), "{name} has rebooted", project=project, wait=wait, json=json)


def reset(
    names: options.VMNames,
    project: options.Project = options.DEFAULT,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Press the reset button: the guest is not asked.

    Examples:
      bocage vm reset web1
    """
    each(names, _act("reset"), "{name} was reset", project=project, wait=wait, json=json)


def pause(
    names: options.VMNames,
    project: options.Project = options.DEFAULT,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Halt the vCPUs; memory stays in RAM.

    Examples:
      bocage vm pause web1
    """
    each(names, _act("pause"), "{name} is paused", project=project, wait=wait, json=json)


def resume(
    names: options.VMNames,
    project: options.Project = options.DEFAULT,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Go on after a pause.

    Examples:
      bocage vm resume web1
    """
    each(names, _act("resume"), "{name} is running", project=project, wait=wait, json=json)


def save(
    names: options.VMNames,
    project: options.Project = options.DEFAULT,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Write the memory to a file and free the RAM; the next start resumes.

    Examples:
      bocage vm save web1 && bocage vm start web1
    """
    each(names, _act("save"), "{name} is saved", project=project, wait=wait, json=json)


def _act(verb: str) -> Callable[[rest.Client, str], rest.Document]:
    return lambda api, name: api.vms.act(name, verb)


def rescue(
    name: options.VMName,
    image: Annotated[
        str | None, typer.Option(metavar="IMAGE", help="A CD: rescue.", autocompletion=complete.images)
    ] = None,
    end: Annotated[bool, typer.Option("--end", help="End it; the next start is of its own disks.")] = False,
    project: options.Project = options.DEFAULT,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Boot a rescue system on the disks of a VM that is off.

    'bocage image build rescue' makes one: a shell, fsck, mount and chroot on the serial
    console. Its disks are /dev/sda, /dev/sdb, … there, its NICs have their addresses; all
    else of the VM stays as it is. It ends with --end, with 'bocage vm stop', or when the
    rescue system switches off. Until then the VM cannot be started.

    Examples:
      bocage image build rescue
      bocage vm rescue web1
      bocage vm console web1
      bocage vm rescue web1 --end
    """
    if end and image is not None:
        raise failure.Usage(option="--end", wrong="it needs no image")
    with session.connect(project) as api:
        task = api.vms.rescue(name, image=image, end=end)
        said = f"{name} is off; it starts from its own disks again" if end else f"{name} runs its rescue system"
        waiting.finish(api, task, wait=wait, json=json, said=said)
        if not (end or json):
            output.line(f"'bocage vm console {name}' leads to it, 'bocage vm rescue {name} --end' ends it")
