"""The side of the host that joins: with a word it gets its papers, and believes the authority that the word names."""

from __future__ import annotations

import contextlib
import dataclasses
import hmac
import json
import ssl
from collections.abc import AsyncIterator

import httpx

from bocage import errors, files, words
from bocage.home import Home
from bocage.membership import admission, invitation, papers, place
from bocage.words import N_

_WITHIN = 20.0  # seconds


class Error(errors.Problem):
    """Joining did not come about."""


class Away(Error, errors.Unavailable):
    type = "join-host-away"
    text = N_("{address} does not answer: {reason}")
    hint = N_("the word has the address of the host that it was made on: it must be reachable from here, port 8481")
    address: str
    reason: str


class OtherAuthority(Error, errors.Forbidden):
    type = "join-other-authority"
    text = N_("at {address} there is another cluster than the one that the word is of")
    hint = N_("do not go on before you know why; then 'bocage cluster invite' prints a new word")
    address: str


class Refused(Error, errors.Conflict):
    type = "join-refused"
    text = N_("{address} did not let this host in: {said}")
    address: str
    said: str


async def join(
    home: Home, word: invitation.Word, *, uid: str, name: str, address: str, witness: bool = False
) -> place.Place:
    """Get this host's papers and put them into the home; gives what is still to be written, last.

    Raises Away, OtherAuthority, Refused, the problems of admission, and OSError.
    """
    authority = await _authority(word)
    key, request = papers.request()
    asked = admission.Asked(word.secret, uid, name, address, request.decode(), witness)
    async with _client(word, ssl.create_default_context(cadata=authority.decode())) as client:
        answer = await client.post("/join", json=dataclasses.asdict(asked))
    if answer.status_code != httpx.codes.OK:
        raise _problem(word, answer)
    try:
        given = admission.Papers(**answer.json())
    except (ValueError, TypeError) as error:
        raise Refused(address=word.address, said=str(error)) from error
    _meant(word, given.authority.encode())
    for path, content in (
        (home.authority, authority),
        (home.certificate, given.certificate),
        (home.certificate_key, key),
        (home.authority_key, given.authority_key),
        (home.joined_secret_key, given.secret_key),
    ):
        if content:
            files.write_durably(path, content, mode=0o600)
    return place.Place(given.incarnation, address, tuple(given.clients), witness)


async def _authority(word: invitation.Word) -> bytes:
    """The authority's certificate, which is the one that the word means. Raises Away and OtherAuthority."""
    blind = ssl.create_default_context()
    blind.check_hostname = False
    blind.verify_mode = ssl.CERT_NONE  # what comes is compared with the word, and nothing is told
    async with _client(word, blind) as client:
        answer = await client.get("/ca")
    if answer.status_code != httpx.codes.OK:
        raise OtherAuthority(address=word.address)
    return _meant(word, answer.content)


def _meant(word: invitation.Word, told: bytes) -> bytes:
    """The certificate that the word means, and nothing that came with it. Raises OtherAuthority."""
    try:
        one = papers.one(told)
    except ValueError as error:
        raise OtherAuthority(address=word.address) from error
    if not hmac.compare_digest(papers.fingerprint(one), word.fingerprint):
        raise OtherAuthority(address=word.address)
    return one


@contextlib.asynccontextmanager
async def _client(word: invitation.Word, trusted: ssl.SSLContext) -> AsyncIterator[httpx.AsyncClient]:
    try:
        async with httpx.AsyncClient(
            base_url=f"https://{word.address}", verify=trusted, timeout=_WITHIN, trust_env=False
        ) as client:
            yield client
    except (httpx.TransportError, httpx.InvalidURL, ssl.SSLError) as error:
        raise Away(address=word.address, reason=str(error) or type(error).__name__) from error


def _problem(word: invitation.Word, answer: httpx.Response) -> errors.Problem:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        told = json.loads(answer.content)
        message = words.revive(str(told["type"]), dict(told["params"]))
        if isinstance(message, errors.Problem):
            return message
        return Refused(address=word.address, said=words.say(message))
    return Refused(address=word.address, said=f"status {answer.status_code}")
