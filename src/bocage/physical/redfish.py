"""BMCs by Redfish (DMTF DSP0266).

Without sessions: a daemon that is killed would leave them open, and a BMC has few. A certificate of theirs is nearly
always their own, so the one that was seen when the BMC was set is held to, and no other is told the password.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import hashlib
import logging
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from bocage import threads
from bocage.model import power
from bocage.physical import base

if TYPE_CHECKING:
    import sushy

R = TypeVar("R")

_CONNECT, _READ = 2.0, 6.0  # seconds
_AGAIN = 0.2  # seconds until a request that the BMC failed at (5xx) is sent once more
_STATES = {"On": base.Power.ON, "Off": base.Power.OFF}
_threads = concurrent.futures.ThreadPoolExecutor(64, thread_name_prefix="bmc")  # one that hangs holds up no other


class Redfish(base.Bmc):
    """A machine of a Redfish service. `expected` is its System UUID, where it is known."""

    def __init__(self, place: power.Bmc, password: str, expected: str = "") -> None:
        self._place, self._password, self._expected = place, password, expected
        self._system: Any = None  # as it was last read; a failure lets go of it
        self._turn = asyncio.Lock()

    async def power(self) -> base.Power:
        return await self._ask(lambda system: _STATES.get(_state(system), base.Power.CHANGING))

    async def identity(self) -> str:
        return await self._ask(lambda system: str(system.uuid or "").lower())

    async def off(self, still: Callable[[], bool] = lambda: True) -> None:
        await self._ask(lambda system: self._order(system, "ForceOff", already="Off", still=still))

    async def on(self) -> None:
        await self._ask(lambda system: self._order(system, "On", already="On"))

    async def system(self) -> str:
        """The id of the system that is meant."""
        return await self._ask(lambda system: _name(system.path))

    async def _ask(self, question: Callable[[Any], R]) -> R:
        async with self._turn:
            asked = asyncio.get_running_loop().run_in_executor(_threads, self._fresh, question)
            return await threads.to_its_end(asked)

    def _fresh(self, question: Callable[[Any], R]) -> R:
        with self._told():
            if self._system is None:
                self._system = self._find()
            else:
                self._system.refresh(force=True)
            held, self._system = self._system, None
            answer = question(held)
            self._system = held
            return answer

    def _order(self, system: Any, what: str, *, already: str, still: Callable[[], bool] = lambda: True) -> None:
        found = str(system.uuid or "")
        if self._expected and not power.same_system(found, self._expected):
            raise base.OtherSystem(address=self._place.address, found=found or "not told", expected=self._expected)
        if _state(system) != already:  # many answer an order that changes nothing with an error
            import sushy

            if not still():
                raise base.Unwanted
            system.reset_system(sushy.ResetType(what))

    def _find(self) -> Any:
        import sushy
        from sushy import auth

        service = sushy.Sushy(
            self._place.address,
            auth=auth.BasicAuth(username=self._place.user, password=self._password),
            connector=_connector(self._place),
        )
        paths = service.get_system_collection().members_identities
        meant = [path for path in paths if self._place.system in ("", _name(path))]
        if len(meant) != 1:
            names = ", ".join(map(_name, paths)) or "none"
            raise base.NoSystem(address=self._place.address, system=self._place.system, systems=names)
        return service.get_system(meant[0])

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        from sushy import exceptions

        address = self._place.address
        try:
            yield
        except exceptions.AccessError as error:
            raise base.WrongPassword(address=address, user=self._place.user) from error
        except exceptions.ConnectionError as error:
            if "Fingerprints did not match" in str(error):
                raise base.OtherCertificate(address=address) from error
            raise base.Unreachable(address=address, reason=_cause(error)) from error
        except exceptions.SushyError as error:
            raise base.Strange(address=address, reason=str(error)[:300]) from error
        except (ValueError, LookupError, TypeError, AttributeError) as error:  # JSON of another form, or none at all
            raise base.Strange(address=address, reason=f"its answer is none of Redfish's: {error}"[:300]) from error


def certificate(place: power.BmcPlace) -> str:
    """SHA-256 of the certificate that a BMC shows; empty where it has no TLS. Blocks. Raises base.Unreachable."""
    if not place.address.startswith("https:"):
        return ""
    anyone = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((place.host, place.port), timeout=_CONNECT) as line,
            anyone.wrap_socket(line) as spoken,
        ):
            return hashlib.sha256(spoken.getpeercert(binary_form=True) or b"").hexdigest()
    except OSError as error:
        raise base.Unreachable(address=place.address, reason=error.strerror or str(error)) from error


def _connector(place: power.Bmc) -> sushy.connector.Connector:
    from requests import adapters
    from sushy import connector

    logging.getLogger("sushy").setLevel(logging.CRITICAL)  # what goes wrong is told by type, once

    class Pinned(adapters.HTTPAdapter):
        def init_poolmanager(self, *arguments: Any, **named: Any) -> Any:
            return super().init_poolmanager(*arguments, **named, assert_fingerprint=place.certificate)

    made = connector.Connector(
        place.address,
        verify=False,
        server_side_retries=1,
        server_side_retries_delay=_AGAIN,
        default_request_timeout=_READ,
        connect_timeout=_CONNECT,
    )
    made._session.trust_env = False
    if place.certificate:
        made._session.mount("https://", Pinned())
    return made


def _name(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1]


def _state(system: Any) -> str:
    state = system.power_state
    return str(getattr(state, "value", state) or "")


def _cause(error: BaseException) -> str:
    """The innermost words of what went wrong: the outer ones repeat the address and the library's own names."""
    words = str(error)
    for sign in ("Connection refused", "No route to host", "Network is unreachable", "timed out"):
        if sign in words:
            return sign
    return words[:300]
