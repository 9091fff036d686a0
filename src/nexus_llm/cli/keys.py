"""`nexus keys create|list|revoke`: who may use a gateway, and how much."""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nexus_llm.cli.console import print_json
from nexus_llm.cli.options import AsJson, KeysDatabase
from nexus_llm.cli.serve import require_serving
from nexus_llm.errors import TryAgainError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from nexus_llm.serve.access.database import Database
    from nexus_llm.serve.access.key_form import NewKey

    Value = TypeVar("Value")

group = typer.Typer(
    help="Make, list and revoke the API keys of a gateway (nexus serve … --database URL).", rich_markup_mode=None
)


@group.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is; free again once it was revoked.")],
    models: Annotated[str, typer.Option(help="Only these, with commas; * and ? allowed [default: all].")] = "",
    endpoints: Annotated[str, typer.Option(help="Only these paths, with commas [default: all but /admin].")] = "",
    requests_per_minute: Annotated[int | None, typer.Option(help="In any 60 seconds.")] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(help="Prompt and answer together.")] = None,
    usd_per_month: Annotated[float | None, typer.Option(help="At the gateway's prices, by calendar month.")] = None,
    expires: Annotated[str | None, typer.Option(help="12h, 30d, 8w, or 2027-01-31 [default: never].")] = None,
    admin: Annotated[bool, typer.Option("--admin", help="May also use /admin.")] = False,
    database: KeysDatabase = None,
    as_json: AsJson = False,
) -> int:
    """Make a key. It is shown once: only its hash is kept."""
    require_serving()
    from nexus_llm.serve.access.key_documents import key_document
    from nexus_llm.serve.access.key_form import expiry
    from nexus_llm.serve.access.key_store import create_key

    asked = _checked(
        name=name,
        models=_listed(models),
        endpoints=_listed(endpoints),
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        usd_per_month=usd_per_month,
        admin=admin,
    )
    try:
        expires_at = expiry(expires)
    except ValueError as error:
        raise UsageError(f"--expires {expires} {error}", fix="for example: --expires 30d") from None

    key, record = with_database(
        database, lambda opened: create_key(opened, asked.name, expires_at=expires_at, **asked.rights())
    )
    if as_json:
        print_json({"key": key, **key_document(record)})
        return 0
    print(key)
    print(f"the key of {record.name} (id {record.id}); it is not shown again", file=sys.stderr)
    return 0


@group.command("list")
def list_all(database: KeysDatabase = None, as_json: AsJson = False) -> int:
    """All keys with their limits, revoked ones too."""
    require_serving()
    from nexus_llm.serve.access.key_documents import key_document
    from nexus_llm.serve.access.key_store import list_keys

    rows = [key_document(record) for record in with_database(database, list_keys)]
    if as_json:
        print_json({"keys": rows})
        return 0
    if not rows:
        print("no key is here yet: nexus keys create NAME", file=sys.stderr)
    for row in rows:
        print(f"{row['id']}  {row['name']:<20} {row['status']:<8} {_rules(row)}")
    return 0


@group.command()
def revoke(
    key: Annotated[str, typer.Argument(help="Its name or id.", metavar="NAME|ID")],
    database: KeysDatabase = None,
    as_json: AsJson = False,
) -> int:
    """Take a key back. Gateways refuse it within 5 seconds; answers under way are finished."""
    require_serving()
    from nexus_llm.serve.access.key_documents import key_document
    from nexus_llm.serve.access.key_store import revoke_key

    record = with_database(database, lambda opened: revoke_key(opened, key))
    if record is None:
        raise UsageError(f"there is no living key {key!r}", fix="see: nexus keys list")
    if as_json:
        print_json(key_document(record))
    else:
        print(f"revoked {record.name} (id {record.id}); gateways refuse it within 5 seconds")
    return 0


def with_database(url: str | None, work: Callable[[Database], Value]) -> Value:
    """What `work` gives for the database at `url`."""
    from nexus_llm.serve.access.database import DatabaseDownError, open_database

    if not url:
        raise UsageError(
            "no database is named", fix="add --database keys.db, or set NEXUS_DATABASE; nexus serve takes the same"
        )
    opened = open_database(url, password=database_password(url))
    try:
        return work(opened)
    except DatabaseDownError as error:
        raise TryAgainError(f"the database does not answer ({error})", fix="the same command again") from error
    finally:
        opened.close()


def database_password(url: str) -> Callable[[], str] | None:
    """What gives a password for each connection to `url`, where $NEXUS_DATABASE_AUTH asks for that."""
    kind = os.environ.get("NEXUS_DATABASE_AUTH")
    if not kind:
        return None
    if kind != "aws-iam":
        raise UsageError(f"NEXUS_DATABASE_AUTH is {kind!r}", fix="set it to aws-iam, or leave it out")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if not region:
        raise UsageError("NEXUS_DATABASE_AUTH is aws-iam, but no region is known", fix="set AWS_REGION")
    from nexus_llm.cloud.database_tokens import database_token

    return partial(database_token, url, region=region)


def _checked(**asked: Any) -> NewKey:
    from pydantic import ValidationError

    from nexus_llm.serve.access.key_form import NewKey

    try:
        return NewKey(**asked)
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0])
        place = field.upper() if field == "name" else f"--{field.replace('_', '-')}"
        raise UsageError(
            f"{place} is {first['input']!r}", fix=f"{first['msg'][:1].lower()}{first['msg'][1:]}"
        ) from None


def _listed(given: str) -> list[str]:
    return [one.strip() for one in given.split(",") if one.strip()]


def _rules(row: dict[str, Any]) -> str:
    parts = [
        f"{row['requests_per_minute']} requests/min" if row["requests_per_minute"] else "",
        f"{row['tokens_per_minute']} tokens/min" if row["tokens_per_minute"] else "",
        f"${row['usd_per_month']:g}/month" if row["usd_per_month"] else "",
        f"models {','.join(row['models'])}" if row["models"] else "",
        f"endpoints {','.join(row['endpoints'])}" if row["endpoints"] else "",
        f"until {row['expires']}" if row["expires"] else "",
        "admin" if row["admin"] else "",
    ]
    return " · ".join(part for part in parts if part) or "no limits"
