"""`bocage install` and `bocage uninstall`: the daemon as a service of systemd's."""

from __future__ import annotations

import os
import pathlib
import sys

from bocage import errors, systemd
from bocage import home as homes
from bocage.cli import failure, options, output
from bocage.words import N_

_KEPT = ("BOCAGE_HOME", "BOCAGE_LISTEN")


class NotRoot(failure.Error, errors.Forbidden):
    type = "install-not-root"
    text = N_("a service of the system is root's to install")
    hint = N_("run it as root; without root, 'bocage daemon start' runs the daemon")


class Another(failure.Error, errors.Conflict):
    type = "install-another-home"
    text = N_("{unit} serves the home {home}, and a machine has one such service")
    hint = N_("'BOCAGE_HOME={home} bocage uninstall' takes it away; its VMs go on")
    unit: str
    home: str


class NotInstalled(failure.Error, errors.NotFound):
    type = "install-none"
    text = N_("no service is installed for {home}")
    hint = N_("'bocage install' installs one")
    home: str


class FromPackage(failure.Error, errors.Conflict):
    type = "install-from-package"
    text = N_("the service comes from the package 'bocage'")
    hint = N_("'apt-get remove bocage' takes it away, and the VMs go on; 'systemctl disable {unit}' keeps it down")
    unit: str


def install(json: options.Json = False) -> None:
    """Make a service of it: started with the machine, its VMs stopped in order when the machine goes down.

    A daemon that runs by hand is replaced; the VMs go on. Run again, it brings the units up to date.

    Examples:
      bocage install
    """
    from bocage.cli import background

    home = _at_home()
    unit = systemd.installed()
    if unit and systemd.home_of(unit) != home.path:
        raise Another(unit=systemd.SERVICE, home=str(systemd.home_of(unit)))
    packaged = unit is not None and unit.parent == systemd.PACKAGED
    if not packaged:
        kept = {name: os.environ[name] for name in _KEPT if os.environ.get(name)}
        systemd.write(systemd.units([str(_command())], environment=kept), systemd.WRITTEN)
        systemd.control("daemon-reload")
    if (found := background.find()) and not systemd.is_active(systemd.SERVICE):
        background.stop(found, within=60)
    # A daemon that runs goes on with the code that it was started with: it is started anew. VMs are in scopes.
    systemd.control("enable", systemd.SERVICE, systemd.VMS)
    systemd.control("restart", systemd.SERVICE)
    systemd.control("start", systemd.VMS, unit=systemd.VMS)
    if json:
        output.document({"unit": str(systemd.installed()), "home": str(home.path)})
    else:
        output.line(f"{systemd.SERVICE} is installed and running, at home in {home.path}")


def uninstall(json: options.Json = False) -> None:
    """Take the service away. Its home stays as it is, and VMs that run go on.

    Examples:
      bocage uninstall
    """
    home = _at_home()
    unit = systemd.installed()
    if not unit or systemd.home_of(unit) != home.path:
        raise NotInstalled(home=str(home.path))
    if unit.parent == systemd.PACKAGED:
        raise FromPackage(unit=systemd.SERVICE)
    systemd.control("disable", systemd.SERVICE, systemd.VMS)
    systemd.control("stop", systemd.SERVICE)
    for name in (systemd.SERVICE, systemd.VMS, systemd.SLICE):
        (systemd.WRITTEN / name).unlink(missing_ok=True)
    systemd.control("daemon-reload")
    systemd.control("stop", systemd.VMS, unit=systemd.VMS)  # without its file it stops no VM
    if json:
        output.document({"home": str(home.path)})
    else:
        output.line(f"the service is gone; {home.path} is as it was, and VMs that run go on")


def _at_home() -> homes.Home:
    if not systemd.in_charge():
        raise systemd.NotInCharge
    if os.geteuid() != 0:
        raise NotRoot
    return homes.Home.from_environment()


def _command() -> pathlib.Path:
    """Our own command, beside the Python that runs it."""
    return pathlib.Path(sys.executable).with_name("bocage")
