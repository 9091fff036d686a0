"""Serving measured in one run: gateway against the bare engine, a crowd of streams, and the server that came before.

    python benchmarks/serving.py --model PACKAGED_FOLDER [--pairs 8] [--peer-requests 3] [--note TEXT]

Three questions, each answered side by side because the machine's speed drifts:
- What does the gateway cost? Rounds of 32 streams (128 tokens in, 64 out), alternately on the bare engine's own loop
  and through gateway and HTTP; the same prompts in both, new ones each round. Two engines are loaded, one works.
- Does anybody starve in a crowd? 100 clients stream (64 in, 32 out): when does the median one see a first token?
- How much faster than one request at a time? The same work on `peers/brief_server.py`.

The clients run in this process and share the two cores with what they measure. Needs the `serve` and `bench` extras.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import importlib.metadata
import json
import os
import platform
import random
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PACKAGES = ("nexus-llm-platform", "openvino-genai", "fastapi", "uvicorn", "httptools", "transformers", "torch")
STREAMS, PROMPT_TOKENS, ANSWER_TOKENS = 32, 128, 64
CROWD, CROWD_PROMPT_TOKENS, CROWD_ANSWER_TOKENS = 100, 64, 32
GATEWAY_TARGET, PEER_TARGET, FIRST_TOKEN_TARGET = 0.95, 20.0, 0.60
PEER_ROUNDS = 3
READY_SECONDS = 300
PEER_WORDS = "the way that people read and write about work and time in the world of today"
FIRST_PLAIN_TOKEN = 100  # below lie control tokens and single bytes


@dataclass(frozen=True)
class Round:
    """One burst of requests, all sent at once."""

    tokens: int
    seconds: float
    first_token_seconds: list[float]
    gateway_core_share: float = 0.0
    client_core_share: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


def main() -> None:
    arguments = _arguments()
    if arguments.bare:
        _bare_loop(arguments.model)
        return
    with _bare(arguments.model) as bare, _server(arguments.model) as server:
        _round(server, seed=-1)
        _bare_round(bare, seed=-1)
        pairs = []
        for number in range(arguments.pairs):
            # The order alternates, so that a drift in one direction favours nobody.
            if number % 2:
                ours, engine = _round(server, seed=number), _bare_round(bare, seed=number)
            else:
                engine, ours = _bare_round(bare, seed=number), _round(server, seed=number)
            pairs.append((engine, ours))
            _tell(f"pair {number + 1}: bare {engine.tokens_per_second:.0f}, gateway {ours.tokens_per_second:.0f}")
        crowd = [
            _round(server, seed=1_000 + number, streams=CROWD, prompt=CROWD_PROMPT_TOKENS, answer=CROWD_ANSWER_TOKENS)
            for number in range(3)
        ]
        peer = _against_peer(server, arguments) if arguments.peer_requests else None
    _write_results(pairs, crowd, peer, arguments)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="a packaged model folder [default: the newest one in artifacts/]")
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--peer-requests", type=int, default=3, help="in each of its rounds; 0 leaves it out")
    parser.add_argument("--note", default="", help="a line for the result, such as what else the machine was doing")
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.model is None:
        made = sorted(Path("artifacts/package").glob("*/manifest.json"), key=lambda path: path.stat().st_mtime)
        if not made:
            parser.error("no packaged model in artifacts/: run a recipe first, or give --model")
        arguments.model = made[-1].parent
    return arguments


def _prompts(seed: int, *, streams: int, tokens: int) -> list[list[int]]:
    """Random ids of common tokens: no two prompts share a beginning, so no cache helps."""
    source = random.Random(seed)
    return [source.choices(range(FIRST_PLAIN_TOKEN, 20_000), k=tokens) for _ in range(streams)]


@contextmanager
def _bare(model: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, __file__, "--bare", "--model", str(model)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()


def _bare_round(process: subprocess.Popen[str], *, seed: int) -> Round:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{seed}\n")
    process.stdin.flush()
    return Round(**json.loads(process.stdout.readline()))


def _bare_loop(model: Path) -> None:
    """The least code around OpenVINO GenAI that gets tokens out: add everything, step until nothing is left."""
    import numpy as np
    import openvino
    import openvino_genai as genai

    scheduler = genai.SchedulerConfig()
    scheduler.cache_size = 1
    scheduler.dynamic_split_fuse = True
    scheduler.max_num_batched_tokens = 512
    scheduler.enable_prefix_caching = True
    pipeline = genai.ContinuousBatchingPipeline(str(model / "model-q8_0.gguf"), scheduler, "CPU", {}, {}, {})
    config = genai.GenerationConfig()
    config.max_new_tokens, config.ignore_eos = ANSWER_TOKENS, True
    next_id = 0
    print("ready", flush=True)
    for line in sys.stdin:
        prompts = _prompts(int(line), streams=STREAMS, tokens=PROMPT_TOKENS)
        started = time.perf_counter()
        handles = {}
        for prompt in prompts:
            next_id += 1
            tensor = openvino.Tensor(np.array([prompt], dtype=np.int64))
            handles[next_id] = pipeline.add_request(next_id, tensor, config)
        tokens, first = 0, {}
        while pipeline.has_non_finished_requests():
            pipeline.step()
            for request_id, handle in handles.items():
                if handle.can_read():
                    first.setdefault(request_id, time.perf_counter() - started)
                    tokens += sum(len(output.generated_ids) for output in handle.read().values())
        seconds = time.perf_counter() - started
        print(
            json.dumps({"tokens": tokens, "seconds": seconds, "first_token_seconds": list(first.values())}), flush=True
        )


@dataclass(frozen=True)
class _Served:
    port: int
    model: str
    gateway: psutil.Process


@contextmanager
def _server(model: Path) -> Iterator[_Served]:
    port = _free_port()
    command = [sys.executable, "-m", "nexus_llm.cli", "serve", str(model), "--port", str(port), "--name", "model"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        _wait(f"http://127.0.0.1:{port}/ready", process)
        yield _Served(port, "model", psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait(60)


def _round(
    server: _Served, *, seed: int, streams: int = STREAMS, prompt: int = PROMPT_TOKENS, answer: int = ANSWER_TOKENS
) -> Round:
    prompts = _prompts(seed, streams=streams, tokens=prompt)
    before, own_before, started = _core_seconds(server.gateway), time.process_time(), time.perf_counter()
    ends = asyncio.run(_burst(server, prompts, answer))
    seconds = time.perf_counter() - started
    tokens = sum(tokens for tokens, _ in ends)
    assert tokens == streams * answer, f"{tokens} tokens of {streams * answer}"
    return Round(
        tokens,
        seconds,
        sorted(first for _, first in ends),
        (_core_seconds(server.gateway) - before) / seconds,
        (time.process_time() - own_before) / seconds,
    )


async def _burst(server: _Served, prompts: list[list[int]], answer_tokens: int) -> list[tuple[int, float]]:
    return await asyncio.gather(*(_one(server, prompt, answer_tokens) for prompt in prompts))


async def _one(server: _Served, prompt: list[int], answer_tokens: int) -> tuple[int, float]:
    """(tokens, seconds to the first) of one stream, over a plain socket: a heavy client would slow what it measures."""
    body = json.dumps(
        {
            "model": server.model, "prompt": prompt, "max_tokens": answer_tokens, "stream": True, "temperature": 0,
            "ignore_eos": True, "stream_options": {"include_usage": True},
        }
    ).encode()  # fmt: skip
    started = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    writer.write(f"{head}\r\n\r\n".encode() + body)
    first, tail = 0.0, b""
    while b"[DONE]" not in tail:
        data = await reader.read(65_536)
        assert data, f"the server hung up: {tail[-300:]!r}"
        first = first or time.perf_counter() - started
        tail = tail[-600:] + data
    writer.close()
    tokens = int(tail.rsplit(b'"completion_tokens":', 1)[1].split(b",", 1)[0])
    return tokens, first


def _against_peer(server: _Served, arguments: argparse.Namespace) -> dict[str, Any]:
    """Both rates, taken in turns. The peer works on one request at a time, so a few tell as much as 32 would."""
    port = _free_port()
    script = str(HERE / "peers" / "brief_server.py")
    process = subprocess.Popen([sys.executable, script, str(arguments.model), str(port)])
    ours, theirs = [], []
    try:
        _wait(f"http://127.0.0.1:{port}/health", process)
        url = f"http://127.0.0.1:{port}/generate"
        asyncio.run(_peer_burst(url, requests=1))
        for number in range(PEER_ROUNDS):
            ours.append(_round(server, seed=2_000 + number).tokens_per_second)
            started = time.perf_counter()
            tokens = asyncio.run(_peer_burst(url, requests=arguments.peer_requests))
            theirs.append(tokens / (time.perf_counter() - started))
            _tell(f"peer {theirs[-1]:.1f}, gateway {ours[-1]:.0f}")
    finally:
        process.terminate()
        process.wait(60)
    return {
        "requests_per_round": arguments.peer_requests,
        "tokens_per_second": [round(rate, 2) for rate in theirs],
        "gateway_tokens_per_second": [round(rate, 1) for rate in ours],
        "times_slower": round(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), 1),
    }


async def _peer_burst(url: str, *, requests: int) -> int:
    words = PEER_WORDS.split()
    async with httpx.AsyncClient(timeout=600) as client:
        asked = [
            {"prompt": " ".join(random.Random(seed).choices(words, k=PROMPT_TOKENS)), "max_tokens": ANSWER_TOKENS}
            for seed in range(requests)
        ]
        answers = await asyncio.gather(*(client.post(url, json=one) for one in asked))
    return sum(answer.json()["tokens_generated"] for answer in answers)


def _write_results(
    pairs: list[tuple[Round, Round]], crowd: list[Round], peer: dict[str, Any] | None, arguments: argparse.Namespace
) -> None:
    ratios = sorted(ours.tokens_per_second / bare.tokens_per_second for bare, ours in pairs)
    first_shares = [statistics.median(one.first_token_seconds) / one.seconds for one in crowd]
    result = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "hardware": f"{os.cpu_count()} cores, {_processor()}",
        "versions": {name: _version(name) for name in PACKAGES},
        "note": arguments.note,
        "gateway": {
            "pairs": len(pairs),
            "bare_tokens_per_second": [round(bare.tokens_per_second, 1) for bare, _ in pairs],
            "gateway_tokens_per_second": [round(ours.tokens_per_second, 1) for _, ours in pairs],
            "ratio": {"min": _r(ratios[0]), "median": _r(statistics.median(ratios)), "max": _r(ratios[-1])},
            "gateway_core_share": _r(statistics.median(ours.gateway_core_share for _, ours in pairs)),
            "client_core_share": _r(statistics.median(ours.client_core_share for _, ours in pairs)),
            "median_first_token_seconds": {
                "bare": _r(statistics.median(statistics.median(bare.first_token_seconds) for bare, _ in pairs)),
                "gateway": _r(statistics.median(statistics.median(ours.first_token_seconds) for _, ours in pairs)),
            },
        },
        "crowd": {
            "clients": CROWD,
            "tokens_per_second": [round(one.tokens_per_second, 1) for one in crowd],
            "makespan_seconds": [_r(one.seconds) for one in crowd],
            "median_first_token_share_of_makespan": [_r(share) for share in first_shares],
        },
        "peer": peer,
    }
    stem = f"serving_{platform.machine()}-{os.cpu_count()}-cores_{result['date']}"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{stem}.json").write_text(json.dumps(result, indent=2) + "\n")
    (RESULTS / f"{stem}.md").write_text(_as_markdown(result))
    print(json.dumps(result, indent=2))


def _as_markdown(result: dict[str, Any]) -> str:
    gateway, crowd, peer = result["gateway"], result["crowd"], result["peer"]
    share = max(crowd["median_first_token_share_of_makespan"])
    rows = [
        (
            f"gateway + engine ÷ bare engine, {STREAMS} streams, median of {gateway['pairs']} pairs",
            f"{gateway['ratio']['median']} ({gateway['ratio']['min']}–{gateway['ratio']['max']})",
            f"≥ {GATEWAY_TARGET}",
        ),
        ("gateway process, share of one core", f"{gateway['gateway_core_share']}", "–"),
        (
            f"{CROWD} clients: median first token ÷ makespan, worst of {len(crowd['makespan_seconds'])}",
            f"{share}",
            f"< {FIRST_TOKEN_TARGET}",
        ),
    ]
    if peer:
        rows.append(("gateway + engine ÷ the server before", f"{peer['times_slower']} ×", f"≥ {PEER_TARGET:g} ×"))
    table = "\n".join(f"| {name} | {value} | {target} |" for name, value, target in rows)
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return (
        f"# Serving, {result['date']}\n\n{result['hardware']}; {versions}. {result['note']}\n\n"
        f"| what | measured | target |\n|---|---|---|\n{table}\n\n"
        f"Tokens/s: bare {gateway['bare_tokens_per_second']}, gateway {gateway['gateway_tokens_per_second']}, "
        f"{CROWD} clients {crowd['tokens_per_second']}"
        + (f", the server before {peer['tokens_per_second']}.\n" if peer else ".\n")
        + f"\nWritten by `benchmarks/serving.py --pairs {gateway['pairs']}`, which says how it measures.\n"
    )


def _r(value: float) -> float:
    return round(value, 3)


def _core_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _processor() -> str:
    from nexus_llm.cloud.local import processor_name

    return processor_name()


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait(url: str, process: subprocess.Popen[Any]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    raise SystemExit(f"{url} never got ready")


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
