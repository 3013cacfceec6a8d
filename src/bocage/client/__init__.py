"""The API as a Python client: the command line, the pages and other people's programs use it.

It stands on `http.client` and not on httpx: importing httpx alone takes 110 ms, near half of what
`bocage vm list` may take as a whole, and over a Unix socket it would gain nothing.
"""

from __future__ import annotations

from bocage.client.connection import Address, Connection
from bocage.client.problems import Broken, Error, ProblemError, Unreachable
from bocage.client.rest import Client, connect

__all__ = ["Address", "Broken", "Client", "Connection", "Error", "ProblemError", "Unreachable", "connect"]
