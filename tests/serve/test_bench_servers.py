"""The load test against servers that behave, and against servers that do not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from lying_api import HEAD, Streamed, event, lying_api, piece, status
from nexus_llm.serve.bench.plan import BenchPlan, Lengths, Slo
from nexus_llm.serve.bench.run import Measured, run_bench
from nexus_llm.serve.bench.summary import summary
from running_server import RunningServer


def measure(url: str, *, stop_after_seconds: float | None = None, **fields: Any) -> Measured:
    async def run() -> Measured:
        stop = asyncio.Event()
        if stop_after_seconds is not None:
            asyncio.get_running_loop().call_later(stop_after_seconds, stop.set)
        return await run_bench(BenchPlan(url=url, model="echo", **fields), stop=stop)

    return asyncio.run(run())


def bench(url: str, **fields: Any) -> dict[str, Any]:
    return summary(measure(url, **fields))


async def well(writer: asyncio.StreamWriter, body: dict[str, Any], number: int) -> None:
    writer.write(HEAD + piece("a") + piece("b", "stop") + event(choices=[], usage={"completion_tokens": 5}))
    writer.write(b"data: [DONE]\n\n")


def test_a_closed_loop_measures_a_server_that_behaves(echo_server: RunningServer) -> None:
    told = bench(
        echo_server.url,
        concurrency=4,
        requests=12,
        warmup=3,
        input_tokens=Lengths(300, 300),
        output_tokens=Lengths(8, 8),
        slo=Slo(ttft=60.0, e2e=1e-9),
    )
    assert (told["requests"]["good"], told["requests"]["sent"], told["errors"]) == (12, 12, {})
    assert told["tokens"]["counted_by"] == "usage"
    assert told["tokens"]["output"] == 12 * 8
    # Every word is several tokens here, so a prompt comes within half a word of its length.
    assert told["tokens"]["input_per_request"]["p50"] == pytest.approx(300, abs=30)
    assert told["sending"] is None
    assert told["goodput"]["met"] == {"ttft": 12, "e2e": 0}
    assert told["goodput"]["requests_per_second"] == 0
    assert sum(told["timeline"]["sent"]) == sum(told["timeline"]["good"]) == 12
    assert max(told["timeline"]["running"]) == 4


def test_an_open_loop_sends_every_arrival_of_its_seed(echo_server: RunningServer) -> None:
    plan = {"load": "poisson", "rate_per_second": 40.0, "requests": 20, "output_tokens": Lengths(2, 6), "seed": 7}
    measured = measure(echo_server.url, **plan)
    told, rows = summary(measured), list(measured.records.rows())
    assert told["requests"]["good"] == 20
    assert sorted(row["number"] for row in rows) == list(range(20))
    assert all(row["sent"] >= row["scheduled"] - 0.002 for row in rows)
    assert {row["asked_output_tokens"] for row in rows} > {2, 6}
    assert told["sending"]["lateness_seconds"]["max"] < 5


def test_latency_counts_from_the_scheduled_time_and_a_client_that_is_late_says_so() -> None:
    async def slow(writer: asyncio.StreamWriter, body: dict[str, Any], number: int) -> None:
        await asyncio.sleep(0.2)
        await well(writer, body, number)

    with lying_api(slow) as server:
        # All ten have to be sent within a tenth of a second, but only one may be under way: the last waits for nine.
        told = bench(server.url, load="poisson", rate_per_second=100.0, requests=10, max_in_flight=1)
    assert told["ttft_seconds"]["p99"] > 1.7
    assert told["sending"]["late"] >= 8
    assert told["is_valid"] is False
    assert "late" in told["not_valid_because"][0]
    assert told["sending"]["sent_requests_per_second"] < told["sending"]["scheduled_requests_per_second"] / 2


def test_tokens_are_counted_as_pieces_where_there_is_no_usage() -> None:
    async def silent(writer: asyncio.StreamWriter, body: dict[str, Any], number: int) -> None:
        writer.write(HEAD + b": keep-alive\r\n\r\n" + b"".join(piece("x") for _ in range(6)) + piece("", "stop"))

    with lying_api(silent, usage=False) as server:
        told = bench(server.url, requests=3, input_tokens=Lengths(50, 50))
        words = [len(body["messages"][0]["content"].split()) for body in server.asked]
    assert (told["tokens"]["counted_by"], told["tokens"]["output"]) == ("pieces", 18)
    assert words == [50, 50, 50]


def test_usage_goes_before_pieces_and_pieces_of_several_tokens_are_told() -> None:
    with lying_api(well) as server:
        told = bench(server.url, requests=4)
    assert (told["tokens"]["counted_by"], told["tokens"]["output"], told["tokens"]["per_piece"]) == ("usage", 20, 2.5)


def test_a_slow_first_byte_is_time_to_first_token_and_no_gap() -> None:
    async def late(writer: asyncio.StreamWriter, body: dict[str, Any], number: int) -> None:
        await asyncio.sleep(0.4)
        writer.write(HEAD + event(choices=[{"delta": {"role": "assistant", "content": ""}}]))
        await asyncio.sleep(0.4)
        await well(writer, body, number)

    with lying_api(late) as server:
        told = bench(server.url, requests=2, concurrency=2, slo=Slo(ttft=0.5, itl=0.5))
    assert told["ttft_seconds"]["p50"] >= 0.8
    assert told["inter_token_seconds"]["p99"] < 0.4
    assert told["goodput"]["met"] == {"ttft": 0, "itl": 2}


async def cut(writer: asyncio.StreamWriter, body: dict[str, Any], number: int) -> None:
    writer.write(HEAD + piece("a") + piece("b"))


async def cut_in_a_chunk(writer: asyncio.StreamWriter, body: dict[str, Any], number: int) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\nff\r\ndata")


async def error_event(writer: asyncio.StreamWriter, body: dict[str, Any], number: int) -> None:
    writer.write(HEAD + piece("a") + event(error={"message": "engine died"}) + b"data: [DONE]\n\n")


async def no_json(writer: asyncio.StreamWriter, body: dict[str, Any], number: int) -> None:
    writer.write(HEAD + b"data: {oops\n\n")


async def not_a_stream(writer: asyncio.StreamWriter, body: dict[str, Any], number: int) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n{}")


async def hang_up(writer: asyncio.StreamWriter, body: dict[str, Any], number: int) -> None:
    writer.transport.abort()


async def too_many(writer: asyncio.StreamWriter, body: dict[str, Any], number: int) -> None:
    writer.write(status(429, retry_after="0.1"))


async def unavailable(writer: asyncio.StreamWriter, body: dict[str, Any], number: int) -> None:
    writer.write(status(503))


async def silence(writer: asyncio.StreamWriter, body: dict[str, Any], number: int) -> None:
    writer.write(HEAD + piece("a"))
    await asyncio.sleep(3)


@pytest.mark.parametrize(
    ("behaviour", "kind"),
    [
        (cut, "broken_off"), (cut_in_a_chunk, "broken_off"), (error_event, "broken_off"), (no_json, "bad_stream"),
        (not_a_stream, "bad_stream"), (hang_up, "connection"), (too_many, "http_429"), (unavailable, "http_503"),
        (silence, "timeout"),
    ],
)  # fmt: skip
def test_every_way_to_fail_is_counted_by_its_kind_and_never_as_an_answer(behaviour: Streamed, kind: str) -> None:
    async def every_second(writer: asyncio.StreamWriter, body: dict[str, Any], number: int) -> None:
        await (behaviour if number % 2 else well)(writer, body, number)

    with lying_api(every_second) as server:
        told = bench(server.url, requests=4, concurrency=1, timeout_seconds=0.5)
    assert told["errors"] == {kind: 2}
    assert (told["requests"]["good"], told["requests"]["failed"], told["tokens"]["output"]) == (2, 2, 10)


def test_a_retry_waits_as_long_as_asked_and_its_time_counts() -> None:
    async def first_refused(writer: asyncio.StreamWriter, body: dict[str, Any], number: int) -> None:
        await (too_many if number == 0 else well)(writer, body, number)

    with lying_api(first_refused) as server:
        told = bench(server.url, requests=1, retry=True)
    assert (told["errors"], told["requests"]["retries"], told["requests"]["good"]) == ({}, 1, 1)
    assert told["ttft_seconds"]["p50"] >= 0.1


@pytest.mark.parametrize("ends", [{"max_seconds": 0.5}, {"stop_after_seconds": 0.8}])
def test_a_test_that_is_ended_tells_what_it_measured_and_what_was_unfinished(ends: dict[str, float]) -> None:
    async def some_hang(writer: asyncio.StreamWriter, body: dict[str, Any], number: int) -> None:
        await (silence if number >= 3 else well)(writer, body, number)

    with lying_api(some_hang) as server:
        told = bench(server.url, requests=50, concurrency=2, **ends)
    assert told["stopped_early"] == ("max_seconds" if "max_seconds" in ends else "interrupted")
    assert (told["requests"]["good"], told["requests"]["unfinished"], told["errors"]) == (3, 2, {})
    assert told["tokens"]["output_unfinished"] == 2
    assert told["seconds"] < 2.5
