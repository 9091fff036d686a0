"""Several gateways, each a process of its own, keep one key's limits together: on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from nexus_llm.chat import ChatTokenizer
from nexus_llm.cloud.local_postgres import LocalPostgres
from nexus_llm.serve.access.database import Database, open_database
from nexus_llm.serve.access.key_store import create_key
from nexus_llm.serve.access.keys import key_id_of
from nexus_llm.serve.access.ledger import Ledger, Outcome
from nexus_llm.serve.access.limits import NANO_PER_USD, Limits, Prices
from nexus_llm.serve.access.usage_report import usage_rows
from real_postgres import real_postgres
from serve.conftest import CHAT_TEMPLATE

REPLICAS = 3
CLIENTS = 12
REPLICA = Path(__file__).parent / "access_replica.py"
HAMMER = REPLICA.with_name("access_hammer.py")
TOKENS = 40
REFUSALS = {"200", "429 rate_limit_exceeded", "503 access_unavailable"}
"""On a machine that is busy with other things a transaction may take longer than a request waits for it."""


@dataclass(frozen=True)
class Fleet:
    """Gateways that share a database."""

    urls: list[str]
    database: Database

    def flood(self, key: str, requests: int, **body: object) -> Counter[str]:
        """How many of so many requests, from many clients at once, ended how: status and code."""

        def ask(number: int) -> str:
            answer = web.post(
                f"{self.urls[number % len(self.urls)]}/v1/completions",
                json={"model": "echo", "prompt": "abcd", "max_tokens": 4, **body},
                headers={"authorization": f"Bearer {key}"},
            )
            return "200" if answer.is_success else f"{answer.status_code} {answer.json()['error']['code']}"

        with httpx.Client(timeout=30) as web, ThreadPoolExecutor(CLIENTS) as clients:
            return Counter(clients.map(ask, range(requests)))


@pytest.fixture(scope="module")
def postgres() -> Iterator[LocalPostgres]:
    with real_postgres() as server:
        yield server


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def database_place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path_factory.mktemp('replicas') / 'keys.db'}"
    return request.getfixturevalue("postgres").url


@pytest.fixture(scope="module")
def fleet(database_place: str, tokenizer: ChatTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    given = tmp_path_factory.mktemp("model") / "tokenizer.json"
    given.write_text(json.dumps({"json": tokenizer.tokenizer_json, "template": CHAT_TEMPLATE}), encoding="utf-8")
    command = [sys.executable, str(REPLICA), database_place, str(given), "{}"]
    with contextlib.ExitStack() as stack:
        # All at once: they also race for making the tables.
        gateways = [
            stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            for _ in range(REPLICAS)
        ]
        urls = [gateway.stdout.readline().strip() for gateway in gateways if gateway.stdout]
        assert all(urls), urls
        database = open_database(database_place)
        yield Fleet(urls, database)
        for gateway in gateways:
            gateway.communicate(timeout=20)
        database.close()


def test_replicas_never_let_more_requests_through_than_one_minute_allows(fleet: Fleet) -> None:
    key, _ = create_key(fleet.database, "requests", limits=Limits(requests_per_minute=20))
    ended = fleet.flood(key, 90)
    assert ended["200"] == 20
    assert set(ended) <= REFUSALS


def test_replicas_never_let_more_tokens_through_than_one_minute_allows(fleet: Fleet) -> None:
    key, _ = create_key(fleet.database, "tokens", limits=Limits(tokens_per_minute=100))
    ended = fleet.flood(key, 60, ignore_eos=True)  # 8 tokens each, exactly what is reserved
    assert ended["200"] == 12
    assert set(ended) <= REFUSALS


def test_replicas_never_spend_more_than_the_budget_and_usage_adds_up(fleet: Fleet) -> None:
    # $0.008 a request; 10.5 of them fit.
    key, _ = create_key(fleet.database, "budget", limits=Limits(nano_usd_per_month=NANO_PER_USD * 84 // 1000))
    ended = fleet.flood(key, 60, ignore_eos=True)
    assert ended["200"] == 10
    assert set(ended) <= REFUSALS | {"429 insufficient_quota"}
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        rows = usage_rows(fleet.database, by="key", key="budget")
        if rows and rows[0].requests == 10:
            break
        time.sleep(0.05)
    assert (rows[0].prompt_tokens, rows[0].completion_tokens, rows[0].unfinished) == (40, 40, 0)
    assert rows[0].usd == pytest.approx(0.08)
    by_model = usage_rows(fleet.database, by="model", key="budget", since_day="2020-01-01")
    assert [(row.group, row.requests) for row in by_model] == [("echo", 10)]
    assert usage_rows(fleet.database, by="day", key="budget", model="other") == []


def test_processes_that_do_nothing_but_admit_stop_exactly_at_the_limit(database_place: str, fleet: Fleet) -> None:
    _, record = create_key(fleet.database, "hammer", limits=Limits(tokens_per_minute=TOKENS * 60 + TOKENS - 1))
    command = [sys.executable, str(HAMMER), database_place, record.id, "10", str(TOKENS - 10), "25", "40"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(REPLICAS)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    told = [process.communicate(timeout=60)[0].split() for process in processes]
    passed, unknown = [int(one[0]) for one in told], sum(int(one[1]) for one in told)
    assert 60 - unknown <= sum(passed) <= 60


def test_what_a_killed_gateway_held_comes_back_and_nothing_counts_twice(fleet: Fleet) -> None:
    _, record = create_key(fleet.database, "killed", limits=Limits(tokens_per_minute=100))
    ledger = Ledger(fleet.database, Prices())
    admitted, _ = ledger.admit(record, model="m", prompt_tokens=10, completion_tokens=90)
    assert ledger.recover() == 0  # too young to be lost
    assert ledger.recover(older_than_seconds=-5) == 1
    ledger.record([Outcome(admitted, 10, 90, is_finished=True)] * 2)  # it was alive after all, and says so twice
    _, standing = ledger.admit(record, model="m", prompt_tokens=10, completion_tokens=10)
    assert standing.tokens is not None
    assert standing.tokens.remaining == 70
    assert [row.requests for row in usage_rows(fleet.database, by="key", key="killed")] == [1]


def test_a_postgresql_that_goes_away_costs_503s_and_comes_back(postgres: LocalPostgres, fleet: Fleet) -> None:
    if fleet.database.is_sqlite:
        pytest.skip("SQLite does not go away")
    key, _ = create_key(fleet.database, "away", limits=Limits(requests_per_minute=1000))
    assert fleet.flood(key, 6) == {"200": 6}
    postgres.stop()
    begun = time.monotonic()
    assert fleet.flood(key, 6) == {"503 access_unavailable": 6}
    assert time.monotonic() - begun < 6
    postgres.start()
    assert fleet.flood(key, 6) == {"200": 6}
    assert key_id_of(key)


def test_each_connection_logs_in_with_a_password_of_its_own(postgres: LocalPostgres) -> None:
    given: list[str] = []

    def password() -> str:
        given.append(f"token-{len(given)}")
        return given[-1]

    database = open_database(postgres.url, password=password)
    with database.reading() as one, database.reading() as other:
        assert database.now(one) <= database.now(other)
    database.close()
    assert given == ["token-0", "token-1"]
