"""Keys in the database: made, listed, found, revoked; DatabaseDownError where it does not answer."""

from __future__ import annotations

import json
import time
from typing import Any

from sqlalchemy import insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from nexus_llm.errors import UsageError
from nexus_llm.serve.access.database import Database
from nexus_llm.serve.access.keys import KeyRecord, hash_of, new_key
from nexus_llm.serve.access.limits import Limits
from nexus_llm.serve.access.tables import api_keys, meters


class NameTakenError(UsageError):
    """A living key has this name already."""


def create_key(
    database: Database,
    name: str,
    *,
    limits: Limits = Limits(),  # noqa: B008 - immutable
    models: tuple[str, ...] = (),
    endpoints: tuple[str, ...] = (),
    expires_at: int | None = None,
    is_admin: bool = False,
) -> tuple[str, KeyRecord]:
    """The new key, which nobody can tell again, and what is kept of it.

    Raises:
        NameTakenError: there is a key of this name that was not revoked.
    """
    key, key_id = new_key()
    record = KeyRecord(
        id=key_id,
        name=name,
        hash=hash_of(key),
        created_at=int(time.time()),
        expires_at=expires_at,
        is_admin=is_admin,
        models=models,
        endpoints=endpoints,
        limits=limits,
    )
    try:
        with database.writing() as connection:
            connection.execute(insert(api_keys).values(**_values(record)))
            connection.execute(
                insert(meters).values(key_id=key_id, seconds="[]", month="", spent_nano_usd=0, held_nano_usd=0)
            )
    except IntegrityError as error:
        raise NameTakenError(
            f"there is a key named {name!r} already", fix=f"choose another name, or first: nexus keys revoke {name}"
        ) from error
    return key, record


def list_keys(database: Database) -> list[KeyRecord]:
    """All keys, revoked ones too, oldest first."""
    with database.reading() as connection:
        rows = connection.execute(select(api_keys).order_by(api_keys.c.created_at, api_keys.c.name))
        return [_record(row._mapping) for row in rows]


def find_key(database: Database, key_id: str) -> KeyRecord | None:
    """The key with this id, revoked or not."""
    with database.reading() as connection:
        row = connection.execute(select(api_keys).where(api_keys.c.id == key_id)).first()
    return None if row is None else _record(row._mapping)


def revoke_key(database: Database, name_or_id: str) -> KeyRecord | None:
    """The key that is revoked from now on, by id or by the name that a living key has; None where there is none."""
    is_meant = or_(api_keys.c.id == name_or_id, api_keys.c.name == name_or_id)
    with database.writing() as connection:
        row = connection.execute(
            update(api_keys)
            .where(is_meant, api_keys.c.revoked_at.is_(None))
            .values(revoked_at=int(time.time()))
            .returning(api_keys)
        ).first()
    return None if row is None else _record(row._mapping)


def _values(record: KeyRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "name": record.name,
        "hash": record.hash,
        "created_at": record.created_at,
        "expires_at": record.expires_at,
        "is_admin": record.is_admin,
        "models": json.dumps(record.models),
        "endpoints": json.dumps(record.endpoints),
        "requests_per_minute": record.limits.requests_per_minute,
        "tokens_per_minute": record.limits.tokens_per_minute,
        "nano_usd_per_month": record.limits.nano_usd_per_month,
    }


def _record(row: Any) -> KeyRecord:
    return KeyRecord(
        id=row["id"],
        name=row["name"],
        hash=row["hash"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
        is_admin=row["is_admin"],
        models=tuple(json.loads(row["models"])),
        endpoints=tuple(json.loads(row["endpoints"])),
        limits=Limits(row["requests_per_minute"], row["tokens_per_minute"], row["nano_usd_per_month"]),
    )
