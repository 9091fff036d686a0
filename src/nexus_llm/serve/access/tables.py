"""The database's tables, and the version of their form.

Amounts of money are billionths of a dollar, times are seconds since 1970, days are UTC: integers and texts that SQLite
and PostgreSQL keep alike.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, MetaData, String, Table, Text

SCHEMA_VERSION = 1

METADATA = MetaData()

schema = Table("nexus_schema", METADATA, Column("version", Integer, primary_key=True, autoincrement=False))

api_keys = Table(
    "nexus_api_keys",
    METADATA,
    Column("id", String(12), primary_key=True),
    Column("name", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
    Column("is_admin", Boolean, nullable=False),
    Column("models", Text, nullable=False),  # a JSON list
    Column("endpoints", Text, nullable=False),  # a JSON list
    Column("requests_per_minute", BigInteger),
    Column("tokens_per_minute", BigInteger),
    Column("nano_usd_per_month", BigInteger),
)
# A name may be used again once its key was revoked: that is how a key is replaced.
Index(
    "nexus_living_key_names",
    api_keys.c.name,
    unique=True,
    sqlite_where=api_keys.c.revoked_at.is_(None),
    postgresql_where=api_keys.c.revoked_at.is_(None),
)

meters = Table(
    "nexus_meters",
    METADATA,
    Column("key_id", String(12), primary_key=True),
    Column("seconds", Text, nullable=False),  # a JSON list of [second, requests, tokens], at most 61
    Column("month", String(7), nullable=False),
    Column("spent_nano_usd", BigInteger, nullable=False),
    Column("held_nano_usd", BigInteger, nullable=False),
)
"""One row a key. Whoever admits or settles locks it first, so that replicas take turns."""

holds = Table(
    "nexus_holds",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("key_id", String(12), nullable=False, index=True),
    Column("model", Text, nullable=False),
    Column("at", BigInteger, nullable=False, index=True),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("nano_usd", BigInteger, nullable=False),
)
"""One row for each request under way of a key with limits."""

usage_days = Table(
    "nexus_usage_days",
    METADATA,
    Column("day", String(10), primary_key=True),
    Column("key_id", String(12), primary_key=True),
    Column("model", Text, primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("unfinished", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("nano_usd", BigInteger, nullable=False),
)
"""Sums of a day, so that the table stays small whatever the traffic."""

busy_hours = Table("nexus_busy_hours", METADATA, Column("at", BigInteger, primary_key=True, autoincrement=False))
"""Starts of the hours in which a request came: what the other hours cost is paid for nothing. A row each, and no count
in it, so that the requests of an hour need not wait for one another."""
