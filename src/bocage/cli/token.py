"""`bocage token`: for those who come over TCP."""

from __future__ import annotations

from typing import Annotated

import typer

from bocage.cli import lazy, options, output, people, session, table
from bocage.client import rest

_COLUMNS = (
    table.Column("NAME", least=20),
    table.Column("CREATED"),
    table.Column("EXPIRES"),
    table.Column("LAST USED"),
)
TokenName = Annotated[str, typer.Argument(metavar="NAME", help="What or whom the token is for.")]


def create(
    name: TokenName,
    days: Annotated[int | None, typer.Option(metavar="DAYS", help="It ends after so many; else never.")] = None,
    json: options.Json = False,
) -> None:
    """Make a token for the API over TCP; it is shown this once.

    Examples:
      export BOCAGE_TOKEN=$(bocage token create laptop --days 90)
    """
    with session.connect() as api:
        made = api.tokens.create(rest.given(name=name, days=days))
    if json:
        output.document(made)
    else:
        output.line(made["token"])
        output.complain("it is not shown again; send it as BOCAGE_TOKEN, with BOCAGE_URL")


def list_tokens(json: options.Json = False) -> None:
    """List the tokens, without their secrets.

    Examples:
      bocage token list
    """
    with session.connect() as api:
        found = api.tokens.list()
    if json:
        output.document(found)
    elif not found["items"]:
        output.complain("no token: 'bocage token create NAME' makes one")
    else:
        output.line(table.render(_COLUMNS, [_row(one) for one in found["items"]]))


def _row(token: rest.Document) -> tuple[str, ...]:
    expires = token["spec"].get("expires")
    return (
        output.named(token),
        people.ago(token["metadata"]["created"]),
        people.ago(expires) if expires else "never",
        people.ago(token["status"].get("last_used")),
    )


def delete(name: TokenName, json: options.Json = False) -> None:
    """Take a token back: it opens nothing from now on.

    Examples:
      bocage token delete laptop
    """
    with session.connect() as api:
        answer = api.tokens.delete(name)
    if json:
        output.document(answer)
    else:
        output.line(f"token {name} opens nothing any more")


NOUN = lazy.Group(
    "token",
    help="Tokens: for those who come over TCP.",
    verbs={"Tokens": {"create": "token:create", "list": "token:list_tokens", "delete": "token:delete"}},
)
