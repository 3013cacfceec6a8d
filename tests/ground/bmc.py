"""BMCs: sushy-tools' Redfish emulator, whose systems are ours. Each port is one server's BMC, which knows it alone.

`python -m tests.ground.bmc ROOT` runs those of a ground; tests run some in a thread.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import functools
import pathlib
import signal
import ssl
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import flask
from sushy_tools import error
from sushy_tools.emulator import main as emulator
from sushy_tools.emulator.resources.systems import fakedriver
from werkzeug import serving

if TYPE_CHECKING:
    from tests.ground import ground, machine

USER = "admin"


class Machine(Protocol):
    """What a BMC has power over."""

    @property
    def name(self) -> str: ...

    @property
    def uuid(self) -> str: ...

    def power(self) -> str:
        """Redfish's PowerState: On, Off, or what is between them."""

    def on(self) -> None: ...

    def off(self) -> None:
        """When it returns, nothing of the machine runs or is on its way."""


@dataclasses.dataclass(frozen=True, slots=True)
class Bmc:
    machine: Machine
    password: str
    port: int = 0
    delay: Callable[[], float] = lambda: 0.0
    """Seconds from an order, which is answered at once, to the deed: as the emulator's own driver has it."""


_by_port: dict[int, Bmc] = {}


class _Systems(fakedriver.FakeDriver):  # type: ignore[misc]
    """The systems that the BMC on this port has: one."""

    def __init__(self) -> None:
        self._told: dict[str, dict[str, Any]] = {}  # boot device and the like, by uuid

    @property
    def systems(self) -> list[str]:
        return [_asked().uuid]

    def _get(self, identity: str) -> dict[str, Any]:
        machine = _asked()
        if identity == machine.name:
            raise error.AliasAccessError(machine.uuid)
        if identity != machine.uuid:
            raise error.NotFound(f"there is no system {identity}")
        return self._told.setdefault(machine.uuid, {"uuid": machine.uuid, "name": machine.name, "nics": []})

    def get_power_state(self, identity: str) -> str:
        self._get(identity)
        return _asked().power()

    def set_power_state(self, identity: str, state: str) -> None:
        self._get(identity)
        asked = _by_port[_port()]
        if delay := asked.delay():
            threading.Timer(delay, _switch, (asked.machine, state)).start()
        else:
            _switch(asked.machine, state)


def _switch(machine: Machine, state: str) -> None:
    if state in ("ForceOff", "ForceRestart"):
        machine.off()
    if state in ("On", "ForceOn", "ForceRestart"):
        machine.on()


@functools.cache
def _prepare() -> tempfile.TemporaryDirectory[str]:
    """The emulator is one in a process, and so is the directory of what it keeps, which goes with the process."""
    state = tempfile.TemporaryDirectory(prefix="bocage-bmc-")
    emulator.app.configure(extra_config={"SUSHY_EMULATOR_FAKE_DRIVER": True, "SUSHY_EMULATOR_STATE_DIR": state.name})
    emulator.fakedriver.FakeDriver = _Systems
    return state


def _asked() -> Machine:
    return _by_port[_port()].machine


def _port() -> int:
    return int(flask.request.environ["SERVER_PORT"])


def _guarded(app: Callable[..., Any], password: str) -> Callable[..., Any]:
    right = "Basic " + base64.b64encode(f"{USER}:{password}".encode()).decode()

    def ask(environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        public = environ["PATH_INFO"].strip("/") in ("redfish", "redfish/v1")
        if public or environ.get("HTTP_AUTHORIZATION") == right:
            return app(environ, start)
        start("401 Unauthorized", [("Content-Type", "application/json"), ("WWW-Authenticate", "Basic")])
        return [b'{"error": {"code": "Base.1.0.InsufficientPrivilege", "message": "who are you?"}}']

    return ask


@contextlib.contextmanager
def serving_at(
    address: str, bmcs: Iterable[Bmc], *, certificate: pathlib.Path | None = None
) -> Iterator[Sequence[int]]:
    """BMCs that answer at an address, each on a port of its own; `certificate` has the key, too."""
    with contextlib.ExitStack() as undo:
        _prepare()
        context = None
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
        ports = []
        for one in bmcs:
            app = _guarded(emulator.app.wsgi_app, one.password)
            server = serving.make_server(
                address, one.port, app, threaded=True, ssl_context=context, request_handler=_Quiet
            )
            _by_port[server.server_port] = one
            ports.append(server.server_port)
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
            thread.start()
            undo.callback(thread.join)
            undo.callback(_by_port.pop, server.server_port)
            undo.callback(server.server_close)
            undo.callback(server.shutdown)
        yield ports


def main() -> None:
    """The BMCs of a ground, at the address of its switch. They see the machine's mounts: what they boot all see."""
    from tests.ground import bmc, ground, kernel, machine

    here = ground.Ground(pathlib.Path(sys.argv[1]))
    tempfile.tempdir = str(here.root)  # it is killed, and what it keeps goes with the ground
    kernel.enter_net(here.switch)
    machines = [bmc.Bmc(_Wired(here, one), one.bmc_password, one.bmc_port, one.bmc_delay) for one in here.machines()]
    with bmc.serving_at(machine.SWITCH_ADDRESS, machines):
        print("ready", flush=True)
        signal.pause()


class _Wired:
    """Whatever host the BMC at a host's address is wired to just now."""

    def __init__(self, here: ground.Ground, at: machine.Machine) -> None:
        self._here, self._at = here, at

    def __getattr__(self, name: str) -> Any:
        return getattr(self._here.machine(self._at.bmc_is_of), name)


class _Quiet(serving.WSGIRequestHandler):
    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Nobody reads them."""


if __name__ == "__main__":
    main()
