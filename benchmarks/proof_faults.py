"""What goes wrong while 100 streams run, brought about on purpose, and what the clients see of it.

Each function starts what it breaks, and gives claims, numbers for the record, and nothing else: no fault may leave a
process behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from claims import Claim, median_claim
from served import Served, served, sizes
from streams import Burst, Stream, body_of, burst, follow, prompts

SPARE_SECONDS = 15.0  # beside the grace time, for the engine's end and a busy machine
POLL_SECONDS = 0.05
SLOW_RATIO_TARGET = "≥ 0.8"
HEAD_TARGET_SECONDS, BODY_TARGET_SECONDS = "≤ 20", "≤ 70"


@dataclass(frozen=True)
class Plan:
    """How large a proof is."""

    model: Path
    engine: str = "openvino"
    streams: int = 100
    max_running: int = 64
    """Streams that the engine works on at once; the others wait, so that some have not begun when it dies."""
    prompt_tokens: int = 64
    answer_tokens: int = 128
    vocabulary: int = 20_000
    soak_seconds: float = 300.0
    pairs: int = 4
    """Rounds with and without slow clients."""
    slow_clients: int = 200
    patience_seconds: float = 75.0
    """How long a slow client is watched for being hung up on."""

    @property
    def is_full(self) -> bool:
        """Only a full proof judges rates and growth: in a few seconds they are noise."""
        return self.soak_seconds >= 60

    @property
    def options(self) -> list[str]:
        """For `nexus serve`."""
        return ["--set", f"serve.max_running={self.max_running}"]


@dataclass
class Scenario:
    """One fault and what came of it."""

    title: str
    told: str
    """In a sentence, what was done."""
    claims: list[Claim] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)


def engine_killed(plan: Plan) -> Scenario:
    """`kill -9` of the engine while all streams are open and half of those that run have begun."""
    scenario = Scenario("The engine is killed", f"kill -9 of the engine under {plan.streams} streams.")
    with served(plan.model, engine=plan.engine, options=plan.options) as server:
        one_round(server, plan, seed=1, streams=4)
        before = server.engine()
        assert before is not None
        done, back = asyncio.run(_kill_under_load(server, plan, before))
        settle(server)
        after = one_round(server, plan, seed=3, streams=4)
        scenario.claims = [
            Claim("streams", len(done.ends)),
            Claim("ended whole", done.count("whole")),
            Claim("ended with an error event", done.count("error event")),
            Claim("cut without a word", done.count("broken"), target="≤ 0"),
            Claim("refused although nothing had been said", done.count("refused"), target="≤ 0"),
            Claim("seconds until ready again", back, "s", f"≤ {server.start_seconds + SPARE_SECONDS:.0f}"),
            Claim("seconds that the first start took", server.start_seconds, "s"),
            Claim("streams that end whole afterwards, of 4", after.count("whole"), target="≥ 4"),
            Claim("sequences left in the gateway", server.metric("vllm:num_requests_running"), target="≤ 0"),
            Claim("engine restarts", server.metric("nexus_engine_restarts"), target="≥ 1"),
        ]
        scenario.details = outcomes(done)
    return scenario


async def _kill_under_load(server: Served, plan: Plan, engine: psutil.Process) -> tuple[Burst, float]:
    started = time.perf_counter()
    streams = [Stream() for _ in range(plan.streams)]
    bodies = _bodies(plan, seed=2, count=plan.streams, answer_tokens=plan.answer_tokens * 2)
    tasks = [asyncio.create_task(follow(*pair[:1], server.port, pair[1])) for pair in zip(streams, bodies, strict=True)]
    await until(lambda: sum(stream.events > 1 for stream in streams) >= plan.streams // 4)
    engine.kill()
    killed_at = time.perf_counter()
    await asyncio.to_thread(wait_for_status, server, 503)
    await asyncio.to_thread(wait_for_status, server, 200)
    back = time.perf_counter() - killed_at
    return Burst(time.perf_counter() - started, list(await asyncio.gather(*tasks)), streams), back


def terminated(plan: Plan, *, is_too_long: bool) -> Scenario:
    """SIGTERM under load: answers that fit into the grace time finish, those that do not are told so."""
    grace = (2.0 if plan.is_full else 0.1) if is_too_long else 60.0
    answer = plan.answer_tokens * (6 if is_too_long else 1)
    what = "longer than the grace time" if is_too_long else "that fit into the grace time"
    scenario = Scenario(f"SIGTERM, answers {what}", f"SIGTERM under {plan.streams} streams, {grace:g} s of grace.")
    with served(plan.model, engine=plan.engine, options=[*plan.options, "--drain-seconds", str(grace)]) as server:
        one_round(server, plan, seed=1, streams=4)
        engine = server.engine()
        done, told = asyncio.run(_terminate_under_load(server, plan, answer))
        with contextlib.suppress(Exception):
            server.process.wait(grace + SPARE_SECONDS)
        told["seconds_until_exit"] = time.perf_counter() - told.pop("signalled_at")
        code = server.process.poll()
    whole = done.count("whole")
    in_order = whole + done.count("error event") + done.count("refused")
    scenario.claims = [
        Claim("streams", len(done.ends)),
        Claim("ended whole", whole, target=None if is_too_long else f"≥ {plan.streams}"),
        Claim("ended whole or with a reason", in_order, target=f"≥ {plan.streams}"),
        Claim("cut without a word", done.count("broken"), target="≤ 0"),
        Claim("/ready after the signal", told["ready_status"], target="≥ 503"),
        Claim("a new request's status", told["new_status"], target="≥ 503"),
        Claim("seconds until exit", told["seconds_until_exit"], "s", f"≤ {grace + SPARE_SECONDS:g}"),
        Claim("exit code", code, target="≤ 0"),
        Claim("engines left behind", int(engine is not None and engine.is_running()), target="≤ 0"),
    ]
    scenario.details = outcomes(done) | told
    return scenario


async def _terminate_under_load(server: Served, plan: Plan, answer_tokens: int) -> tuple[Burst, dict[str, Any]]:
    started = time.perf_counter()
    streams = [Stream() for _ in range(plan.streams)]
    bodies = _bodies(plan, seed=5, count=plan.streams, answer_tokens=answer_tokens)
    tasks = [asyncio.create_task(follow(*pair[:1], server.port, pair[1])) for pair in zip(streams, bodies, strict=True)]
    running = plan.streams // 4
    await until(lambda: sum(stream.events > 1 for stream in streams) >= running)
    # Those that have not arrived are no streams yet: a stopping server rightly refuses them.
    await asyncio.to_thread(_until_all_arrived, server, plan.streams, streams)
    server.process.send_signal(signal.SIGTERM)
    told: dict[str, Any] = {"signalled_at": time.perf_counter()}
    ready = await asyncio.to_thread(wait_for_status, server, 503)
    told["ready_status"], told["seconds_until_unready"] = ready, time.perf_counter() - told["signalled_at"]
    told["new_status"] = (await follow(Stream(), server.port, body_of("a", 2))).status
    done = Burst(time.perf_counter() - started, list(await asyncio.gather(*tasks)), streams)
    told["seconds_until_last_stream"] = time.perf_counter() - told["signalled_at"]
    return done, told


def _until_all_arrived(server: Served, count: int, streams: list[Stream]) -> None:
    for _ in range(200):
        held = server.metric("vllm:num_requests_running") + server.metric("vllm:num_requests_waiting")
        if held + sum(stream.ended_at > 0 for stream in streams) >= count:
            return
        time.sleep(POLL_SECONDS)


def slow_clients(plan: Plan) -> Scenario:
    """Clients that say little or read little, beside well-behaved ones; then what they leave behind."""
    count = plan.slow_clients
    told = f"{count} slowloris and half-open connections beside 16 streams; then slow readers, and clients that reset."
    scenario = Scenario("Slow and half-open clients", told)
    with served(plan.model, engine=plan.engine) as server:
        one_round(server, plan, seed=1, streams=4)
        before = sizes(server.gateway)
        ratios, broken = [], 0
        for number in range(plan.pairs):
            rates = {}
            for is_attacked in (True, False) if number % 2 else (False, True):
                with attackers(server.port, count if is_attacked else 0):
                    done = one_round(server, plan, seed=10 + number, streams=16)
                rates[is_attacked] = done.tokens_per_second
                broken += len(done.ends) - done.count("whole")
            ratios.append(rates[True] / rates[False])
        held = hang_up_seconds(server.port, plan.patience_seconds)
        reset_and_stall(server, plan, clients=max(4, count // 10))
        settle(server)
        after = sizes(server.gateway)
        targets = (SLOW_RATIO_TARGET, "≤ 50", HEAD_TARGET_SECONDS, BODY_TARGET_SECONDS)
        ratio_target, memory_target, head_target, body_target = targets if plan.is_full else (None,) * 4
        scenario.claims = [
            median_claim("tokens/s with slow clients ÷ without", ratios, target=ratio_target),
            Claim("well-behaved streams that did not end whole", broken, target="≤ 0"),
            Claim("sequences left in the engine when they have gone", server.metric("vllm:num_requests_running"),
                  target="≤ 0"),
            Claim("descriptors left when they have gone", after["descriptors"] - before["descriptors"], target="≤ 2"),
            Claim("memory more than before", after["rss_mb"] - before["rss_mb"], "MB", memory_target),
            Claim("an unfinished request head is hung up on after", held["head"], "s", head_target),
            Claim("an unfinished request body is hung up on after", held["body"], "s", body_target),
        ]  # fmt: skip
        scenario.details = {
            "ratios": ratios,
            "before": before,
            "after": after,
            "watched_seconds": plan.patience_seconds,
        }
    return scenario


@contextlib.contextmanager
def attackers(port: int, count: int) -> Iterator[None]:
    """Half of them send a head byte by byte, half promise a body that does not come; a thread keeps them going."""
    sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
    for number, one in enumerate(sockets):
        one.sendall(HALF_OPEN if number % 2 else b"POST /v1/completions HTTP/1.1\r\nx-slow: ")
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(1.0):
            for one in sockets[::2]:
                with contextlib.suppress(OSError):
                    one.send(b"a")

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        for one in sockets:
            one.close()


HALF_OPEN = (
    b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{"
)


def hang_up_seconds(port: int, patience_seconds: float) -> dict[str, float | None]:
    """When the server closes a connection whose request does not get finished; None: not while it was watched."""
    asked = {"head": b"POST / HTTP/1.1\r\nx-slow: a", "body": HALF_OPEN}
    with ThreadPoolExecutor(len(asked)) as threads:
        watched = {name: threads.submit(_closed_after, port, text, patience_seconds) for name, text in asked.items()}
    return {name: one.result() for name, one in watched.items()}


def _closed_after(port: int, text: bytes, patience_seconds: float) -> float | None:
    started = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port), timeout=patience_seconds) as one:
        one.sendall(text)
        try:
            while one.recv(4_096):
                pass
        except TimeoutError:
            return None
        except OSError:
            pass  # reset instead of closed
    return time.perf_counter() - started


def reset_and_stall(server: Served, plan: Plan, *, clients: int) -> None:
    """Streams whose client reads nothing, then resets the connection."""
    from crowd import request_bytes

    sockets = []
    for body in _bodies(plan, seed=77, count=clients, answer_tokens=plan.answer_tokens * 2):
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        one.connect(("127.0.0.1", server.port))
        one.sendall(request_bytes(body))
        sockets.append(one)
    one_round(server, plan, seed=78, streams=4)  # the others are served meanwhile
    for one in sockets:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        one.close()


def swapped(plan: Plan) -> Scenario:
    """SIGHUP while streams come and go: a new engine takes over, and no answer is lost."""
    scenario = Scenario("The model is swapped", "SIGHUP under 16 clients that ask again and again.")
    with served(plan.model, engine=plan.engine, options=["--drain-seconds", "60"]) as server:
        one_round(server, plan, seed=1, streams=4)
        old = server.engine()
        assert old is not None
        ends, seconds = asyncio.run(_swap_under_load(server, plan, old))
        settle(server)
        new = server.engine()
    failed = [end for end in ends if end.kind != "whole"]
    scenario.claims = [
        Claim("answers during the swap", len(ends), target="≥ 16"),
        Claim("answers that did not end whole", len(failed), target="≤ 0"),
        Claim("seconds until the old engine is gone", seconds, "s", "≤ 240"),
        Claim("another engine answers now", int(new is not None and new.pid != old.pid), target="≥ 1"),
        Claim("longest wait for a first token", max(end.first_seconds or 0 for end in ends), "s"),
    ]
    return scenario


async def _swap_under_load(server: Served, plan: Plan, old: psutil.Process) -> tuple[list[Any], float | None]:
    ends: list[Any] = []
    is_over = False

    async def client(number: int) -> None:
        turn = 0
        while not is_over:
            turn += 1
            (body,) = _bodies(plan, seed=1_000 * number + turn, count=1, answer_tokens=plan.answer_tokens // 2)
            ends.append(await follow(Stream(), server.port, body))

    clients = [asyncio.create_task(client(number)) for number in range(16)]
    await until(lambda: len(ends) >= 16)
    os.kill(server.process.pid, signal.SIGHUP)
    started = time.perf_counter()
    gone = await until(lambda: not old.is_running() or old.status() == psutil.STATUS_ZOMBIE, seconds=240)
    seconds = time.perf_counter() - started
    await asyncio.sleep(1.0)
    is_over = True
    await asyncio.gather(*clients)
    return ends, seconds if gone else None


def one_round(server: Served, plan: Plan, *, seed: int, streams: int) -> Burst:
    """A burst of well-behaved streams."""
    return asyncio.run(burst(server.port, _bodies(plan, seed=seed, count=streams, answer_tokens=plan.answer_tokens)))


def outcomes(done: Burst) -> dict[str, Any]:
    """How streams ended, counted; and their codes."""
    codes = [end.code for end in done.ends if end.code]
    return {
        "seconds": done.seconds,
        "kinds": {kind: done.count(kind) for kind in ("whole", "error event", "refused", "broken")},  # type: ignore[arg-type]
        "codes": {code: codes.count(code) for code in sorted(set(codes))},
    }


async def until(claim: Callable[[], bool], *, seconds: float = 300) -> bool:
    """Waits for it to come true; False where it did not."""
    deadline = time.monotonic() + seconds
    while not claim():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(POLL_SECONDS)
    return True


def wait_for_status(server: Served, status: int, *, seconds: float = 120) -> int:
    """The status of /ready once it is that one; the last one seen where it never is."""
    deadline = time.monotonic() + seconds
    while (found := server.status()) != status and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return found


def settle(server: Served, *, seconds: float = 60) -> None:
    """Waits until nothing is running."""
    deadline = time.monotonic() + seconds
    while server.metric("vllm:num_requests_running") and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    time.sleep(0.5)


def _bodies(plan: Plan, *, seed: int, count: int, answer_tokens: int) -> list[dict[str, Any]]:
    asked = prompts(seed, count=count, tokens=plan.prompt_tokens, vocabulary=plan.vocabulary)
    return [body_of(prompt, answer_tokens) for prompt in asked]
