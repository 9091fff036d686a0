"""Serving measured in one run, side by side: the gateway, its engines, its keys, and the server that came before.

    python benchmarks/serving.py [--model FOLDER] [--pairs 8] [--only NAME …] [--serve-option X …] [--note TEXT]

The machine's speed drifts, so that nothing is compared that was not measured in turns, and ratios of neighbours count:

- `gateway`: rounds of 32 streams (128 tokens in, 64 out) and of 100 (64 in, 32 out), alternately on the bare engine's
  own loop (`bare_engine.py`) and through gateway and HTTP; the same prompts in both, new ones each round. Two engines
  are loaded, one works, and the clients wait for a free core (`unhurried`). From the same rounds: the gateway process's
  share of a core, and when in the whole round the streams of 100 see their first token.
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
import contextlib
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from bare_engine import BareEngine, BareRound, bare_engine
from claims import Claim, median_claim, percentile, short, store, tell
from nexus_llm.chat import ChatTokenizer
from served import NAME, Served, free_port, packaged_model, served, wait_until_ready
from streams import Burst, body_of, burst, prompts

HERE = Path(__file__).parent
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


@dataclass(frozen=True, slots=True)
class Settings:
    """What is measured, how often, and how large."""

    model: Path
    vocabulary: int
    pairs: int
    options: list[str]
    """For `nexus serve`."""
    many: Load = Load(32, 128, 64)
    crowd: Load = Load(100, 64, 32)
    decode: Load = Load(1, 16, 256)
    streams: tuple[int, ...] = (1, 8, 32)
    """For the comparison of engines."""


def main() -> None:
    """Asks the questions in order and stores the answers."""
    arguments = _arguments()
    model = packaged_model(arguments.model)
    found = Found([], {})
    vocabulary = min(20_000, ChatTokenizer.load(model).vocabulary_size)
    settings = Settings(model, vocabulary, arguments.pairs, arguments.serve_option)
    if arguments.small:
        sizes = {"many": Load(4, 16, 8), "crowd": Load(8, 16, 8), "decode": Load(1, 8, 8), "streams": (1, 2)}
        settings = replace(settings, **sizes)
    for name in arguments.only or QUESTIONS:
        tell(f"— {name}")
        QUESTIONS[name](settings, found)
    command = f"benchmarks/serving.py --pairs {arguments.pairs}"
    store(arguments.name, "Serving", found.claims, details=found.details, note=arguments.note, command=command)


def gateway(settings: Settings, found: Found) -> None:
    """Gateway and engine against the engine alone."""
    server_of = served(settings.model, options=settings.options)
    with bare_engine(settings.model) as bare, server_of as server, unhurried():
        for load in (settings.many, settings.crowd):
            rounds = _pairs(bare, server, load, settings)
            _judge_gateway(load, rounds, found)
            if load is settings.crowd:
                _judge_first_tokens(load, rounds, found)


@contextlib.contextmanager
def unhurried() -> Iterator[None]:
    """This process takes a core when one is to be had, not at once (SCHED_BATCH; Linux, sched(7)).

    Clients that wake for each token push an engine's thread aside a thousand times a round, which those on machines of
    their own never do, and the bare engine has none.
    """
    if not hasattr(os, "SCHED_BATCH"):
        yield
        return
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _pairs(bare: BareEngine, server: Served, load: Load, settings: Settings) -> list[tuple[BareRound, Round]]:
    sizes = {**asdict(load), "vocabulary": settings.vocabulary}
    bare.round(seed=-1, **sizes)
    through(server, load, settings, seed=-1)
    rounds = []
    for number in range(settings.pairs):
        engine, ours = in_turns(
            number,
            lambda seed=number: bare.round(seed=seed, **sizes),
            lambda seed=number: through(server, load, settings, seed=seed),
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


def _judge_first_tokens(load: Load, rounds: Sequence[tuple[BareRound, Round]], found: Found) -> None:
    for share, bound in ((0.5, 0.40), (0.95, 0.65)):
        ours = [percentile(one.burst.first_seconds, share) / one.burst.seconds for _, one in rounds]
        bare = [percentile(one.first_seconds, share) / one.seconds for one, _ in rounds]
        what = f"{load.streams} streams: first token, p{share * 100:.0f}, of the whole round"
        found.claims += [median_claim(what, ours, target=f"< {bound}"), median_claim(f"{what}, bare engine", bare)]


def first_token(settings: Settings, found: Found) -> None:
    """Time to the first token of one stream, through the gateway and without it."""
    load = Load(1, settings.many.prompt, 2)
    added, bare_seconds = [], []
    with bare_engine(settings.model) as bare, served(settings.model, options=settings.options) as server:
        for number in range(-3, settings.pairs * FIRST_TOKEN_PAIRS):
            engine, ours = in_turns(
                number,
                lambda seed=number: bare.round(seed=seed, **asdict(load), vocabulary=settings.vocabulary),
                lambda seed=number: through(server, load, settings, seed=seed),
            )
            if number >= 0:  # those before are warm-up
                added.append(1e3 * (ours.burst.first_seconds[0] - engine.first_seconds[0]))
                bare_seconds.append(engine.first_seconds[0])
    found.claims += [
        median_claim("one stream: first token, added by the gateway", added, unit="ms", target="< 6"),
        median_claim("one stream: first token, bare engine", [1e3 * value for value in bare_seconds], unit="ms"),
    ]
    found.details["added first token, ms"] = [short(value) for value in added]


def engines(settings: Settings, found: Found) -> None:
    """OpenVINO and llama.cpp at several loads, and how fast one stream is decoded."""
    with served(settings.model) as openvino, served(settings.model, engine="llama.cpp") as llama:
        both = {"openvino": openvino, "llama.cpp": llama}
        for streams in settings.streams:
            rates = _rates(both, replace(settings.many, streams=streams), settings)
            for name, values in rates.items():
                found.claims.append(median_claim(f"{name}, {streams} streams", values, unit="tokens/s"))
            ratios = [ours / other for ours, other in zip(rates["openvino"], rates["llama.cpp"], strict=True)]
            found.claims.append(median_claim(f"openvino ÷ llama.cpp, {streams} streams", ratios))
        decode = {name: _decode_rates(server, settings) for name, server in both.items()}
    bound = read_bandwidth() / (settings.model / WEIGHTS).stat().st_size
    for name, values in decode.items():
        target = "≥ 90" if name == "openvino" else None
        found.claims.append(median_claim(f"{name}: one stream decoded, Q8_0", values, unit="tokens/s", target=target))
    found.claims.append(Claim("bound: memory read once a token", bound, "tokens/s"))
    found.details["decode tokens/s"] = {name: [short(value) for value in values] for name, values in decode.items()}


def _rates(servers: dict[str, Served], load: Load, settings: Settings) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {name: [] for name in servers}
    for number in range(-1, settings.pairs):
        for name in list(servers)[:: -1 if number % 2 else 1]:
            done = through(servers[name], load, settings, seed=3_000 + number)
            if number >= 0:
                rates[name].append(done.tokens_per_second)
    tell(f"{load}: {rates}")
    return rates


def _decode_rates(server: Served, settings: Settings) -> list[float]:
    """Tokens a second after the first, of one stream alone."""
    rates = []
    for number in range(settings.pairs):
        (end,) = through(server, settings.decode, settings, seed=4_000 + number).burst.ends
        assert end.decode_seconds
        rates.append((end.tokens - 1) / end.decode_seconds)
    return rates


def read_bandwidth() -> float:
    """Bytes a second that all cores together read from memory: the best of five sums over 1 GiB."""
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


def keys(settings: Settings, found: Found) -> None:
    """What keys and limits in SQLite cost."""
    import tempfile

    with (
        tempfile.TemporaryDirectory() as folder,
        served(settings.model) as without,
        served(settings.model, keys=Path(folder) / "keys.db") as behind,
    ):
        ratios, shares = [], []
        for number in range(-1, settings.pairs):
            free, held = in_turns(
                number,
                lambda seed=number: through(without, settings.many, settings, seed=5_000 + seed),
                lambda seed=number: through(behind, settings.many, settings, seed=5_000 + seed),
            )
            if number >= 0:
                ratios.append(held.tokens_per_second / free.tokens_per_second)
                shares.append(held.gateway_core_share)
    found.claims += [
        median_claim(f"{settings.many.streams} streams with keys in SQLite ÷ without, tokens/s", ratios),
        median_claim(
            f"{settings.many.streams} streams with keys: share of a core that the gateway takes",
            shares,
            target="< 0.05",
        ),
    ]


def peer(settings: Settings, found: Found) -> None:
    """The server that came before, in turns."""
    port = free_port()
    script = str(HERE / "peers" / "brief_server.py")
    with served(settings.model, options=settings.options) as server:
        process = subprocess.Popen([sys.executable, script, str(settings.model), str(port)])
        try:
            wait_until_ready(f"http://127.0.0.1:{port}/health", process)
            url = f"http://127.0.0.1:{port}/generate"
            asyncio.run(_peer_burst(url, settings.crowd, requests=1))
            rounds = [
                in_turns(
                    number,
                    lambda: _peer_rate(url, settings.crowd),
                    lambda seed=number: through(server, settings.crowd, settings, seed=2_000 + seed),
                )
                for number in range(PEER_ROUNDS)
            ]
        finally:
            process.terminate()
            process.wait(60)
    ratios = [ours.tokens_per_second / theirs for theirs, ours in rounds]
    found.claims += [
        median_claim(f"{settings.crowd.streams} streams ÷ the server before, tokens/s", ratios, target="≥ 25"),
        median_claim("the server before", [theirs for theirs, _ in rounds], unit="tokens/s"),
    ]


def _peer_rate(url: str, load: Load) -> float:
    started = time.perf_counter()
    return asyncio.run(_peer_burst(url, load, requests=PEER_REQUESTS)) / (time.perf_counter() - started)


async def _peer_burst(url: str, load: Load, *, requests: int) -> int:
    words = PEER_WORDS.split()
    async with httpx.AsyncClient(timeout=600) as client:
        asked = [
            {"prompt": " ".join(random.Random(seed).choices(words, k=load.prompt)), "max_tokens": load.answer}
            for seed in range(requests)
        ]
        answers = await asyncio.gather(*(client.post(url, json=one) for one in asked))
    return sum(answer.json()["tokens_generated"] for answer in answers)


def through(server: Served, load: Load, settings: Settings, *, seed: int) -> Round:
    """One round through the gateway; every answer has to be whole and as long as asked."""
    asked = prompts(seed, count=load.streams, tokens=load.prompt, vocabulary=settings.vocabulary)
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


QUESTIONS: dict[str, Callable[[Settings, Found], None]] = {
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
    parser.add_argument("--small", action="store_true", help="tries everything at a size that tells nothing")
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
