"""What can go wrong between a client and the API."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from bocage import errors
from bocage.words import N_

URN = "urn:bocage:problem:"


class Error(errors.Problem):
    """Anything that goes wrong with a request."""


class Unreachable(Error, errors.Unavailable, ConnectionError):
    """Nobody listens where the API should be."""

    type = "daemon-unreachable"
    text = N_("the daemon does not answer at {address}: {reason}")
    hint = N_("start it ('bocage daemon start'), or say where it is (BOCAGE_HOME, BOCAGE_URL)")
    address: str
    reason: str


class Broken(Error, errors.Unavailable, ConnectionError):
    """The connection ended before the answer was whole. What was asked for may have been done."""

    type = "connection-broken"
    text = N_("the connection to the daemon broke before it had answered: {reason}")
    hint = N_("look whether it was done before you ask again; 'bocage daemon status' says whether the daemon runs")
    reason: str


class NoApi(Error, errors.Unavailable):
    """Something answered that is not Bocage."""

    type = "no-bocage-api"
    text = N_("what answers at {address} is not Bocage (status {answered}: {said})")
    hint = N_("check BOCAGE_URL")
    address: str
    answered: int
    said: str


class ProblemError(Error):
    """A problem document (RFC 9457) that the API answered with; its sentence is as the API said it."""

    type = "api-problem"
    text = N_("{sentence}")
    hint = N_("{advice}")
    problem: str
    """The problem's type, without the URN."""
    http_status: int
    sentence: str
    advice: str = ""
    faults: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    """For invalid fields: `path`, `wrong`, `right`."""
    details: dict[str, Any] = dataclasses.field(default_factory=dict)
    """The problem's parameters."""


def read(status: int, body: bytes, *, address: str) -> Error:
    """The error that an answer of 400 or more stands for."""
    try:
        document = json.loads(body)
        problem = str(document["type"])
    except (ValueError, KeyError, TypeError):
        said = " ".join(body[:200].decode(errors="replace").split())
        return NoApi(address=address, answered=status, said=said)
    known = ("type", "title", "status", "detail", "hint", "instance", "faults")
    faults = document.get("faults")
    return ProblemError(
        problem=problem.removeprefix(URN),
        http_status=status,
        sentence=str(document.get("detail") or document.get("title") or problem),
        advice=str(document.get("hint") or ""),
        faults=[fault for fault in faults if isinstance(fault, dict)] if isinstance(faults, list) else [],
        details={key: value for key, value in document.items() if key not in known},
    )
