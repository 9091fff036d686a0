"""Admits and settles requests in the database, so that all replicas together keep a key's limits.

The `limits` library (5.x) was looked at first: it keeps its counts in Redis, Memcached, MongoDB or memory, not in SQL,
and cannot give back tokens that were reserved and not used. Here each transaction locks the key's meter, computes its
next state with the pure functions of `limits.py`, and writes it: replicas take turns, so nothing is counted twice or
missed.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from nexus_llm.serve.access.database import Database
from nexus_llm.serve.access.keys import KeyRecord
from nexus_llm.serve.access.limits import (
    Hold,
    Meter,
    Prices,
    Refusal,
    Second,
    Standing,
    admit,
    day_of,
    month_of,
    settle,
    standing,
)
from nexus_llm.serve.access.tables import busy_hours, holds, meters, usage_days

ANONYMOUS = "anonymous"
"""Stands for the key where keys are not required and none was sent."""
LOST_AFTER_SECONDS = 25 * 3600  # longer than `serve.timeouts` lets an answer take: whoever admitted it was killed


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request that may run, and what it will be settled against."""

    key_id: str
    model: str
    at: int
    """Seconds since 1970: its usage counts for this day and month, whenever it ends."""
    hold_id: str | None = None
    """None: the key has no limits, so nothing is held."""


@dataclass(frozen=True, slots=True)
class Outcome:
    request: Admitted
    prompt_tokens: int
    """0 where the engine never began."""
    completion_tokens: int
    is_finished: bool
    """False: the client left or the engine died before the answer was whole."""


class LimitReachedError(Exception):
    def __init__(self, refusal: Refusal, standing: Standing) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal
        self.standing = standing


class Ledger:
    """Requests, limits and usage in one database, at given prices."""

    def __init__(self, database: Database, prices: Prices) -> None:
        self._database = database
        self._prices = prices

    def admit(
        self, key: KeyRecord, *, model: str, prompt_tokens: int, completion_tokens: int
    ) -> tuple[Admitted, Standing]:
        """Admits a request that will use at most so many tokens, and holds them until `record`.

        Raises:
            LimitReachedError: one of the key's limits has no room for it; nothing was counted.
            DatabaseDownError: the database does not answer.
        """
        cost = self._prices.nano_usd(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)
        with self._database.writing() as connection:
            meter, now = self._locked_meter(connection, key.id)
            decision = admit(meter, key.limits, tokens=prompt_tokens + completion_tokens, nano_usd=cost, now=now)
            if isinstance(decision, Refusal):
                raise LimitReachedError(decision, standing(meter, key.limits, now))
            meter, hold = decision
            _write_meter(connection, key.id, meter)
            admitted = Admitted(key.id, model, hold.at, hold_id=uuid.uuid4().hex)
            connection.execute(
                insert(holds).values(
                    id=admitted.hold_id,
                    key_id=key.id,
                    model=model,
                    at=hold.at,
                    prompt_tokens=prompt_tokens,
                    completion_tokens=completion_tokens,
                    nano_usd=cost,
                )
            )
            return admitted, standing(meter, key.limits, now)

    def record(self, outcomes: Iterable[Outcome]) -> None:
        """Counts what requests of one key used, and gives back what they held and did not use.

        An outcome with a hold counts once, however often it is recorded.

        Raises:
            DatabaseDownError: the database does not answer; nothing was recorded.
        """
        with self._database.writing() as connection:
            for outcome in outcomes:
                self._record(connection, outcome)

    def recover(self, *, older_than_seconds: float = LOST_AFTER_SECONDS) -> int:
        """Settles requests whose gateway was killed, at the price of their prompts; gives their number."""
        with self._database.writing() as connection:
            before = self._database.now(connection) - older_than_seconds
            lost = connection.execute(select(holds).where(holds.c.at < before).order_by(holds.c.key_id)).all()
            for row in lost:
                request = Admitted(row.key_id, row.model, row.at, hold_id=row.id)
                self._record(connection, Outcome(request, row.prompt_tokens, 0, is_finished=False))
        return len(lost)

    def _record(self, connection: Connection, outcome: Outcome) -> None:
        request = outcome.request
        cost = self._prices.nano_usd(prompt_tokens=outcome.prompt_tokens, completion_tokens=outcome.completion_tokens)
        if request.hold_id is not None:
            meter, _ = self._locked_meter(connection, request.key_id)
            held = connection.execute(delete(holds).where(holds.c.id == request.hold_id).returning(holds)).first()
            if held is None:
                return  # recorded before, by a transaction whose end we did not hear of
            hold = Hold(held.at, held.prompt_tokens + held.completion_tokens, held.nano_usd)
            tokens = outcome.prompt_tokens + outcome.completion_tokens
            _write_meter(connection, request.key_id, settle(meter, hold, tokens=tokens, nano_usd=cost))
        self._add_usage(connection, outcome, cost)

    def _locked_meter(self, connection: Connection, key_id: str) -> tuple[Meter, float]:
        """The key's meter, locked until the end of the transaction, in the month of the time told with it."""
        row = connection.execute(select(meters).where(meters.c.key_id == key_id).with_for_update()).one()
        now = self._database.now(connection)
        seconds = tuple(Second(*one) for one in json.loads(row.seconds))
        meter = Meter(seconds, row.month, row.spent_nano_usd, row.held_nano_usd)
        if meter.month != month_of(now):
            meter = _begin_month(connection, key_id, meter, month_of(now))
        return meter, now

    def _add_usage(self, connection: Connection, outcome: Outcome, cost: int) -> None:
        values = {
            "day": day_of(outcome.request.at),
            "key_id": outcome.request.key_id,
            "model": outcome.request.model,
            "requests": 1,
            "unfinished": int(not outcome.is_finished),
            "prompt_tokens": outcome.prompt_tokens,
            "completion_tokens": outcome.completion_tokens,
            "nano_usd": cost,
        }
        dialect: Any = sqlite if self._database.is_sqlite else postgresql
        insert_one = dialect.insert(usage_days).values(**values)
        names = ("requests", "unfinished", "prompt_tokens", "completion_tokens", "nano_usd")
        sums = {name: usage_days.c[name] + insert_one.excluded[name] for name in names}
        connection.execute(insert_one.on_conflict_do_update(index_elements=["day", "key_id", "model"], set_=sums))
        hour = outcome.request.at // 3600 * 3600
        connection.execute(dialect.insert(busy_hours).values(at=hour).on_conflict_do_nothing())


def _begin_month(connection: Connection, key_id: str, meter: Meter, month: str) -> Meter:
    """The meter in another month, from what usage and holds say: right also when a wrong clock is set back."""
    days = usage_days.c
    spent = connection.execute(
        select(func.coalesce(func.sum(days.nano_usd), 0)).where(days.key_id == key_id, days.day.like(f"{month}-%"))
    ).scalar_one()
    open_holds: Sequence[Any] = connection.execute(
        select(holds.c.at, holds.c.nano_usd).where(holds.c.key_id == key_id)
    ).all()
    held = sum(one.nano_usd for one in open_holds if month_of(one.at) == month)
    return Meter(meter.seconds, month, int(spent), held)


def _write_meter(connection: Connection, key_id: str, meter: Meter) -> None:
    seconds = json.dumps([[one.at, one.requests, one.tokens] for one in meter.seconds])
    connection.execute(
        update(meters)
        .where(meters.c.key_id == key_id)
        .values(
            seconds=seconds,
            month=meter.month,
            spent_nano_usd=meter.spent_nano_usd,
            held_nano_usd=meter.held_nano_usd,
        )
    )
