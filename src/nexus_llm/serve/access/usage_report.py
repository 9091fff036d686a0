"""What was used, by whom and for how much; DatabaseDownError where the database does not answer."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from sqlalchemy import func, or_, select

from nexus_llm.serve.access.database import Database
from nexus_llm.serve.access.tables import api_keys, busy_hours, usage_days

GroupBy = Literal["day", "key", "model"]


@dataclass(frozen=True, slots=True)
class UsageRow:
    """The sums of one day, key or model."""

    group: str
    """`2026-11-22`, a key's name, or a model's."""
    key_id: str | None
    """Where rows are keys: two keys may have had the same name one after the other."""
    requests: int
    unfinished: int
    """Of the requests, those whose client left or whose engine died before the answer was whole."""
    prompt_tokens: int
    completion_tokens: int
    usd: float

    def document(self, by: GroupBy) -> dict[str, Any]:
        values = asdict(self)
        group, key_id = values.pop("group"), values.pop("key_id")
        return {by: group, **({"key_id": key_id} if by == "key" else {}), **values}


_days = usage_days.c
_name = func.coalesce(api_keys.c.name, _days.key_id)
_named = usage_days.outerjoin(api_keys, api_keys.c.id == _days.key_id)


def usage_rows(
    database: Database,
    *,
    by: GroupBy,
    key: str | None = None,
    model: str | None = None,
    since_day: str | None = None,
) -> list[UsageRow]:
    """Sums by day, key or model, in the order of their names; of one key (name or id), one model, since a day (UTC)."""
    columns: dict[GroupBy, list[Any]] = {"day": [_days.day], "key": [_name, _days.key_id], "model": [_days.model]}
    groups = columns[by]
    sums = [
        func.sum(column)
        for column in (_days.requests, _days.unfinished, _days.prompt_tokens, _days.completion_tokens, _days.nano_usd)
    ]
    query = select(*groups, *sums).select_from(_named)
    if key is not None:
        query = query.where(or_(_days.key_id == key, _name == key))
    if model is not None:
        query = query.where(_days.model == model)
    if since_day is not None:
        query = query.where(_days.day >= since_day)
    with database.reading() as connection:
        rows = connection.execute(query.group_by(*groups).order_by(*groups)).all()
    return [_row(row, has_id=by == "key") for row in rows]


@dataclass(frozen=True, slots=True)
class DayUsage:
    """What one key asked one model on one day."""

    day: str
    """`2026-11-22`, UTC."""
    key: str
    """Its name."""
    model: str
    requests: int
    prompt_tokens: int
    completion_tokens: int


def usage_by_day(database: Database, *, since_day: str) -> tuple[list[DayUsage], list[int]]:
    """Every day's use from `since_day` (UTC) on, and the hours in which a request came: their starts, in seconds since
    1970. A gateway of before these were noted left none.
    """
    query = (
        select(_days.day, _name, _days.model, _days.requests, _days.prompt_tokens, _days.completion_tokens)
        .select_from(_named)
        .where(_days.day >= since_day)
        .order_by(_days.day, _name, _days.model)
    )
    with database.reading() as connection:
        rows = [DayUsage(*row) for row in connection.execute(query)]
        hours = connection.execute(select(busy_hours.c.at).order_by(busy_hours.c.at)).scalars().all()
    return rows, list(hours)


def _row(row: Any, *, has_id: bool) -> UsageRow:
    group, *rest = row
    key_id = rest.pop(0) if has_id else None
    requests, unfinished, prompt_tokens, completion_tokens, nano_usd = map(int, rest)  # PostgreSQL sums to decimals
    return UsageRow(group, key_id, requests, unfinished, prompt_tokens, completion_tokens, nano_usd / 1e9)
