"""Serving measured in one run, side by side: the gateway, its engines, its keys, and the server that came before.

    python benchmarks/serving.py [--model FOLDER] [--pairs 8] [--only NAME …] [--serve-option X …] [--note TEXT]

The machine's speed drifts, so that nothing is compared that was not measured in turns, and ratios of neighbours count:

- `gateway`: rounds of 32 streams (128 tokens in, 64 out) and of 100 (64 in, 32 out), alternately on the bare engine's
  own loop (`bare_engine.py`) and through gateway and HTTP; the same prompts in both, new ones each round. Two engines
  are loaded, one works. From the same rounds: the gateway process's share of a core, and when in the whole round the
  streams of 100 see their first token.
- `first-token`: one stream at a time, in turns: what the gateway adds to the time to the first token.
- `engines`: OpenVINO and llama.cpp behind the same gateway at 1, 8 and 32 streams; single-stream decoding of the Q8_0
  file beside what the memory's bandwidth allows.
- `keys`: the same gateway with keys and exact limits in SQLite.
- `peer`: 100 streams against `peers/brief_server.py`, which answers one request at a time, so that a few tell its rate.

The clients run in this process and share the cores with what they measure; their share stands beside.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from bare_engine import BareEngine, BareRound, bare_engine
from claims import Claim, median_claim, percentile, short, store, tell
from served import NAME, Served, free_port, packaged_model, served, wait_until_ready
from streams import Burst, body_of, burst, prompts

HERE = Path(__file__).parent
DECODE_TOKENS = 256
FIRST_TOKEN_PAIRS = 5  # times --pairs
PEER_WORDS = "the way that people read and write about work and time in the world of today"
PEER_ROUNDS, PEER_REQUESTS = 3, 3
WEIGHTS = "model-q8_0.gguf"


@dataclass(frozen=True, slots=True)
class Load:
    """Streams at once, tokens of each prompt, tokens of each answer."""

    streams: int
    prompt: int
    answer: int


@dataclass(frozen=True, slots=True)
class Round:
    """One burst through the gateway."""

    burst: Burst
    gateway_core_share: float
    client_core_share: float

    @property
    def tokens_per_second(self) -> float:
        return self.burst.tokens_per_second


@dataclass
class Found:
    """What all questions add to."""

    claims: list[Claim]
    details: dict[str, Any]


SMALLER = Load(32, 128, 64)
CROWD = Load(100, 64, 32)


def main() -> None:
    """Asks the questions in order and stores the answers."""
    arguments = _arguments()
    model = packaged_model(arguments.model)
    found = Found([], {})
    for name in arguments.only or QUESTIONS:
        tell(f"— {name}")
        QUESTIONS[name](model, arguments, found)
    command = f"benchmarks/serving.py --pairs {arguments.pairs}"
    store(arguments.name, "Serving", found.claims, details=found.details, note=arguments.note, command=command)


def gateway(model: Path, arguments: argparse.Namespace, found: Found) -> None:
    """Gateway and engine against the engine alone."""
    with bare_engine(model) as bare, served(model, options=arguments.serve_option) as server:
        for load in (SMALLER, CROWD):
            rounds = _pairs(bare, server, load, arguments.pairs)
            _judge_gateway(load, rounds, found)
            if load is CROWD:
                _judge_first_tokens(rounds, found)


def _pairs(bare: BareEngine, server: Served, load: Load, count: int) -> list[tuple[BareRound, Round]]:
    sizes = {"streams": load.streams, "prompt": load.prompt, "answer": load.answer}
    bare.round(seed=-1, **sizes)
    through(server, load, seed=-1)
    rounds = []
    for number in range(count):
        engine, ours = in_turns(
            number,
            lambda seed=number: bare.round(seed=seed, **sizes),
            lambda seed=number: through(server, load, seed=seed),
        )
        rounds.append((engine, ours))
        tell(f"{load.streams} streams: bare {engine.tokens_per_second:.0f}, gateway {ours.tokens_per_second:.0f}")
    return rounds


def _judge_gateway(load: Load, rounds: Sequence[tuple[BareRound, Round]], found: Found) -> None:
    ratios = [ours.tokens_per_second / engine.tokens_per_second for engine, ours in rounds]
    shares = [ours.gateway_core_share for _, ours in rounds]
    what = f"{load.streams} streams"
    found.claims += [
        median_claim(f"{what}: gateway and engine ÷ bare engine, tokens/s", ratios, target="≥ 0.97"),
        median_claim(f"{what}: share of a core that the gateway takes", shares, target="< 0.05"),
        median_claim(f"{what}: share that this client takes", [ours.client_core_share for _, ours in rounds]),
    ]
    found.details[f"gateway, {what}"] = {
        "bare_tokens_per_second": [short(engine.tokens_per_second) for engine, _ in rounds],
        "gateway_tokens_per_second": [short(ours.tokens_per_second) for _, ours in rounds],
    }


def _judge_first_tokens(rounds: Sequence[tuple[BareRound, Round]], found: Found) -> None:
    for share, bound in ((0.5, 0.40), (0.95, 0.65)):
        ours = [percentile(one.burst.first_seconds, share) / one.burst.seconds for _, one in rounds]
        bare = [percentile(one.first_seconds, share) / one.seconds for one, _ in rounds]
        what = f"{CROWD.streams} streams: first token, p{share * 100:.0f}, of the whole round"
        found.claims += [median_claim(what, ours, target=f"< {bound}"), median_claim(f"{what}, bare engine", bare)]


def first_token(model: Path, arguments: argparse.Namespace, found: Found) -> None:
    """Time to the first token of one stream, through the gateway and without it."""
    load = Load(1, 128, 2)
    added, bare_seconds = [], []
    with bare_engine(model) as bare, served(model, options=arguments.serve_option) as server:
        for number in range(-3, arguments.pairs * FIRST_TOKEN_PAIRS):
            engine, ours = in_turns(
                number,
                lambda seed=number: bare.round(seed=seed, streams=1, prompt=load.prompt, answer=load.answer),
                lambda seed=number: through(server, load, seed=seed),
            )
            if number >= 0:  # those before are warm-up
                added.append(1e3 * (ours.burst.first_seconds[0] - engine.first_seconds[0]))
                bare_seconds.append(engine.first_seconds[0])
    found.claims += [
        median_claim("one stream: first token, added by the gateway", added, unit="ms", target="< 6"),
        median_claim("one stream: first token, bare engine", [1e3 * value for value in bare_seconds], unit="ms"),
    ]
    found.details["added first token, ms"] = [short(value) for value in added]


def engines(model: Path, arguments: argparse.Namespace, found: Found) -> None:
    """OpenVINO and llama.cpp at several loads, and how fast one stream is decoded."""
    with served(model) as openvino, served(model, engine="llama.cpp") as llama:
        both = {"openvino": openvino, "llama.cpp": llama}
        for streams in (1, 8, 32):
            load = Load(streams, 128, 64)
            rates = _rates(both, load, arguments.pairs)
            for name, values in rates.items():
                found.claims.append(median_claim(f"{name}, {streams} streams", values, unit="tokens/s"))
            ratios = [ours / other for ours, other in zip(rates["openvino"], rates["llama.cpp"], strict=True)]
            found.claims.append(median_claim(f"openvino ÷ llama.cpp, {streams} streams", ratios))
        decode = {name: _decode_rates(server, arguments.pairs) for name, server in both.items()}
    bound = read_bandwidth() / (model / WEIGHTS).stat().st_size
    for name, values in decode.items():
        target = "≥ 90" if name == "openvino" else None
        found.claims.append(median_claim(f"{name}: one stream decoded, Q8_0", values, unit="tokens/s", target=target))
    found.claims.append(Claim("bound: memory read once a token", bound, "tokens/s"))
    found.details["decode tokens/s"] = {name: [short(value) for value in values] for name, values in decode.items()}


def _rates(servers: dict[str, Served], load: Load, count: int) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {name: [] for name in servers}
    for number in range(-1, count):
        for name in list(servers)[:: -1 if number % 2 else 1]:
            done = through(servers[name], load, seed=3_000 + number)
            if number >= 0:
                rates[name].append(done.tokens_per_second)
    tell(f"{load}: {rates}")
    return rates


def _decode_rates(server: Served, count: int) -> list[float]:
    """Tokens a second after the first, of one stream alone."""
    rates = []
    for number in range(count):
        (end,) = through(server, Load(1, 16, DECODE_TOKENS), seed=4_000 + number).burst.ends
        assert end.decode_seconds
        rates.append((end.tokens - 1) / end.decode_seconds)
    return rates


def read_bandwidth() -> float:
    """Bytes a second that all cores together read from memory: the best of five sums over 1 GiB."""
    import os

    import numpy as np

    cores = len(os.sched_getaffinity(0))
    parts = np.array_split(np.ones(2**27, dtype=np.int64), cores)
    best = 0.0
    for _ in range(5):
        threads = [threading.Thread(target=part.sum) for part in parts]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        best = max(best, 2**30 / (time.perf_counter() - started))
    return best


def keys(model: Path, arguments: argparse.Namespace, found: Found) -> None:
    """What keys and limits in SQLite cost."""
    import tempfile

    with (
        tempfile.TemporaryDirectory() as folder,
        served(model) as without,
        served(model, keys=Path(folder) / "keys.db") as behind,
    ):
        ratios, shares = [], []
        for number in range(-1, arguments.pairs):
            free, held = in_turns(
                number,
                lambda seed=number: through(without, SMALLER, seed=5_000 + seed),
                lambda seed=number: through(behind, SMALLER, seed=5_000 + seed),
            )
            if number >= 0:
                ratios.append(held.tokens_per_second / free.tokens_per_second)
                shares.append(held.gateway_core_share)
    found.claims += [
        median_claim("32 streams with keys in SQLite ÷ without, tokens/s", ratios),
        median_claim("32 streams with keys: share of a core that the gateway takes", shares, target="< 0.05"),
    ]


def peer(model: Path, arguments: argparse.Namespace, found: Found) -> None:
    """The server that came before, in turns."""
    port = free_port()
    script = str(HERE / "peers" / "brief_server.py")
    with served(model, options=arguments.serve_option) as server:
        process = subprocess.Popen([sys.executable, script, str(model), str(port)])
        try:
            wait_until_ready(f"http://127.0.0.1:{port}/health", process)
            url = f"http://127.0.0.1:{port}/generate"
            asyncio.run(_peer_burst(url, requests=1))
            rounds = [
                in_turns(number, lambda: _peer_rate(url), lambda seed=number: through(server, CROWD, seed=2_000 + seed))
                for number in range(PEER_ROUNDS)
            ]
        finally:
            process.terminate()
            process.wait(60)
    ratios = [ours.tokens_per_second / theirs for theirs, ours in rounds]
    found.claims += [
        median_claim(f"{CROWD.streams} streams ÷ the server before, tokens/s", ratios, target="≥ 25"),
        median_claim("the server before", [theirs for theirs, _ in rounds], unit="tokens/s"),
    ]


def _peer_rate(url: str) -> float:
    started = time.perf_counter()
    return asyncio.run(_peer_burst(url, requests=PEER_REQUESTS)) / (time.perf_counter() - started)


async def _peer_burst(url: str, *, requests: int) -> int:
    words = PEER_WORDS.split()
    async with httpx.AsyncClient(timeout=600) as client:
        asked = [
            {"prompt": " ".join(random.Random(seed).choices(words, k=CROWD.prompt)), "max_tokens": CROWD.answer}
            for seed in range(requests)
        ]
        answers = await asyncio.gather(*(client.post(url, json=one) for one in asked))
    return sum(answer.json()["tokens_generated"] for answer in answers)


def through(server: Served, load: Load, *, seed: int) -> Round:
    """One round through the gateway; every answer has to be whole and as long as asked."""
    asked = prompts(seed, count=load.streams, tokens=load.prompt)
    bodies = [body_of(prompt, load.answer) for prompt in asked]
    before, own_before = server.gateway_core_seconds(), time.process_time()
    done = asyncio.run(burst(server.port, bodies, key=server.key))
    gateway_seconds, own_seconds = server.gateway_core_seconds() - before, time.process_time() - own_before
    assert done.tokens == load.streams * load.answer, f"{done.tokens} tokens, {NAME}: {done.ends[0]}"
    return Round(done, gateway_seconds / done.seconds, own_seconds / done.seconds)


def in_turns(number: int, left: Callable[[], Any], right: Callable[[], Any]) -> tuple[Any, Any]:
    """Both results; who goes first alternates, so that a drift in one direction favours nobody."""
    if number % 2:
        second = right()
        return left(), second
    return left(), right()


QUESTIONS: dict[str, Callable[[Path, argparse.Namespace, Found], None]] = {
    "gateway": gateway,
    "first-token": first_token,
    "engines": engines,
    "keys": keys,
    "peer": peer,
}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="a packaged model folder [default: the newest one in artifacts/]")
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--only", nargs="+", choices=list(QUESTIONS), help="these questions alone")
    parser.add_argument(
        "--serve-option", action="append", default=[], help="passed to nexus serve: --serve-option=--set …"
    )
    parser.add_argument("--name", default="serving", help="how the result is called")
    parser.add_argument("--note", default="", help="a line for the result, such as what else the machine was doing")
    arguments = parser.parse_args()
    if arguments.pairs < 1:
        parser.error("--pairs must be at least 1")
    return arguments


if __name__ == "__main__":
    main()
