"""What a client of any OpenAI-compatible server needs: its models, and the events of a streamed answer."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from nexus_llm.errors import ServingError
from nexus_llm.records import Message


@dataclass(frozen=True, slots=True)
class StreamEvent:
    text: str = ""
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    error: str | None = None
    """The server's message where it broke off."""


def api_url(url: str) -> str:
    """The address below which `/models` lies, with or without `/v1` in what was given.

    >>> api_url("http://127.0.0.1:8000"), api_url("http://host/v1/")
    ('http://127.0.0.1:8000/v1', 'http://host/v1')
    """
    trimmed = url.rstrip("/")
    return trimmed if trimmed.endswith("/v1") else f"{trimmed}/v1"


def first_model(client: httpx.Client, url: str) -> str:
    """The first model that the server names.

    Raises:
        ServingError: nothing answers there, or not in OpenAI's way.
    """
    place = f"{api_url(url)}/models"
    try:
        answer = client.get(place)
        answer.raise_for_status()
        return str(answer.json()["data"][0]["id"])
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        fix = "set OPENAI_API_KEY to a key of this server" if status == 401 else "check the address, or give --model"
        raise ServingError(f"{place} answers {status}", fix=fix) from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ServingError(f"nothing answers at {url}", fix="start one with: nexus serve RUN") from error
    except (ValueError, LookupError, TypeError) as error:
        raise ServingError(f"{place} does not list models as OpenAI's API does", fix="give --model") from error


def read_event(line: str) -> StreamEvent | None:
    """What one line of a stream says; None for lines that say nothing, and for the end.

    >>> read_event('data: {"choices":[{"delta":{"content":"Hi"},"finish_reason":null}]}').text
    'Hi'
    """
    if not line.startswith("data:") or line.endswith("[DONE]"):
        return None
    event: dict[str, Any] = json.loads(line[5:])
    if "error" in event:
        return StreamEvent(error=str(event["error"].get("message", "error")))
    usage = event.get("usage") or {}
    choice = (event.get("choices") or [{}])[0]
    return StreamEvent(
        text=(choice.get("delta") or {}).get("content") or "",
        finish_reason=choice.get("finish_reason"),
        prompt_tokens=usage.get("prompt_tokens"),
        completion_tokens=usage.get("completion_tokens"),
    )


def stream_chat(
    client: httpx.Client, url: str, *, model: str, messages: Sequence[Message], options: dict[str, Any]
) -> Generator[StreamEvent, None, None]:
    """The events of one streamed answer.

    Raises:
        ServingError: the server refuses, breaks off, or does not answer.
    """
    body = {
        "model": model,
        "messages": list(messages),
        "stream": True,
        "stream_options": {"include_usage": True},
        **options,
    }
    try:
        with client.stream("POST", f"{api_url(url)}/chat/completions", json=body) as answer:
            if answer.status_code != 200:
                answer.read()
                raise ServingError(error_message(answer), fix="change the request, or try again later")
            for line in answer.iter_lines():
                event = read_event(line)
                if event is not None and event.error is not None:
                    raise ServingError(f"the server broke off: {event.error}", fix="ask again")
                if event is not None:
                    yield event
    except httpx.HTTPError as error:
        raise ServingError(f"{url} does not answer ({type(error).__name__})", fix="is the server running?") from error


def error_message(answer: httpx.Response) -> str:
    """The server's own words where it uses OpenAI's error shape, else its status."""
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return f"the server answers {answer.status_code}"
