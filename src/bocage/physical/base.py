"""What is known of every BMC: it says whether its machine has power, and takes it away or gives it."""

from __future__ import annotations

import abc
import enum
from collections.abc import Callable

from bocage import errors
from bocage.words import N_


class Error(errors.Problem):
    """Anything that goes wrong with a BMC."""


class NoBmc(Error, errors.Conflict):
    type = "bmc-none"
    text = N_("no BMC of host {name} is known, so its power cannot be asked for or changed")
    hint = N_("'bocage host set {name} --bmc redfish://USER@ADDRESS' names it")
    name: str


class Unreachable(Error, errors.Unavailable, ConnectionError):
    type = "bmc-unreachable"
    text = N_("the BMC at {address} does not answer: {reason}")
    hint = N_("can this host reach its network, and is the server plugged in?")
    address: str
    reason: str


class WrongPassword(Error, errors.Conflict, PermissionError):
    type = "bmc-wrong-password"
    text = N_("the BMC at {address} does not let the user '{user}' in with this password")
    hint = N_("it may also take some minutes off after several wrong ones")
    address: str
    user: str


class NoSystem(Error, errors.Conflict):
    type = "bmc-no-system"
    text = N_("the BMC at {address} does not have exactly one system '{system}'; it has {systems}")
    hint = N_("put its id at the end: redfish://USER@ADDRESS/SYSTEM")
    address: str
    system: str
    systems: str


class OtherSystem(Error, errors.Conflict):
    """Two swapped addresses would switch off the wrong machine."""

    type = "bmc-other-system"
    text = N_("the BMC at {address} is that of another machine: its System UUID is {found}, not {expected}")
    hint = N_("are the addresses of two BMCs swapped?")
    address: str
    found: str
    expected: str


class OtherCertificate(Error, errors.Conflict):
    type = "bmc-other-certificate"
    text = N_("the BMC at {address} shows another certificate than when it was set; it is not told the password")
    hint = N_("if its certificate was renewed, set the BMC again with 'bocage host set --bmc'")
    address: str


class Strange(Error, errors.Unavailable):
    type = "bmc-strange"
    status = 502
    text = N_("the BMC at {address} cannot do it: {reason}")
    address: str
    reason: str


class Unwanted(Error, errors.Conflict):
    """Nothing was ordered."""

    type = "bmc-unwanted"
    text = N_("the order is not wanted any more")


class Power(enum.StrEnum):
    ON = "on"
    OFF = "off"
    CHANGING = "changing"


class Bmc(abc.ABC):
    """One machine's. Every call asks it anew; each is bounded by seconds, and raises Error and errors.TimedOut."""

    @abc.abstractmethod
    async def power(self) -> Power:
        """Whether the machine has power now. What is neither on nor off is CHANGING."""

    @abc.abstractmethod
    async def identity(self) -> str:
        """Its System UUID, as the BMC tells it; empty when it tells none."""

    @abc.abstractmethod
    async def off(self, still: Callable[[], bool] = lambda: True) -> None:
        """Have its power cut at once; only `power` says when it is. Raises OtherSystem before anything is done.

        `still` is asked in the last moment, maybe in another thread, whether that is wanted; raises Unwanted if not.
        """

    @abc.abstractmethod
    async def on(self) -> None:
        """Have it started. Raises as `off`."""
