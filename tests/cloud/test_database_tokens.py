"""Tokens for RDS: signed offline, for one user of one database."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest

from nexus_llm.cloud.database_tokens import TOKEN_SECONDS, database_token
from nexus_llm.errors import UsageError

URL = "postgresql+psycopg://nexus_gateway@keys.cluster-0.eu-central-1.rds.amazonaws.com:5432/nexus?sslmode=require"


def test_a_token_names_user_host_and_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
    token = database_token(URL, region="eu-central-1")
    parts = urlsplit(f"https://{token}")
    told = parse_qs(parts.query)
    assert (parts.hostname, parts.port) == ("keys.cluster-0.eu-central-1.rds.amazonaws.com", 5432)
    assert told["DBUser"] == ["nexus_gateway"]
    assert told["X-Amz-Expires"] == [str(TOKEN_SECONDS)]
    assert told["X-Amz-Credential"][0].endswith("/eu-central-1/rds-db/aws4_request")
    assert "a-secret" not in token


@pytest.mark.parametrize("url", ["postgresql+psycopg://host/nexus", "sqlite:///keys.db"])
def test_a_url_without_user_is_refused(url: str) -> None:
    with pytest.raises(UsageError):
        database_token(url, region="eu-central-1")
