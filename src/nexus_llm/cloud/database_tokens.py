"""Passwords that last 15 minutes: how a gateway logs in to Amazon RDS with its role instead of a secret.

Source: "IAM database authentication", Amazon RDS and Aurora user guides, read 2026-11.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from nexus_llm.errors import MissingExtraError, UsageError

TOKEN_SECONDS = 900
"""How long a token opens new connections. Open ones stay open."""


def database_token(url: str, *, region: str) -> str:
    """The password for a new connection to the PostgreSQL of `url`, signed with the credentials found here. No call."""
    parts = urlsplit(url)
    if not parts.hostname or not parts.username:
        raise UsageError(f"{parts.scheme}://… names no user or no host", fix="postgresql+psycopg://USER@HOST:5432/NAME")
    try:
        import boto3
    except ImportError as error:
        raise MissingExtraError.for_extra("aws", "boto3") from error
    client = boto3.client("rds", region_name=region)
    token: str = client.generate_db_auth_token(parts.hostname, parts.port or 5432, parts.username)
    return token
