"""A `Completer` behind an OpenAI-compatible address: our own server, vLLM, or a commercial one. A named edge.

Conversations go to `/v1/chat/completions`, running text to `/v1/completions`, both streamed, for the time to the first
token. Likelihoods are read off a prompt that the server repeats with its log probabilities (`echo` and `logprobs`),
which OpenAI's current models no longer give; vLLM and `nexus serve` do. What goes wrong for one item is told in its
answer; what would go wrong for all raises.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal, TypeVar, cast
from urllib.parse import urlsplit

import httpx

from nexus_llm.errors import EvaluationError, UsageError
from nexus_llm.evaluate.http_stream import FIRST_PIECE_AT, joined
from nexus_llm.evaluate.in_process import cut_at
from nexus_llm.records import Answer, CompleterFacts, Continuation, Likelihood, Question, ToolCall

Given = TypeVar("Given")
Got = TypeVar("Got")
_BUSY = (429, 500, 502, 503, 504)
_NOBODY_MAY = (401, 403, 404)
_MOST_STOPS = 4  # OpenAI's limit, API reference 2026-11; the answer is cut here at all of them anyway
_SHOWN = 200  # characters of a server's own words in an error


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """How patiently a server is asked."""

    concurrency: int = 8
    """Requests at once."""
    timeout_seconds: float = 300.0
    """Without a sign of the server."""
    attempts: int = 5
    """Of one request, where the server is busy, breaks or stays silent."""
    longest_wait_seconds: float = 60.0
    """Between two attempts, whatever `retry-after` asks for."""


class _ItemError(Exception):
    """One item has no answer; its text says why."""


class HttpCompleter:
    """Asks one model of one server."""

    def __init__(
        self,
        client: httpx.Client,
        facts: CompleterFacts,
        limits: HttpLimits = HttpLimits(),
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`client` has the address up to `/v1/` as its base and the key in its headers."""
        self._client, self._facts, self._limits, self._sleep = client, facts, limits, sleep

    def describe(self) -> CompleterFacts:
        return self._facts

    def generate(self, questions: Sequence[Question]) -> Iterator[Answer]:
        """One answer a question, as they come. `seconds` is from the request to the whole answer."""
        at_once = min(self._limits.concurrency, len(questions))
        return self._in_parallel(lambda one: replace(self._answer(one), at_once=at_once), questions)

    def log_likelihood(self, continuations: Sequence[Continuation]) -> Iterator[Likelihood]:
        """One likelihood a continuation, as they come."""
        return self._in_parallel(self._likelihood, continuations)

    def _in_parallel(self, ask: Callable[[Given], Got], given: Sequence[Given]) -> Iterator[Got]:
        """What is got, as it comes: a silent request holds back no other's answer."""
        pool = ThreadPoolExecutor(self._limits.concurrency)
        try:
            yield from (done.result() for done in as_completed([pool.submit(ask, one) for one in given]))
        finally:
            pool.shutdown(cancel_futures=True)

    def _answer(self, question: Question) -> Answer:
        started = time.monotonic()
        body: dict[str, Any] = {
            "model": self._facts.model,
            "max_tokens": question.max_new_tokens,
            "temperature": question.temperature,
            "seed": question.seed,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if question.stop:
            body["stop"] = list(question.stop[:_MOST_STOPS])
        if question.tools:
            body["tools"] = list(question.tools)
        try:
            if question.messages:
                found = self._ask("chat/completions", body | {"messages": list(question.messages)})
            else:
                found = self._ask("completions", body | {"prompt": question.text})
            with _no_completion():
                return _answer(question, found, started=started)
        except _ItemError as error:
            seconds = time.monotonic() - started
            return Answer(question.id, "", "error", seconds=seconds, error=str(error))

    def _likelihood(self, one: Continuation) -> Likelihood:
        bare = one.context.rstrip()  # as in this process: spaces at the end belong to the continuation
        text = one.context[len(bare) :] + one.text
        body = {"model": self._facts.model, "prompt": bare + text, "max_tokens": 1, "temperature": 0}
        try:
            if not bare:
                raise _ItemError("the context is empty, and the server cannot be told where the text begins")
            found = self._ask("completions", body | {"echo": True, "logprobs": 1})
            with _no_completion():
                values, is_greedy = _behind(found, len(text))
        except _ItemError as error:
            return Likelihood(one.id, math.nan, 0, False, error=str(error))
        return Likelihood(one.id, sum(values), tokens=len(values), is_greedy=is_greedy)

    def _ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The server's document.

        Raises:
            _ItemError: it has none for this item.
            EvaluationError: it will have none for any.
        """
        why = ""
        for attempt in range(self._limits.attempts):
            wait = 2.0**attempt
            try:
                with self._client.stream("POST", path, json=body) as response:
                    if response.status_code not in _BUSY:
                        return self._document(path, body, response)
                    why, wait = f"status {response.status_code}", _retry_after(response) or wait
            except httpx.TimeoutException:
                why = f"no sign within {self._limits.timeout_seconds:g} s"
            except httpx.TransportError as error:
                if attempt + 1 == self._limits.attempts:
                    raise _nobody(self._client, error) from error
            if attempt + 1 < self._limits.attempts:
                self._sleep(min(wait, self._limits.longest_wait_seconds))
        raise _ItemError(f"{why}, {self._limits.attempts} times")

    def _document(self, path: str, body: dict[str, Any], response: httpx.Response) -> dict[str, Any]:
        if response.is_success and "text/event-stream" in response.headers.get("content-type", ""):
            try:
                return joined(response.iter_lines(), now=time.monotonic)
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise _ItemError(f"the answer broke: {str(error)[:_SHOWN]}") from error
        response.read()
        words = _words(response)
        if response.status_code in _NOBODY_MAY:  # in words that may repeat the key
            raise EvaluationError(
                f"{response.url} refuses with status {response.status_code}",
                fix="check the address, the model's name and the key's variable: --model, --key-variable",
            )
        if response.is_error:
            if "max_completion_tokens" in words and "max_tokens" in body:  # what OpenAI's newer models want
                renamed = {name: value for name, value in body.items() if name != "max_tokens"}
                return self._ask(path, renamed | {"max_completion_tokens": body["max_tokens"]})
            if "stream_options" in words and "stream_options" in body:  # then the tokens stay uncounted
                return self._ask(path, {name: value for name, value in body.items() if name != "stream_options"})
            if body.get("echo") and ("logprobs" in words or "echo" in words):
                raise _no_log_probabilities(words)
            raise _ItemError(f"status {response.status_code}: {words}")
        with _no_completion():
            found = response.json()
            found["choices"][0]
        return cast(dict[str, Any], found)


@contextlib.contextmanager
def _no_completion() -> Iterator[None]:
    """What breaks while a server's document is read is told of its item."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise _ItemError("the answer is no completion") from error


@contextlib.contextmanager
def http_completer(
    url: str,
    *,
    model: str | None = None,
    key: str | None = None,
    limits: HttpLimits = HttpLimits(),
    weights_sha256: str | None = None,
    transport: httpx.BaseTransport | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[HttpCompleter]:
    """A completer for a server, with or without `/v1` in its address; `model` is its first where none is named.
    `weights_sha256` is for who knows what the server serves.

    Raises:
        UsageError: the address holds a password.
        EvaluationError: nobody answers there, or it has no such model.
    """
    if "@" in urlsplit(url).netloc:
        raise UsageError("the address has a name or password in it", fix="put the key into an environment variable")
    base = url.rstrip("/").removesuffix("/v1") + "/v1/"
    headers = {"authorization": f"Bearer {key}"} if key else {}
    timeout = httpx.Timeout(limits.timeout_seconds, connect=10.0)
    with httpx.Client(base_url=base, headers=headers, timeout=timeout, transport=transport) as client:
        # A server of our own has another port each time, and its weights tell it from others.
        facts = replace(_facts(client, model), weights_sha256=weights_sha256, address=None if weights_sha256 else base)
        yield HttpCompleter(client, facts, limits, sleep=sleep)


def _facts(client: httpx.Client, model: str | None) -> CompleterFacts:
    try:
        response = client.get("models")
        response.raise_for_status()
        listed = {str(one["id"]): one for one in response.json()["data"]}
    except httpx.TransportError as error:
        raise _nobody(client, error) from error
    except (httpx.HTTPStatusError, ValueError, LookupError, TypeError) as error:
        raise EvaluationError(
            f"{client.base_url}models lists no models: {error}", fix="check the address and the key's variable"
        ) from error
    name = model or next(iter(listed), None)
    if name is None or (listed and name not in listed):
        raise EvaluationError(
            f"{client.base_url} has no model {name}", fix=f"--model with one of: {', '.join(sorted(listed)[:10])}"
        )
    context = listed.get(name, {}).get("max_model_len")  # vLLM says it, and so do we
    return CompleterFacts(model=name, road="openai", context_tokens=int(context) if context else None)


def _answer(question: Question, found: dict[str, Any], *, started: float) -> Answer:
    choice, usage = found["choices"][0], found.get("usage") or {}
    message = choice.get("message") or {}
    text, was_stopped = cut_at(_whole(str(message.get("content") or choice.get("text") or "")), question.stop)
    calls = tuple(
        cast(
            ToolCall,
            {
                "type": "function",
                "function": {
                    name: _whole(value) if isinstance(value, str) else value for name, value in one["function"].items()
                },
                "id": _whole(str(one.get("id", ""))),
            },
        )
        for one in message.get("tool_calls") or ()
    )
    first = found.get(FIRST_PIECE_AT)
    reason: Literal["stop", "length", "tool_calls"] = "length" if choice.get("finish_reason") == "length" else "stop"
    return Answer(
        question.id,
        text,
        "tool_calls" if calls else "stop" if was_stopped else reason,
        calls,
        prompt_tokens=usage.get("prompt_tokens"),
        tokens=usage.get("completion_tokens"),
        seconds=time.monotonic() - started,
        first_token_seconds=None if first is None else first - started,
    )


def _whole(text: str) -> str:
    """The text with the halves of a sign joined that came in two pieces; a half alone, which no file could hold, is
    replaced."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _behind(found: dict[str, Any], characters: int) -> tuple[list[float], bool]:
    """Log probabilities of the prompt's tokens that make its last `characters`, and whether each is the likeliest.

    Raises:
        _ItemError: the server tells too little, or its tokens do not fall on that border.
        EvaluationError: it gives no log probabilities at all.
    """
    told = found["choices"][0].get("logprobs")
    if not told or not told.get("token_logprobs"):
        raise _no_log_probabilities("the answer has none")
    count = (found.get("usage") or {}).get("prompt_tokens")
    values, tokens, offsets, tops = (
        told.get(name) or [] for name in ("token_logprobs", "tokens", "text_offset", "top_logprobs")
    )
    if not isinstance(count, int) or not len(values) == len(tokens) == len(offsets) == len(tops):
        raise _ItemError("usage, tokens, their places or their alternatives are missing beside the log probabilities")
    if not 0 <= len(values) - count <= 1:  # one more is the token that was generated
        raise _ItemError(f"usage counts {count} tokens in the prompt, the log probabilities are {len(values)}")
    end = offsets[count] if count < len(offsets) else offsets[-1] + len(tokens[-1])
    if (border := end - characters) not in offsets[:count]:
        raise _ItemError("no token begins where the continuation does: the server cuts the text into other tokens")
    first = offsets.index(border)
    behind = values[first:count]
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in behind):
        raise _ItemError(f"the log probabilities of the continuation are {behind}")
    likeliest = all(
        value >= max(top.values(), default=math.inf)
        for value, top in zip(behind, tops[first:count], strict=True)
        if top is not None
    )
    return [float(value) for value in behind], likeliest


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds that the server asks to wait, from a number or a date; None where it says nothing."""
    said = response.headers.get("retry-after")
    if not said:
        return None
    try:
        return max(0.0, float(said))
    except ValueError:
        try:
            return max(0.0, (parsedate_to_datetime(said) - datetime.now(UTC)).total_seconds())
        except (ValueError, TypeError):
            return None


def _words(response: httpx.Response) -> str:
    """What the server says about an error, shortened."""
    try:
        told = response.json()["error"]
        told = told["message"] if isinstance(told, dict) else told
    except (ValueError, LookupError, TypeError):
        told = response.text
    return " ".join(str(told).split())[:_SHOWN]


def _nobody(client: httpx.Client, error: httpx.TransportError) -> EvaluationError:
    return EvaluationError(
        f"nobody answers at {client.base_url} ({type(error).__name__}: {error})",
        fix="start the server: nexus serve RUN",
    )


def _no_log_probabilities(words: str) -> EvaluationError:
    return EvaluationError(
        f"the server gives no log probabilities of a prompt: {words}",
        fix="choose tasks that are answered in words (gsm8k, ifeval), or a server that does: nexus serve, vLLM",
    )
