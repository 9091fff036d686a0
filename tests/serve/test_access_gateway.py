"""Keys, limits and budgets as clients meet them, with the official client and a real database."""

from __future__ import annotations

import asyncio
import json
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
from sqlalchemy import event

from command_line import nexus_here
from nexus_llm.recipe import KeysRecipe, PrioritiesRecipe, ServeRecipe
from nexus_llm.serve.access.access import KEY_MEMORY_SECONDS, Access
from nexus_llm.serve.access.caller import Caller
from nexus_llm.serve.access.database import Database, open_database
from nexus_llm.serve.access.key_store import create_key, list_keys, revoke_key
from nexus_llm.serve.access.limits import Limits
from nexus_llm.serve.access.usage_report import UsageRow, usage_rows
from nexus_llm.serve.api_errors import ApiError
from nexus_llm.serve.engines.supervisor import SupervisorLimits
from running_server import RunningServer, StartServer

QUESTION = [{"role": "user", "content": "Hi"}]


class Gateway:
    """A server with keys, and its database."""

    def __init__(self, server: RunningServer, database: Database) -> None:
        self.server = server
        self.url = server.url
        self.database = database

    def new_key(self, name: str = "app", **options: Any) -> str:
        return create_key(self.database, name, **options)[0]

    def client(self, key: str) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=30)

    def ask(self, key: str, **options: Any) -> Any:
        return self.client(key).chat.completions.create(model="echo", messages=QUESTION, **options)

    def ask_raw(self, key: str, **options: Any) -> httpx.Headers:
        raw = self.client(key).chat.completions.with_raw_response.create(model="echo", messages=QUESTION, **options)
        return raw.headers

    def await_metric(self, name: str, value: int) -> None:
        deadline = time.monotonic() + 20
        while f'vllm:{name}{{model_name="echo"}} {value}.0' not in httpx.get(f"{self.url}/metrics").text:
            assert time.monotonic() < deadline, name
            time.sleep(0.01)

    def usage(self, requests: int) -> UsageRow:
        """The only key's usage, once so many requests are recorded."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            rows = usage_rows(self.database, by="key")
            if rows and rows[0].requests == requests:
                return rows[0]
            time.sleep(0.02)
        raise AssertionError(f"not recorded: {rows}")


StartGateway = Callable[..., Gateway]


@pytest.fixture
def open_gateway(start: StartServer, tmp_path: Path) -> Iterator[StartGateway]:
    """Starts a server with keys in an SQLite file."""
    path = tmp_path / "keys.db"
    database = open_database(str(path))

    def open_one(
        *, require_keys: bool = True, prompt_usd: float = 0.0, completion_usd: float = 0.0, serve: Any = None, **o: Any
    ) -> Gateway:
        keys = KeysRecipe(
            database=f"sqlite:///{path}",
            require_keys=require_keys,
            usd_per_million_prompt_tokens=prompt_usd,
            usd_per_million_completion_tokens=completion_usd,
        )
        return Gateway(start(recipe=ServeRecipe(keys=keys, **(serve or {})), end_token_id=2, **o), database)

    yield open_one
    database.close()


@pytest.mark.parametrize("key", ["none", "sk-nexus-0123456789ab-" + "x" * 43, "ключ", "sk-nexus-" + "9" * 5000])
def test_what_is_no_key_gets_a_401_in_openais_shape(open_gateway: StartGateway, key: str) -> None:
    gateway = open_gateway()
    answer = httpx.get(f"{gateway.url}/v1/models", headers={"authorization": f"Bearer {key}".encode()})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
    assert key not in answer.text


def test_without_a_key_no_body_is_read_and_operations_stay_open(open_gateway: StartGateway) -> None:
    gateway = open_gateway()

    host, port = gateway.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=3) as connection:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 9000\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 401 ")
    for path in ("/", "/health", "/ready", "/metrics", "/openapi.json"):
        assert httpx.get(gateway.url + path).status_code == 200, path
    for path in ("/v1/models", "/nothing", "/admin/keys", "//", "/docs"):
        assert httpx.get(gateway.url + path).status_code == 401, path


def test_chat_sends_the_key_of_the_environment_and_names_it_when_it_is_missing(
    open_gateway: StartGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = open_gateway()
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    refused = nexus_here("chat", gateway.url, "--prompt", "Hi", cwd=tmp_path)
    assert refused.returncode == 1
    assert "OPENAI_API_KEY" in refused.stderr
    monkeypatch.setenv("OPENAI_API_KEY", gateway.new_key())
    assert nexus_here("chat", gateway.url, "--prompt", "Hi", cwd=tmp_path).stdout == "user\nHi\n"


def test_a_key_works_for_openais_and_anthropics_header_and_is_nowhere_in_the_database(
    open_gateway: StartGateway, tmp_path: Path, all_logs: pytest.LogCaptureFixture
) -> None:
    gateway = open_gateway()
    key = gateway.new_key()
    assert gateway.ask(key).choices[0].message.content == "user\nHi"
    assert httpx.get(f"{gateway.url}/v1/models", headers={"x-api-key": key}).status_code == 200
    gateway.usage(1)
    secret = key.rsplit("-", 1)[1]
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("keys.db*"))
    assert secret.encode() not in stored
    assert secret not in all_logs.text
    assert secret not in httpx.get(f"{gateway.url}/metrics").text


def test_a_revoked_key_dies_within_the_time_that_is_told(open_gateway: StartGateway) -> None:
    gateway = open_gateway()
    key = gateway.new_key()
    gateway.ask(key)
    revoke_key(gateway.database, "app")
    revoked = time.monotonic()
    answer = httpx.get(f"{gateway.url}/v1/models", headers={"x-api-key": key})
    while answer.is_success and time.monotonic() - revoked < KEY_MEMORY_SECONDS + 1:
        time.sleep(0.1)
        answer = httpx.get(f"{gateway.url}/v1/models", headers={"x-api-key": key})
    assert answer.status_code == 401
    assert "revoked" in answer.json()["error"]["message"]
    assert gateway.new_key() != key  # the name is free again


def test_keys_are_remembered_so_that_not_each_request_asks_the_database(
    open_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nexus_llm.serve.access import access

    asked = []
    find = access.find_key
    monkeypatch.setattr(access, "find_key", lambda *given: asked.append(given) or find(*given))
    gateway = open_gateway()
    key = gateway.new_key()
    for _ in range(5):
        gateway.client(key).models.list()
    assert len(asked) == 1


def test_an_expired_key_is_refused(open_gateway: StartGateway) -> None:
    gateway = open_gateway()
    key = gateway.new_key(expires_at=int(time.time()) + 1)
    gateway.ask(key)
    time.sleep(1.1)
    with pytest.raises(openai.AuthenticationError, match="expired"):
        gateway.ask(key)


def test_a_key_reaches_only_its_models_and_endpoints(open_gateway: StartGateway) -> None:
    gateway = open_gateway()
    key = gateway.new_key("chat-only", endpoints=("/v1/chat/completions",), models=("ec*",))
    gateway.ask(key)
    gateway.client(key).models.list()
    with pytest.raises(openai.PermissionDeniedError) as caught:
        gateway.client(key).completions.create(model="echo", prompt="x")
    assert caught.value.code == "endpoint_not_allowed"
    other = gateway.new_key("other", models=("other",))
    with pytest.raises(openai.PermissionDeniedError) as caught:
        gateway.ask(other)
    assert (caught.value.code, caught.value.param) == ("model_not_allowed", "model")


def test_requests_a_minute_are_counted_and_told(open_gateway: StartGateway) -> None:
    gateway = open_gateway()
    key = gateway.new_key(limits=Limits(requests_per_minute=2))
    headers = gateway.ask_raw(key, max_tokens=1)
    assert headers["x-ratelimit-limit-requests"] == "2"
    assert headers["x-ratelimit-remaining-requests"] == "1"
    assert headers["x-ratelimit-reset-requests"] in ("1m0s", "1m1s")
    assert "x-ratelimit-limit-tokens" not in headers
    stream = gateway.client(key).chat.completions.with_raw_response.create(model="echo", messages=QUESTION, stream=True)
    assert stream.headers["x-ratelimit-remaining-requests"] == "0"
    list(stream.parse())
    for _ in range(3):  # the second time the database is not asked
        with pytest.raises(openai.RateLimitError) as caught:
            gateway.ask(key)
        assert (caught.value.code, caught.value.type) == ("rate_limit_exceeded", "requests")
        told = caught.value.response.headers
        assert 50 <= int(told["retry-after"]) <= 60  # a longer one is ignored by official clients
        assert told["x-ratelimit-remaining-requests"] == "0"
    gateway.client(key).models.list()  # costs nothing


def test_counting_tokens_is_a_request_that_costs_none(open_gateway: StartGateway) -> None:
    gateway = open_gateway()
    headers = {"authorization": f"Bearer {gateway.new_key(limits=Limits(requests_per_minute=2))}"}
    body = {"model": "echo", "messages": QUESTION}
    paths = ["/tokenize", "/v1/messages/count_tokens", "/tokenize"]
    found = [httpx.post(f"{gateway.url}{path}", json=body, headers=headers) for path in paths]
    assert [one.status_code for one in found] == [200, 200, 429]
    used = gateway.usage(requests=2)
    assert (used.prompt_tokens, used.completion_tokens) == (0, 0)


def test_tokens_are_reserved_at_admission_and_corrected_at_the_end(open_gateway: StartGateway) -> None:
    gateway = open_gateway()
    key = gateway.new_key(limits=Limits(tokens_per_minute=500))
    headers = gateway.ask_raw(key, max_tokens=400)
    reserved = 500 - int(headers["x-ratelimit-remaining-tokens"])
    assert 400 < reserved < 450
    row = gateway.usage(1)
    used = row.prompt_tokens + row.completion_tokens
    assert used < 60
    with pytest.raises(openai.RateLimitError) as caught:
        gateway.ask(key, max_tokens=490)
    assert (caught.value.code, caught.value.type) == ("rate_limit_exceeded", "tokens")
    assert caught.value.response.headers["x-ratelimit-remaining-tokens"] == str(500 - used)
    with pytest.raises(openai.RateLimitError, match="make it shorter") as caught:
        gateway.ask(key, max_tokens=600)
    assert caught.value.response.headers["x-should-retry"] == "false"


def test_a_spent_budget_is_an_insufficient_quota(open_gateway: StartGateway) -> None:
    gateway = open_gateway(prompt_usd=1_000.0, completion_usd=2_000.0)
    key = gateway.new_key(limits=Limits(nano_usd_per_month=100_000_000))  # 10 cents
    answer = gateway.ask(key, max_tokens=5)
    row = gateway.usage(1)
    assert row.usd == pytest.approx(answer.usage.prompt_tokens * 1e-3 + 5 * 2e-3)
    with pytest.raises(openai.RateLimitError) as caught:
        gateway.ask(key, max_tokens=60)
    assert (caught.value.code, caught.value.type) == ("insufficient_quota", "insufficient_quota")


def test_what_a_client_that_left_had_got_is_paid_for(open_gateway: StartGateway) -> None:
    gateway = open_gateway(step_seconds=0.01)
    key = gateway.new_key(limits=Limits(tokens_per_minute=100_000))
    stream = gateway.ask(key, stream=True, max_tokens=1_000, extra_body={"ignore_eos": True})
    for _, _ in zip(range(10), stream, strict=False):
        pass
    stream.close()
    row = gateway.usage(1)
    assert row.unfinished == 1
    assert 5 <= row.completion_tokens < 200
    headers = gateway.ask_raw(key, max_tokens=1)
    assert int(headers["x-ratelimit-remaining-tokens"]) > 99_000 - 300


def test_what_a_client_that_never_read_had_got_is_paid_for_when_the_server_stops(open_gateway: StartGateway) -> None:
    gateway = open_gateway(step_seconds=0.001, drain_seconds=0)
    key = gateway.new_key(limits=Limits(tokens_per_minute=1_000_000))
    asked = {"model": "echo", "prompt": "x", "stream": True, "n": 16, "max_tokens": 1_000, "ignore_eos": True}
    body = json.dumps(asked).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", httpx.URL(gateway.url).port or 0)) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        slow.sendall(head.encode() + body)
        gateway.await_metric("num_requests_running", 16)
        time.sleep(1)  # its buffers are full
        gateway.server.request_stop()
        gateway.server.wait()
        row = gateway.usage(1)
    assert row.unfinished == 1
    assert row.completion_tokens > 16


def test_who_waited_for_an_engine_that_was_given_up_pays_nothing(open_gateway: StartGateway) -> None:
    limits = SupervisorLimits(max_deaths=0)
    gateway = open_gateway(step_seconds=0.01, serve={"max_running": 1}, limits=limits)
    key, waits = gateway.new_key(), gateway.new_key("waits")
    pieces = iter(gateway.ask(key, stream=True, max_tokens=1_000, extra_body={"ignore_eos": True}))
    next(pieces)
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(gateway.ask, waits)
        gateway.await_metric("num_requests_waiting", 1)
        psutil.Process(gateway.server.engine_pid).kill()
        with pytest.raises(openai.APIError):
            list(pieces)
        with pytest.raises(openai.InternalServerError) as caught:
            asked.result()
    assert caught.value.status_code == 503
    gateway.server.wait()
    rows = {row.group: row for row in usage_rows(gateway.database, by="key")}
    assert (rows["waits"].requests, rows["waits"].prompt_tokens, rows["waits"].unfinished) == (1, 0, 1)
    assert rows["app"].prompt_tokens > 0


def test_what_an_engine_made_before_it_died_is_paid_for(open_gateway: StartGateway) -> None:
    gateway = open_gateway(step_seconds=0.01)
    key = gateway.new_key()
    stream = gateway.ask(key, stream=True, max_tokens=1_000, extra_body={"ignore_eos": True})
    pieces = iter(stream)
    for _ in range(8):
        next(pieces)
    psutil.Process(gateway.server.engine_pid).kill()
    with pytest.raises(openai.APIError):
        list(pieces)
    row = gateway.usage(1)
    assert row.unfinished == 1
    assert row.completion_tokens >= 5


def test_a_locked_database_costs_a_bounded_wait_and_a_503(open_gateway: StartGateway, tmp_path: Path) -> None:
    gateway = open_gateway()
    key = gateway.new_key(limits=Limits(requests_per_minute=100))
    gateway.ask(key)
    gateway.usage(1)
    with sqlite3.connect(tmp_path / "keys.db", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        with ThreadPoolExecutor(1) as threads, httpx.Client() as web:
            begun = time.monotonic()
            asked = threads.submit(gateway.ask, key)
            while not asked.done():  # the event loop does not wait with it
                assert web.get(f"{gateway.url}/health").status_code == 200
                answered_meanwhile = time.monotonic() - begun
            assert 1 < answered_meanwhile < 8
            with pytest.raises(openai.InternalServerError) as caught:
                asked.result()
        assert (caught.value.status_code, caught.value.code) == (503, "access_unavailable")
        assert int(caught.value.response.headers["retry-after"]) >= 1
        other.execute("ROLLBACK")
    headers = gateway.ask_raw(key)
    assert headers["x-ratelimit-remaining-requests"] == "98"  # the refused one holds nothing


def test_usage_waits_for_a_database_that_is_locked(open_gateway: StartGateway, tmp_path: Path) -> None:
    gateway = open_gateway()
    key = gateway.new_key()  # without limits: admission does not ask the database
    gateway.ask(key)
    gateway.usage(1)
    with sqlite3.connect(tmp_path / "keys.db", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        gateway.ask(key)
        other.execute("ROLLBACK")
    gateway.usage(2)


def test_keys_may_be_optional(open_gateway: StartGateway) -> None:
    gateway = open_gateway(require_keys=False)
    answer = httpx.post(f"{gateway.url}/v1/chat/completions", json={"model": "echo", "messages": QUESTION})
    assert answer.status_code == 200
    assert gateway.usage(1).group == "anonymous"
    assert httpx.get(f"{gateway.url}/admin/keys").status_code == 403
    with pytest.raises(openai.AuthenticationError):
        gateway.ask("sk-wrong")


def test_an_admin_key_makes_lists_and_revokes_keys_and_reads_usage(open_gateway: StartGateway) -> None:
    gateway = open_gateway()
    admin = httpx.Client(
        base_url=gateway.url, headers={"authorization": f"Bearer {gateway.new_key('ops', is_admin=True)}"}
    )
    made = admin.post("/admin/keys", json={"name": "app", "requests_per_minute": 5, "expires": "30d"})
    assert made.status_code == 201
    key = made.json()["key"]
    gateway.ask(key)
    gateway.usage(1)
    assert admin.get("/admin/usage", params={"by": "key"}).json()["usage"][0]["key"] == "app"
    assert httpx.get(f"{gateway.url}/admin/keys", headers={"authorization": f"Bearer {key}"}).status_code == 403
    listed = admin.get("/admin/keys")
    assert {one["name"] for one in listed.json()["keys"]} == {"app", "ops"}
    assert key not in listed.text
    assert "hash" not in listed.text
    assert admin.post("/admin/keys", json={"name": "app"}).status_code == 409
    assert admin.delete("/admin/keys/app").json()["status"] == "revoked"
    with pytest.raises(openai.AuthenticationError):  # at the gateway that did it, at once
        gateway.ask(key)
    assert admin.delete("/admin/keys/app").status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "body", "param"),
    [
        ("POST", "/admin/keys", {"name": "a\u0000b"}, "name"),
        ("POST", "/admin/keys", {"name": "a", "expires": "tomorrow"}, "expires"),
        ("POST", "/admin/keys", {"name": "a", "usd_per_month": 0}, "usd_per_month"),
        ("POST", "/admin/keys", {"name": "a", "models": ["\ud800"]}, "models[0]"),
        ("GET", "/admin/usage?by=hour", None, "by"),
        ("GET", "/admin/usage?since=1.1.2026", None, "since"),
        ("GET", "/admin/usage?key=%00", None, "key"),
        ("DELETE", "/admin/keys/%00", None, "name_or_id"),
    ],
)
def test_a_wrong_admin_request_names_what_is_wrong(
    open_gateway: StartGateway, method: str, path: str, body: Any, param: str
) -> None:
    gateway = open_gateway()
    headers = {"authorization": f"Bearer {gateway.new_key('ops', is_admin=True)}"}
    content = None if body is None else json.dumps(body)
    headers["content-type"] = "application/json"
    answer = httpx.request(method, gateway.url + path, content=content, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert len(list_keys(gateway.database)) == 1


def test_without_a_database_there_is_no_admin_and_no_key_is_needed(start: StartServer) -> None:
    server = start(end_token_id=2)
    assert httpx.get(f"{server.url}/admin/keys").status_code == 404
    assert server.client().chat.completions.create(model="echo", messages=QUESTION).choices


def test_a_key_with_many_requests_does_not_make_another_wait_for_all_of_them(open_gateway: StartGateway) -> None:
    gateway = open_gateway(step_seconds=0.02, serve={"max_running": 1})
    flood, quiet = gateway.new_key("flood"), gateway.new_key("quiet")
    order: list[str] = []

    def ask(name: str, key: str) -> None:
        gateway.ask(key)
        order.append(name)

    with ThreadPoolExecutor(10) as threads:
        floods = [threads.submit(ask, "flood", flood) for _ in range(8)]
        gateway.await_metric("num_requests_waiting", 7)
        ask("quiet", quiet)
        for one in floods:
            one.result()
    assert order.index("quiet") <= 4


def test_a_key_that_fills_the_queue_does_not_keep_another_out(open_gateway: StartGateway) -> None:
    gateway = open_gateway(step_seconds=0.02, serve={"max_running": 1, "max_waiting": 4})
    flood, quiet = gateway.new_key("flood"), gateway.new_key("quiet")
    with ThreadPoolExecutor(5) as threads:
        floods = [threads.submit(gateway.ask, flood) for _ in range(5)]
        gateway.await_metric("num_requests_waiting", 4)
        assert gateway.ask(quiet).choices
        outcomes = [one.exception() for one in floods]
    (pushed_out,) = [one for one in outcomes if one is not None]
    assert isinstance(pushed_out, openai.RateLimitError)
    assert pushed_out.code == "queue_full"
    assert int(pushed_out.response.headers["retry-after"]) >= 1


def test_what_a_key_may_call_urgent_is_in_the_recipe(open_gateway: StartGateway) -> None:
    priorities = PrioritiesRecipe(keys={"oncall": -5, "batch": 7})
    gateway = open_gateway(serve={"priorities": priorities})
    gateway.ask(gateway.new_key("oncall"), extra_body={"priority": -5})
    batch = gateway.new_key("batch")
    gateway.ask(batch)  # goes behind the others by itself
    for key, priority in ((batch, 6), (gateway.new_key("other"), -1)):
        with pytest.raises(openai.PermissionDeniedError) as caught:
            gateway.ask(key, extra_body={"priority": priority})
        assert caught.value.code == "priority_not_allowed"


def test_a_stream_goes_on_while_the_database_is_locked_and_is_recorded_afterwards(
    open_gateway: StartGateway, tmp_path: Path
) -> None:
    gateway = open_gateway(step_seconds=0.02)
    key = gateway.new_key(limits=Limits(requests_per_minute=100))
    stream = gateway.ask(key, stream=True)
    next(iter(stream))
    with sqlite3.connect(tmp_path / "keys.db", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert list(stream)[-1].choices[0].finish_reason == "stop"
        other.execute("ROLLBACK")
    assert gateway.usage(1).unfinished == 0


def test_a_full_disk_costs_503s_and_nothing_that_was_counted(tmp_path: Path) -> None:
    """SQLite itself says that the disk is full: its file may not grow by a single page."""
    database = open_database(str(tmp_path / "keys.db"))
    _, record = create_key(database, "app", limits=Limits(requests_per_minute=100_000))
    is_full = True

    @event.listens_for(database._engine, "checkout")
    def limit(connection: Any, _record: Any, _proxy: Any) -> None:
        connection.execute(f"PRAGMA max_page_count={1 if is_full else 1 << 30}")  # 1: no more than there are

    access = Access(database, KeysRecipe(database="unused"))
    caller = Caller(access, record)

    async def admit() -> ApiError | None:
        try:
            charge = await caller.reserve(model="echo", prompt_tokens=1, completion_tokens=1)
        except ApiError as error:
            return error
        charge.settle(prompt_tokens=1, completion_tokens=1, is_finished=True)
        return None

    async def fill() -> int:
        for admitted in range(2_000):
            # Not settled: each holds a row, until a page would have to be added.
            try:
                await caller.reserve(model="echo" * 100, prompt_tokens=1, completion_tokens=1)
            except ApiError as error:
                assert (error.status, error.code) == (503, "access_unavailable")  # noqa: PT017
                return admitted
        raise AssertionError("the disk was never full")

    assert asyncio.run(fill()) > 0
    is_full = False
    assert asyncio.run(admit()) is None, "back by itself once there is room"
    access.close()
    (row,) = usage_rows(open_database(str(tmp_path / "keys.db")), by="key")
    assert row.requests == 1


@pytest.mark.parametrize(
    "path",
    ["/admin", "/admin/", "/admin/keys", "/admin/keys/x", "/admin/usage", "//admin/keys", "/admin//keys",
     "/./admin/keys", "/v1/../admin/keys", "/%61dmin/keys", "/admin%2fkeys", "/ADMIN/keys", "/admin/keys?x=/health",
     "/health/../admin/keys", "/admin;x/keys", "/admin\\keys"],
)  # fmt: skip
def test_a_scan_of_admin_routes_finds_nothing_without_an_admin_key(open_gateway: StartGateway, path: str) -> None:
    gateway = open_gateway()
    plain = gateway.new_key("plain")
    host, port = gateway.url.removeprefix("http://").split(":")
    for method in ("GET", "POST", "DELETE", "PUT", "OPTIONS", "HEAD"):
        for header, statuses in (("x-nothing: 1", {401}), (f"authorization: Bearer {plain}", {403, 404, 405})):
            with socket.create_connection((host, int(port)), timeout=20) as connection:
                lines = f"{method} {path} HTTP/1.1\r\nhost: x\r\n{header}\r\nconnection: close\r\n\r\n"
                connection.sendall(lines.encode())
                answer = connection.makefile("rb").read()
            assert int(answer.split()[1]) in statuses, (method, header)
            assert b"plain" not in answer
