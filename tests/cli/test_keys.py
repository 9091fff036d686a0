"""`nexus keys` and `nexus usage`, on a real SQLite file."""

from __future__ import annotations

import json
import sqlite3
import stat
from pathlib import Path
from typing import Any

import pytest

from nexus_llm.cli import run_command
from nexus_llm.recipe import KeysRecipe
from nexus_llm.serve.access.database import open_database
from nexus_llm.serve.access.ledger import Admitted, Ledger, Outcome
from nexus_llm.serve.access.limits import Prices


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "made" / "keys.db"
    monkeypatch.setenv("NEXUS_DATABASE", str(path))
    return path


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert run_command([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_key_is_shown_once_listed_without_it_and_revoked(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["keys", "create", "support bot", "--requests-per-minute", "60", "--usd-per-month", "12.5"]) == 0
    key = capsys.readouterr().out.strip()
    assert key.startswith("sk-nexus-")
    assert len(key.rsplit("-", 1)[1]) * 5.95 > 160  # bits
    assert run_command(["keys", "list"]) == 0
    listed = capsys.readouterr().out
    assert "support bot" in listed
    assert "60 requests/min · $12.5/month" in listed
    assert key not in listed
    assert run_command(["keys", "revoke", "support bot"]) == 0
    capsys.readouterr()
    assert as_json(capsys, "keys", "list")["keys"][0]["status"] == "revoked"
    assert run_command(["keys", "revoke", "support bot"]) == 2


def test_json_tells_the_key_and_all_its_rules(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    made = as_json(
        capsys, "keys", "create", "a", "--models", "x, y*", "--endpoints", "/v1/chat/completions",
        "--tokens-per-minute", "9", "--expires", "30d", "--admin",
    )  # fmt: skip
    assert made["models"] == ["x", "y*"]
    assert made["endpoints"] == ["/v1/chat/completions"]
    assert (made["tokens_per_minute"], made["admin"], made["status"]) == (9, True, "active")
    assert made["expires"] > made["created"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["keys", "create", "a\nb"], "NAME"),
        (["keys", "create", "a", "--requests-per-minute", "0"], "--requests-per-minute is 0"),
        (["keys", "create", "a", "--endpoints", "chat"], "--endpoints is 'chat'"),
        (["keys", "create", "a", "--expires", "2020-01-01"], "--expires 2020-01-01 lies in the past"),
        (["usage", "--since", "yesterday"], "--since yesterday"),
        (["keys", "list", "--database", "mysql://u:hunter2@h/d"], "mysql"),
    ],
)
def test_a_wrong_option_is_named_with_its_value(
    database: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], named: str
) -> None:
    assert run_command(arguments) == 2
    told = capsys.readouterr().err
    assert named in told
    assert "hunter2" not in told


def test_a_name_is_taken_until_its_key_is_revoked(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [run_command(["keys", *words]) for words in (["create", "a"], ["create", "a"], ["revoke", "a"])] == [0, 2, 0]
    assert run_command(["keys", "create", "a"]) == 0


def test_without_a_database_the_fix_names_the_option(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("NEXUS_DATABASE", raising=False)
    assert run_command(["keys", "list"]) == 2
    assert "--database" in capsys.readouterr().err


def test_usage_is_summed_by_key_day_and_model(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = as_json(capsys, "keys", "create", "app")
    opened = open_database(str(database))
    ledger, day = Ledger(opened, Prices(1.0, 2.0)), 86_400 * 20_000
    for at, model in ((day, "big"), (day + 86_400, "big"), (day + 86_400, "small")):
        ledger.record([Outcome(Admitted(made["id"], model, at), 1_000, 500, is_finished=model == "big")])
    opened.close()
    (row,) = as_json(capsys, "usage")["usage"]
    assert row == {
        "key": "app", "key_id": made["id"], "requests": 3, "unfinished": 1,
        "prompt_tokens": 3_000, "completion_tokens": 1_500, "usd": 0.006,
    }  # fmt: skip
    by_day = as_json(capsys, "usage", "--by", "day", "--key", "app")["usage"]
    assert [(one["day"], one["requests"]) for one in by_day] == [("2024-10-04", 1), ("2024-10-05", 2)]
    by_model = as_json(capsys, "usage", "--by", "model", "--since", "2024-10-05")["usage"]
    assert [(one["model"], one["requests"]) for one in by_model] == [("big", 1), ("small", 1)]
    assert run_command(["usage", "--model", "small"]) == 0
    assert "0.002000" in capsys.readouterr().out


def test_the_file_is_only_for_its_owner(database: Path) -> None:
    assert run_command(["keys", "create", "a"]) == 0
    assert stat.S_IMODE(database.stat().st_mode) == 0o600


def test_tables_of_another_version_are_refused(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["keys", "create", "a"]) == 0
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE nexus_schema SET version = 2")
    assert run_command(["keys", "list"]) == 1
    assert "version 2" in capsys.readouterr().err


def test_a_file_that_is_no_database_is_told_in_two_lines(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    database.parent.mkdir()
    database.write_bytes(b"hello " * 1_000)
    assert run_command(["keys", "list"]) == 1
    assert "cannot be used" in capsys.readouterr().err


def test_a_recipe_takes_no_password() -> None:
    assert KeysRecipe(database="postgresql://user@host/name").database
    with pytest.raises(ValueError, match="carries a password"):
        KeysRecipe(database="postgresql://user:secret@host/name")


def test_a_database_that_trusts_iam_needs_a_region(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NEXUS_DATABASE_AUTH", "aws-iam")
    assert run_command(["keys", "list", "--database", "postgresql://u@h/n"]) == 2
    assert "AWS_REGION" in capsys.readouterr().err
    monkeypatch.setenv("NEXUS_DATABASE_AUTH", "kerberos")
    assert run_command(["keys", "list", "--database", "postgresql://u@h/n"]) == 2
    assert "kerberos" in capsys.readouterr().err
