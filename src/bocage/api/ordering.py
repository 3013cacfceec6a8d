"""What a VM is to wait for when it starts: names become uids, and a ring is refused."""

from __future__ import annotations

from bocage import errors
from bocage.api import calls, machines, problems
from bocage.model import requests, vm
from bocage.planner import order
from bocage.words import N_


class Ring(problems.Error, errors.Conflict):
    type = "vm-waits-for-itself"
    text = N_("{name} would wait for itself: {ring}")
    hint = N_("take one of these out of what another waits for: 'bocage vm set NAME --autostart-after none'")
    name: str
    ring: list[str]


async def resolved(
    call: calls.Call, project: str, autostart: requests.AutostartRequest, *, name: str, uid: str = ""
) -> requests.AutostartRequest:
    """The same with uids of VMs that are there, for the VM of this name. Raises resources.Missing and Ring."""
    if not autostart.after:
        return autostart
    after = [(await machines.find(call, project, one)).uid for one in autostart.after]
    others = {one.uid: one for one in (await call.resources.list(vm.VM, project)).items}
    if uid and (way := order.ring(uid, after, others)):
        raise Ring(name=name, ring=[name, *(others[one].name for one in way)])
    return autostart.model_copy(update={"after": tuple(dict.fromkeys(after))})
