"""`/admin`: keys and usage over HTTP, for keys that were made for it. The gate has checked that already."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import FastAPI, Query

from nexus_llm.serve.access.access import Access
from nexus_llm.serve.access.key_documents import key_document
from nexus_llm.serve.access.key_form import NewKey, day, expiry
from nexus_llm.serve.access.key_store import NameTakenError, create_key, list_keys, revoke_key
from nexus_llm.serve.access.usage_report import GroupBy, usage_rows
from nexus_llm.serve.api_errors import ApiError, invalid

GROUPS: tuple[GroupBy, ...] = ("day", "key", "model")
Filter = Annotated[str | None, Query(max_length=200)]


def add_admin_routes(app: FastAPI, access: Access) -> None:
    """`/admin`: keys are made, listed and revoked, and usage is read."""

    @app.get("/admin/keys")
    async def keys() -> dict[str, Any]:
        """All keys, revoked ones too."""
        found = await access.in_thread(partial(list_keys, access.database))
        return {"keys": [key_document(record) for record in found]}

    @app.post("/admin/keys", status_code=201)
    async def create(body: NewKey) -> dict[str, Any]:
        """A new key. It is told in this answer and never again."""
        expires_at = _checked("expires", partial(expiry, body.expires))
        make = partial(create_key, access.database, body.name, expires_at=expires_at, **body.rights())
        try:
            key, record = await access.in_thread(make)
        except NameTakenError as error:
            raise ApiError(409, f"{error.what}.", param="name", code="name_taken") from None
        return {"key": key, **key_document(record)}

    @app.delete("/admin/keys/{name_or_id}")
    async def revoke(name_or_id: str) -> dict[str, Any]:
        """Takes a key back, by its id or the name of a living key."""
        _printable("name_or_id", name_or_id)
        record = await access.in_thread(partial(revoke_key, access.database, name_or_id))
        if record is None:
            raise ApiError(404, "There is no living key of this name or id.", code="key_not_found")
        access.forget_key(record.id)
        return key_document(record)

    @app.get("/admin/usage")
    async def usage(by: str = "key", key: Filter = None, model: Filter = None, since: Filter = None) -> dict[str, Any]:
        """Sums by day, key or model."""
        group = next((one for one in GROUPS if one == by), None)
        if group is None:
            raise invalid("Invalid by: day, key or model is expected.", param="by", code="invalid_value")
        for name, value in (("key", key), ("model", model)):
            _printable(name, value)
        since_day = _checked("since", partial(day, since))
        read = partial(usage_rows, access.database, by=group, key=key, model=model, since_day=since_day)
        rows = await access.in_thread(read)
        return {"by": group, "usage": [row.document(group) for row in rows]}


def _checked(param: str, read: Any) -> Any:
    try:
        return read()
    except ValueError as error:
        raise invalid(f"Invalid {param}: {error}.", param=param, code="invalid_value") from None


def _printable(param: str, value: str | None) -> None:
    # PostgreSQL keeps no NUL in a text, and half a surrogate pair has no encoding.
    if value is not None and not value.isprintable():
        raise invalid(f"Invalid {param}: printable characters are expected.", param=param, code="invalid_value")
