"""A load test of any OpenAI-compatible server: streamed chats, a fixed number at once, every prompt different.

Prompts are random common words, as many as the server's own count of prompt tokens asks for, so that neither a
prefix cache nor another tokenizer changes what is measured.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from nexus_llm.errors import ServingError
from nexus_llm.serve.client import api_url, read_event

# Short words that common vocabularies hold as one token each, with the blank before them.
_WORDS = """
time year people way day man thing woman life child world school state family student group country problem hand part
place case week company system program question work government number night point home water room mother area money
story fact month lot right study book eye job word business issue side kind head house
"""
REQUEST_SECONDS = 600.0
CALIBRATION_WORDS = (16, 80)


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """What to send."""

    url: str
    model: str
    concurrency: int
    requests: int
    input_tokens: int
    output_tokens: int
    api_key: str = "none"
    seed: int = 0


@dataclass(slots=True)
class RequestTimes:
    """One request, in seconds since the start of the test."""

    started: float
    arrivals: list[float] = field(default_factory=list)
    """When each piece of text came."""
    finished: float = 0.0
    output_tokens: int = 0
    error: str | None = None


async def run_bench(plan: BenchPlan, *, on_finished: Callable[[RequestTimes], None]) -> dict[str, Any]:
    """The load test's result as a JSON document; `on_finished` hears of each request.

    Raises:
        ServingError: the server does not answer even one request.
    """
    limits = httpx.Limits(max_connections=plan.concurrency, max_keepalive_connections=plan.concurrency)
    headers = {"authorization": f"Bearer {plan.api_key}"}
    async with httpx.AsyncClient(timeout=REQUEST_SECONDS, limits=limits, headers=headers) as client:
        extras = await _accepted_extras(client, plan)
        words = await _prompt_words(client, plan, extras)
        prompts = iter([_prompt(words, seed=plan.seed * 1_000_003 + number) for number in range(plan.requests)])
        done: list[RequestTimes] = []
        started = time.perf_counter()

        async def worker() -> None:
            for prompt in prompts:
                times = await _one(client, plan, prompt, extras, started=started)
                done.append(times)
                on_finished(times)

        await asyncio.gather(*(worker() for _ in range(min(plan.concurrency, plan.requests))))
        return summary(done, seconds=time.perf_counter() - started)


def summary(done: Sequence[RequestTimes], *, seconds: float) -> dict[str, Any]:
    """Rates and percentiles over the requests that ended well; the others are counted by kind."""
    good = [times for times in done if times.error is None]
    gaps = [after - before for times in good for before, after in zip(times.arrivals, times.arrivals[1:], strict=False)]
    return {
        "output_tokens_per_second": round(sum(times.output_tokens for times in good) / seconds, 2),
        "requests_per_second": round(len(good) / seconds, 3),
        "ttft_seconds": percentiles([times.arrivals[0] - times.started for times in good if times.arrivals]),
        "inter_token_seconds": percentiles(gaps),
        "e2e_seconds": percentiles([times.finished - times.started for times in good]),
        "errors": dict(sorted(Counter(times.error for times in done if times.error is not None).items())),
    }


def percentiles(values: Sequence[float]) -> dict[str, float | None]:
    """50th, 95th and 99th percentile (nearest rank); None where there are no values.

    >>> percentiles([3.0, 1.0, 2.0])
    {'p50': 2.0, 'p95': 3.0, 'p99': 3.0}
    """
    ordered = sorted(values)

    def rank(share: float) -> float | None:
        if not ordered:
            return None
        return round(ordered[max(0, -int(-share * len(ordered) // 1) - 1)], 4)

    return {"p50": rank(0.50), "p95": rank(0.95), "p99": rank(0.99)}


async def _accepted_extras(client: httpx.AsyncClient, plan: BenchPlan) -> dict[str, Any]:
    """vLLM's `ignore_eos` makes every answer equally long; a server that refuses it is measured without."""
    wanted = {"ignore_eos": True}
    answer = await _ask(client, plan, "hello", wanted)
    return wanted if answer.status_code == 200 else {}


async def _prompt_words(client: httpx.AsyncClient, plan: BenchPlan, extras: dict[str, Any]) -> int:
    """How many words make `input_tokens`, by two probes: the chat template adds some, a word is about one."""
    counts = []
    for words in CALIBRATION_WORDS:
        answer = await _ask(client, plan, _prompt(words, seed=-words), extras)
        if answer.status_code != 200:
            raise ServingError(
                f"{plan.url} answers {answer.status_code} to a chat of {words} words",
                fix="check the address and --model; nexus chat shows the server's own message",
            )
        usage = (answer.json().get("usage") or {}).get("prompt_tokens")
        if usage is None:
            return plan.input_tokens
        counts.append(int(usage))
    (few, many), (few_tokens, many_tokens) = CALIBRATION_WORDS, counts
    tokens_per_word = max((many_tokens - few_tokens) / (many - few), 0.1)
    return max(1, round(few + (plan.input_tokens - few_tokens) / tokens_per_word))


async def _ask(client: httpx.AsyncClient, plan: BenchPlan, prompt: str, extras: dict[str, Any]) -> httpx.Response:
    body = _body(plan, prompt, extras) | {"stream": False, "max_tokens": 1}
    body.pop("stream_options")
    try:
        return await client.post(f"{api_url(plan.url)}/chat/completions", json=body)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ServingError(f"nothing answers at {plan.url}", fix="start one with: nexus serve RUN") from error


async def _one(
    client: httpx.AsyncClient, plan: BenchPlan, prompt: str, extras: dict[str, Any], *, started: float
) -> RequestTimes:
    times = RequestTimes(time.perf_counter() - started)
    counted = None
    try:
        body = _body(plan, prompt, extras)
        async with client.stream("POST", f"{api_url(plan.url)}/chat/completions", json=body) as answer:
            if answer.status_code != 200:
                times.error = f"http_{answer.status_code}"
                return times
            async for line in answer.aiter_lines():
                event = read_event(line)
                if event is None:
                    continue
                if event.error is not None:
                    times.error = "broken_off"
                if event.text:
                    times.arrivals.append(time.perf_counter() - started)
                counted = event.completion_tokens or counted
    except (httpx.HTTPError, json.JSONDecodeError) as error:
        times.error = type(error).__name__
    times.output_tokens = len(times.arrivals) if counted is None else counted
    times.finished = time.perf_counter() - started
    return times


def _body(plan: BenchPlan, prompt: str, extras: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": plan.model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": plan.output_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
        **extras,
    }


def _prompt(words: int, *, seed: int) -> str:
    return " ".join(random.Random(seed).choices(_WORDS.split(), k=words))  # noqa: S311 - load, not secrets
