"""What systemd is told where it is PID 1: the units of an installation, and that the daemon is ready.

`bocage.service` is the daemon. `bocage-vms.service` stands for the VMs: it is stopped when the machine goes down, which
stops them in their order, and is left alone by every restart and upgrade. Each VM is a scope in `bocage.slice`.
"""

from __future__ import annotations

import os
import pathlib
import re
import socket
import subprocess
from collections.abc import Mapping, Sequence

from bocage import errors, files, process
from bocage.words import N_

BUS = pathlib.Path("/run/dbus/system_bus_socket")
SERVICE = "bocage.service"
VMS = "bocage-vms.service"
SLICE = "bocage.slice"
STANDS_ON = (
    "dbus.service",
    "local-fs.target",
    "network-online.target",
    "nftables.service",  # whose rules replace all others when it starts
    "remote-fs.target",
)
"""What is there before VMs start, and goes after they have."""
JOURNAL = ("journalctl", "--unit", SERVICE, "--output", "cat", "--no-pager")
PACKAGED = pathlib.Path("/usr/lib/systemd/system")
WRITTEN = pathlib.Path("/etc/systemd/system")
_BOUND = 240.0  # seconds for systemctl; a service's own bounds are shorter
_SETTINGS = "/etc/default/bocage"
_HOME = re.compile(r'^Environment="BOCAGE_HOME=((?:[^"\\]|\\.)*)"$', re.MULTILINE)
_OOM = "fe6faa94e7774663a0da52717891d8ef"  # SD_MESSAGE_UNIT_OUT_OF_MEMORY (sd-messages(3))
_SAID = 1500  # characters of a failed command's output

_SERVICE_UNIT = """\
[Unit]
Description=Bocage, virtual machines on this host
Wants=network-online.target
After={stands_on}
StartLimitIntervalSec=0

[Service]
Type=notify
{environment}EnvironmentFile=-{settings}
ExecStart={command} daemon run
# The VMs have scopes of their own; what serves their networks stays when the daemon ends.
KillMode=process
OOMPolicy=continue
TasksMax=infinity
Restart=on-failure
RestartSec=3
TimeoutStartSec=180
TimeoutStopSec=60

[Install]
WantedBy=multi-user.target
Also={vms}
"""

_VMS_UNIT = """\
[Unit]
Description=The virtual machines of this host, stopped in their order when it goes down
Wants={service}
After={service} {stands_on}

[Service]
Type=oneshot
RemainAfterExit=yes
{environment}EnvironmentFile=-{settings}
ExecStart=-{command} host start-vms --no-wait
ExecStop={command} host stop-vms
TimeoutStartSec=180
# Each guest has a bound of its own, after which its plug is pulled.
TimeoutStopSec=30min

[Install]
WantedBy=multi-user.target
"""

_SLICE_UNIT = """\
[Unit]
Description=Virtual machines of Bocage

[Slice]
# Beside them stand the slices of the system and of the people who are logged in, with 100 each.
CPUWeight=400
"""


class Error(errors.Problem):
    """Anything that goes wrong with systemd."""


class NotInCharge(Error, errors.Unavailable):
    type = "systemd-not-in-charge"
    text = N_("systemd is not what runs this machine, so there is nothing to install a service with")
    hint = N_("'bocage daemon start' runs the daemon; have your init system run 'bocage daemon run' at its start")


class Refused(Error):
    """systemctl ended with another status than 0."""

    type = "systemctl-failed"
    text = N_("'{command}' did not work: {said}")
    hint = N_("'systemctl status {unit}' and 'journalctl -u {unit}' say more")
    command: str
    said: str
    unit: str


def in_charge() -> bool:
    """Whether systemd is PID 1 here (sd_booted(3))."""
    return os.path.isdir("/run/systemd/system")


def notify(state: str) -> None:
    """Say `READY=1` or the like where systemd started us and listens (sd_notify(3)); once, and no child after us."""
    address = os.environ.pop("NOTIFY_SOCKET", "")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as told:
            told.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)


def units(command: Sequence[str], *, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The text of each unit by its name, for the `command` that stands before `daemon run`."""
    fields = {
        "command": " ".join(map(_word, command)),
        "environment": "".join(f'Environment="{_escaped(f"{k}={v}")}"\n' for k, v in (environment or {}).items()),
        "settings": _SETTINGS,
        "stands_on": " ".join(STANDS_ON),
        "service": SERVICE,
        "vms": VMS,
    }
    return {SERVICE: _SERVICE_UNIT.format(**fields), VMS: _VMS_UNIT.format(**fields), SLICE: _SLICE_UNIT}


def write(texts: Mapping[str, str], into: pathlib.Path) -> None:
    """Write units, each whole or not at all. Raises OSError."""
    into.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        files.write_durably(into / name, text, mode=0o644)


def installed() -> pathlib.Path | None:
    """The file of the daemon's unit: an administrator's, else the package's; None when there is none."""
    return next((path for at in (WRITTEN, PACKAGED) if (path := at / SERVICE).is_file()), None)


def home_of(unit: pathlib.Path) -> pathlib.Path:
    """The home that the daemon of a unit is at."""
    found = _HOME.search(unit.read_text())
    if not found:
        return pathlib.Path("/var/lib/bocage")
    return pathlib.Path(re.sub(r"\\(.)", r"\1", found[1]).replace("%%", "%"))


def serves(home: pathlib.Path) -> bool:
    """Whether systemd is in charge and has a service for the daemon of a home."""
    unit = installed() if in_charge() else None
    return unit is not None and home_of(unit) == home


def control(*arguments: str, unit: str = SERVICE) -> None:
    """Run systemctl. Raises Refused."""
    command = ["systemctl", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_BOUND, check=False)
    except FileNotFoundError as error:
        raise NotInCharge from error
    except subprocess.TimeoutExpired as error:
        raise errors.TimedOut(what=process.shell_form(command), bound=_BOUND) from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[-_SAID:] or process.in_words(done.returncode)
        raise Refused(command=process.shell_form(command), said=said, unit=unit)


def is_active(unit: str) -> bool:
    """Whether a unit is started."""
    command = ["systemctl", "is-active", "--quiet", unit]
    return in_charge() and subprocess.run(command, capture_output=True, timeout=_BOUND, check=False).returncode == 0


def oom_kills(unit: str) -> int:
    """How often systemd saw in this boot that the kernel killed a process of a unit for lack of memory."""
    command = ["journalctl", "--boot", "--quiet", "--output", "cat", "--no-pager", "--unit", unit, f"MESSAGE_ID={_OOM}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_BOUND, check=False)
    except FileNotFoundError:
        return 0
    return len(done.stdout.splitlines())


def journal(lines: int) -> str:
    """The last lines of the daemon's log, where systemd keeps it."""
    command = [*JOURNAL, "-n", str(lines)]
    return subprocess.run(command, capture_output=True, text=True, timeout=_BOUND, check=False).stdout


def _word(text: str) -> str:
    """One word of a command line in a unit (systemd.service(5))."""
    return f'"{_escaped(text).replace("$", "$$")}"' if re.search(r'[\s"\'\\$%;]', text) else text


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
