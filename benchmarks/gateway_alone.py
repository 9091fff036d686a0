"""What the gateway itself can do: the engine is a fake one, so that HTTP, JSON, text and bookkeeping remain.

    python benchmarks/gateway_alone.py [--model FOLDER] [--seconds 10] [--clients 2] [--note TEXT] [--profile FILE]

- Short requests: 64 connections ask for whole chat answers of one token, as often as they can.
- Streams, paced: 64 streams whose engine steps on a clock, one token each; every token is an event of its own.
- Streams, unpaced: the engine never waits. Tokens that pile up leave together, so `tokens per event` is told beside.
- One stream alone: what the gateway adds to the time to the first token.
- 1,000 open streams: memory of the gateway, and what remains when they have gone.
- The same short requests with keys and limits in SQLite.

**What "on one core" means here.** The gateway is one process with one thread of Python; engine and clients need
processor time beside it. On a machine with few cores they take it away, so the rate by the clock says little about the
gateway. Judged is therefore work per second of the *gateway's own* processor time (from /proc, that process alone),
taken while it works near its limit; the rate by the clock and everybody's share of a core stand beside it. A client
process that is busier than 90 % of a core makes the run invalid: give more with --clients.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from claims import Claim, median_claim, percentile, short, store, tell
from crowd import Crowd, finish, request_bytes, run, start
from served import NAME, Served, core_seconds, packaged_model, served_fake, sizes

REQUESTS_TARGET, TOKENS_TARGET, OPEN_TARGET_MB, ADDED_TARGET_MS = "≥ 1500", "≥ 20000", "< 400", "< 6"
STREAMS, OPEN_STREAMS, ANSWER_TOKENS = 64, 1_000, 256
PACED_STEP_SECONDS = STREAMS / 20_000  # so that the engine offers 20,000 tokens a second, if it finds a core
WARM_UP_SECONDS = 4.0  # for client processes to start, and for what is slow only once
MAX_CLIENT_SHARE = 0.9
WORDS = "the way that people read and write about work and time in the world of today "
CHAT = {"model": NAME, "messages": [{"role": "user", "content": "Say hello to all of us, please."}], "max_tokens": 1}
STREAM = {
    "model": NAME, "prompt": WORDS * 8, "max_tokens": ANSWER_TOKENS, "ignore_eos": True, "stream": True,
    "temperature": 0, "stream_options": {"include_usage": True},
}  # fmt: skip
CHAT["temperature"] = 0


def main() -> None:
    """Measures and stores."""
    arguments = _arguments()
    model = packaged_model(arguments.model)
    short_requests = _measure(model, arguments, body=CHAT)
    with_keys = _measure(model, arguments, body=CHAT, has_keys=True)
    paced = _measure(model, arguments, body=STREAM, settings={"step_seconds": PACED_STEP_SECONDS})
    unpaced = _measure(model, arguments, body=STREAM)
    added = _added_first_token(model, arguments.answers)
    crowd = _open_streams(model, arguments.open)
    readings = {
        "short requests": short_requests, "short requests with keys": with_keys, "streams, paced": paced,
        "streams, unpaced": unpaced,
    }  # fmt: skip
    store(
        arguments.name,
        "The gateway alone",
        _claims(readings, added, crowd),
        details={"readings": readings, "open_streams": crowd, "added_first_token_ms": [short(one) for one in added]},
        note=arguments.note,
        command="benchmarks/gateway_alone.py",
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="a folder with a tokenizer [default: the newest package]")
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement")
    parser.add_argument("--clients", type=int, default=2, help="client processes")
    parser.add_argument("--open", type=int, default=OPEN_STREAMS, help="streams held open at once")
    parser.add_argument("--answers", type=int, default=200, help="answers in a row, for the time to the first token")
    parser.add_argument("--note", default="", help="a line for the result, such as what else the machine was doing")
    parser.add_argument("--name", default="gateway_alone", help="how the result is called")
    parser.add_argument("--profile", type=Path, help="only run the streams, under cProfile, and write its file")
    arguments = parser.parse_args()
    if arguments.profile:
        for name, body in (("streams", STREAM), ("requests", CHAT)):
            target = arguments.profile.with_suffix(f".{name}.prof")
            _measure(packaged_model(arguments.model), arguments, body=body, profile=target)
            tell(f"python -m pstats {target}")
        raise SystemExit
    return arguments


def _measure(
    model: Path,
    arguments: argparse.Namespace,
    *,
    body: dict[str, Any],
    settings: dict[str, Any] | None = None,
    has_keys: bool = False,
    profile: Path | None = None,
) -> dict[str, Any]:
    """One load on a fresh gateway: rates by the clock and per second of its own processor time."""
    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder) / "keys.db" if has_keys else None
        with served_fake(model, settings=settings, keys=keys, profile=profile) as server:
            return _load(server, body, seconds=arguments.seconds, clients=arguments.clients)


def _load(server: Served, body: dict[str, Any], *, seconds: float, clients: int) -> dict[str, Any]:
    began = time.monotonic() + WARM_UP_SECONDS
    spec = {
        "port": server.port, "key": server.key, "body": body, "connections": STREAMS, "count_from": began,
        "count_to": began + seconds,
    }  # fmt: skip
    processes = start(spec, processes=clients)
    time.sleep(max(0.0, began - time.monotonic()))
    with _clocked(server) as spent:
        tokens_before = server.metric("vllm:generation_tokens_total")
        time.sleep(max(0.0, began + seconds - time.monotonic()))
        tokens = server.metric("vllm:generation_tokens_total") - tokens_before
        spent["seconds"] = time.monotonic() - began
    crowd = finish(processes)
    result = _reading(crowd, spent, tokens)
    tell(f"{'stream' if body.get('stream') else 'chat'}: {result}")
    return result


@contextlib.contextmanager
def _clocked(server: Served) -> Iterator[dict[str, float]]:
    engine = server.engine()
    assert engine is not None
    before = server.gateway_core_seconds(), core_seconds(engine)
    spent: dict[str, float] = {}
    yield spent
    spent["gateway"] = server.gateway_core_seconds() - before[0]
    spent["engine"] = core_seconds(engine) - before[1]


def _reading(crowd: Crowd, spent: dict[str, float], tokens: float) -> dict[str, Any]:
    seconds, requests, events = spent["seconds"], crowd.total("requests"), crowd.total("events")
    client_core_seconds = crowd.total("core_seconds")
    return {
        "seconds": short(seconds),
        "errors": crowd.total("errors"),
        "requests_per_second": short(requests / seconds),
        "requests_per_gateway_core_second": short(requests / spent["gateway"]),
        "tokens_per_second": short(tokens / seconds),
        "tokens_per_gateway_core_second": short(tokens / spent["gateway"]),
        "tokens_per_event": short(tokens / events) if events else None,
        "events_per_gateway_core_second": short(events / spent["gateway"]),
        "core_shares": {
            "gateway": short(spent["gateway"] / seconds),
            "engine": short(spent["engine"] / seconds),
            "busiest client": short(crowd.busiest_core_share),
        },
        "client_capacity_per_core_second": {
            "requests": short(requests / client_core_seconds),
            "events": short(events / client_core_seconds),
        },
        "first_seconds_p50": short(percentile(crowd.first_seconds() or [0.0], 0.5)),
        "is_valid": crowd.busiest_core_share < MAX_CLIENT_SHARE and not crowd.total("errors"),
    }


def _added_first_token(model: Path, answers: int) -> list[float]:
    """Milliseconds to the first byte of one stream after the other; the engine takes two steps of no length."""
    body = STREAM | {"max_tokens": 2}
    with served_fake(model) as server:
        now = time.monotonic()
        spec = {"port": server.port, "body": body, "connections": 1, "count_from": now + 1.0}
        tally = run(spec | {"count_to": now + 1.0 + answers / 50})
    return [value * 1e3 for value in tally.first_seconds]


def _open_streams(model: Path, count: int) -> dict[str, Any]:
    """Memory and descriptors: before, with `count` streams that all have said something, and after they left."""
    import socket

    request = request_bytes(STREAM | {"max_tokens": 1_500, "prompt": [100] * 64})
    settings = {"step_seconds": 0.5, "capacity_tokens": 1 << 24}
    with served_fake(model, settings=settings, recipe={"max_running": count}) as server:
        before = sizes(server.gateway)
        sockets = []
        for _ in range(count):
            sockets.append(socket.create_connection(("127.0.0.1", server.port)))
            sockets[-1].sendall(request)
        seen = sum(one.recv(4_096).startswith(b"HTTP/1.1 200") for one in sockets)
        running = server.metric("vllm:num_requests_running")
        during = sizes(server.gateway)
        for one in sockets:
            one.close()
        deadline = time.monotonic() + 30
        while server.metric("vllm:num_requests_running") and time.monotonic() < deadline:
            time.sleep(0.2)
        time.sleep(1)  # the last look at /metrics was a connection too
        after = sizes(server.gateway)
    told = {"asked": count, "begun": seen, "running": running, "before": before, "during": during, "after": after}
    tell(f"open streams: {told}")
    return told


def _claims(readings: dict[str, dict[str, Any]], added: list[float], crowd: dict[str, Any]) -> list[Claim]:
    short_requests, with_keys = readings["short requests"], readings["short requests with keys"]
    per_core = "per second of the gateway's processor time"
    rate, clock = "requests_per_gateway_core_second", "by the clock"

    def valid(name: str, figure: str) -> float | None:
        return readings[name][figure] if readings[name]["is_valid"] else None

    is_open = crowd["begun"] == crowd["running"] == crowd["asked"]
    return [
        Claim(f"chat requests {per_core}", valid("short requests", rate), target=REQUESTS_TARGET),
        Claim(f"chat requests a second {clock}", valid("short requests", "requests_per_second")),
        Claim(f"the same with keys, {per_core}", valid("short requests with keys", rate)),
        Claim("keys: added processor time a request", 1e3 / with_keys[rate] - 1e3 / short_requests[rate], "ms"),
        Claim(
            f"streamed tokens {per_core}, an event each",
            valid("streams, paced", "events_per_gateway_core_second"),
            target=TOKENS_TARGET,
        ),
        Claim(f"streamed tokens a second {clock}, paced", valid("streams, paced", "tokens_per_second")),
        Claim(
            f"streamed tokens {per_core}, engine unpaced", valid("streams, unpaced", "tokens_per_gateway_core_second")
        ),
        Claim("tokens in an event there", valid("streams, unpaced", "tokens_per_event")),
        median_claim("first token of one stream, fake engine", added, unit="ms", target=ADDED_TARGET_MS),
        Claim(
            f"{crowd['asked']} open streams: resident memory of the gateway",
            crowd["during"]["rss_mb"] if is_open else None,
            "MB",
            OPEN_TARGET_MB,
        ),
        Claim("descriptors left when they have gone", crowd["after"]["descriptors"] - crowd["before"]["descriptors"]),
        Claim(
            "busiest client's share of a core", max(one["core_shares"]["busiest client"] for one in readings.values())
        ),
    ]


if __name__ == "__main__":
    main()
