"""One streamed chat over HTTP, and every way in which it can end.

aiohttp, because its parser is compiled: 25,000 streamed tokens a CPU second where httpx reads 11,000 (64 events an
answer, 32 streams, November 2026).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from nexus_llm.errors import ServingError
from nexus_llm.serve.bench.plan import Arrival, BenchPlan
from nexus_llm.serve.bench.prompts import CALIBRATION_WORDS, Prompts, WordCount
from nexus_llm.serve.bench.records import UNFINISHED, RequestTimes
from nexus_llm.serve.bench.stream import BadStreamError, ChatStream
from nexus_llm.serve.client import api_url

RETRIED = (429, 503)
MAX_RETRIES = 10
MAX_PAUSE_SECONDS = 60.0
KEEP_ALIVE_SECONDS = 3.0  # below uvicorn's 5: a server that hangs up an idle connection is no error of a request
PROBE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Server:
    session: aiohttp.ClientSession
    plan: BenchPlan
    extras: dict[str, Any]
    """Fields that it was found to accept."""

    @property
    def place(self) -> str:
        return f"{api_url(self.plan.url)}/chat/completions"

    def body(self, prompt: str, output_tokens: int) -> bytes:
        return orjson.dumps(_body(self.plan, prompt, output_tokens) | self.extras)


def client_session(plan: BenchPlan) -> aiohttp.ClientSession:
    """A session without bounds of its own on connections: the loops bound what is in flight."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS),
        headers={
            "authorization": f"Bearer {plan.api_key}",
            "content-type": "application/json",
            "accept-encoding": "identity",
        },
        timeout=aiohttp.ClientTimeout(total=None),  # `attempt` has the one clock
    )


async def get_to_know(session: aiohttp.ClientSession, plan: BenchPlan) -> tuple[Server, WordCount]:
    """The server with the extra fields that it accepts, and how many words make how many of its tokens.

    Raises:
        ServingError: nothing answers, or it refuses a plain chat.
    """
    server = Server(session, plan, {})
    # vLLM's `ignore_eos` makes every answer as long as asked; a server that refuses it is measured without.
    wanted = {"ignore_eos": True}
    status, _ = await _probe(server, "hello", wanted)
    extras = wanted if status == 200 else {}
    counts, texts = [], Prompts(WordCount(), seed=plan.seed - 1)
    for words in CALIBRATION_WORDS:
        status, answer = await _probe(server, texts.text(0, Arrival(0.0, words, 1)), extras)
        if status != 200:
            raise ServingError(
                f"{plan.url} answers {status} to a chat of {words} words",
                fix="check the address, --model and $OPENAI_API_KEY; nexus chat shows the server's own message",
            )
        usage = answer.get("usage") if isinstance(answer, dict) else None
        tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
        if isinstance(tokens, int):
            counts.append(tokens)
    known = len(counts) == len(CALIBRATION_WORDS)
    return Server(session, plan, extras), WordCount.measured(*counts) if known else WordCount()


async def attempt(server: Server, body: bytes, times: RequestTimes, *, now: Callable[[], float]) -> None:
    """Sends one request and fills in `times`. Cancelled, it leaves `times` complete as `unfinished`."""
    try:
        async with asyncio.timeout(server.plan.timeout_seconds):
            while (pause := await _once(server, body, times, now)) is not None:
                times.retries += 1
                await asyncio.sleep(pause)
    except TimeoutError:
        times.error = "timeout"
    except asyncio.CancelledError:
        times.error = UNFINISHED
        raise
    except BadStreamError:
        times.error = "bad_stream"
    except (aiohttp.ClientError, OSError):
        times.error = "connection"
    finally:
        times.ended = now()


async def _once(server: Server, body: bytes, times: RequestTimes, now: Callable[[], float]) -> float | None:
    """Seconds to wait before asking again; None where this was the end, good or bad."""
    async with server.session.post(server.place, data=body) as answer:
        if answer.status != 200:
            if server.plan.retry and answer.status in RETRIED and times.retries < MAX_RETRIES:
                return _pause_seconds(answer.headers.get("retry-after"))
            times.error = f"http_{answer.status}"
            return None
        stream = ChatStream()
        if answer.content_type != "text/event-stream":
            raise BadStreamError(answer.content_type)
        try:
            async for data in answer.content.iter_any():
                pieces = stream.feed(data)
                if pieces:
                    moment = now()
                    for _ in range(pieces):
                        times.arrivals.append(moment)
        except (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError):
            # Not every server closes well: after its last word a broken connection breaks nothing. A stream that
            # breaks before its first word was answered with 200 all the same: it was broken off too.
            times.error = None if stream.has_ended else "broken_off"
        times.output_tokens, times.input_tokens = stream.completion_tokens, stream.prompt_tokens
        if stream.error is not None or not stream.has_ended:
            times.error = "broken_off"
    return None


def _pause_seconds(retry_after: str | None) -> float:
    """A server that names a date, or nothing, is asked again after a second."""
    try:
        return min(max(float(retry_after or 1.0), 0.0), MAX_PAUSE_SECONDS)
    except ValueError:
        return 1.0


async def _probe(server: Server, prompt: str, extras: dict[str, Any]) -> tuple[int, Any]:
    body = _body(server.plan, prompt, 1) | extras | {"stream": False}
    del body["stream_options"]
    try:
        async with server.session.post(
            server.place, data=orjson.dumps(body), timeout=aiohttp.ClientTimeout(total=PROBE_SECONDS)
        ) as answer:
            text = await answer.read()
            return answer.status, orjson.loads(text) if answer.status == 200 else None
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise ServingError(f"nothing answers at {server.plan.url}", fix="start one with: nexus serve RUN") from error
    except ValueError as error:
        raise ServingError(
            f"{server.place} answers with something that is no JSON",
            fix="check the address: it must be an OpenAI API's",
        ) from error


def _body(plan: BenchPlan, prompt: str, output_tokens: int) -> dict[str, Any]:
    return {
        "model": plan.model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": output_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
