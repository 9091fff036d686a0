"""What the running server makes of the package: the ids of conversations, and how likely it finds held-out text."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import httpx

from nexus_llm.chat import ChatTokenizer
from nexus_llm.chat.template import Tools
from nexus_llm.errors import PackagingError
from nexus_llm.package.divergence import Float32
from nexus_llm.package.equivalence import Rows, judged
from nexus_llm.package.template_parity import compare, golden_conversations, trained_prompt
from nexus_llm.recipe.package import ServedLimits
from nexus_llm.records import Message

_SECONDS = 300.0  # a row of 128 tokens takes a small model a second; a large one on a busy machine, minutes


class ServedModel:
    """Our own server at an address, asked as any client asks it."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=_SECONDS)
        self.name = str(self._ask("GET", "/v1/models")["data"][0]["id"])

    def token_ids(self, messages: list[Message], tools: Tools) -> list[int] | None:
        """The ids of a conversation up to the answer; None where the server refuses it."""
        asked = {"messages": [_on_the_wire(one) for one in messages], "tools": tools}
        answer = self._ask("POST", "/tokenize", asked, refusals=(400,))
        return None if answer is None else list(answer["tokens"])

    def log_probabilities(self, token_ids: list[int]) -> list[float]:
        """Of a text's tokens from the second on."""
        asked = {"prompt": token_ids, "echo": True, "logprobs": 0, "max_tokens": 0}
        return list(self._ask("POST", "/v1/completions", asked)["choices"][0]["logprobs"]["token_logprobs"][1:])

    def next_text(self, token_ids: list[int]) -> str:
        """The text of the token that it takes for the likeliest after a text."""
        asked = {"prompt": token_ids, "max_tokens": 1, "temperature": 0, "ignore_eos": True}
        return str(self._ask("POST", "/v1/completions", asked)["choices"][0]["text"])

    def __enter__(self) -> ServedModel:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None, refusals: Sequence[int] = ()) -> Any:
        document = None if body is None else {"model": self.name, **body}
        answer = self._client.request(method, path, json=document)
        if answer.status_code in refusals:
            return None
        if answer.status_code != 200:
            raise PackagingError(
                f"the server answers {path} with {answer.status_code}: {answer.text[:200]}",
                fix="look at what it says; nexus serve the package's folder to ask it yourself",
            )
        return answer.json()


def check_served_template(server: ServedModel, expected: ChatTokenizer) -> int:
    """How many golden conversations the server reads as training did.

    Raises:
        PackagingError: it reads one in another way; conversation and position are named.
    """
    conversations = golden_conversations() if expected.template else []
    for name, messages, tools in conversations:
        compare(
            "the running server", name, trained_prompt(expected, messages, tools), server.token_ids(messages, tools)
        )
    return len(conversations)


def check_served_text(
    server: ServedModel, reference: Sequence[Float32], rows: Rows, tokenizer: ChatTokenizer, limits: ServedLimits
) -> dict[str, Any]:
    """The server's log-probabilities of the rows' tokens, and its next token behind each row, beside the reference's.

    A next token goes through the engine's batching and cache, as every answer does; the server tells its text.

    Raises:
        PackagingError: it lies beyond a limit.
    """
    errors: list[float] = []
    losses = reference_losses = 0.0
    same = 0
    for row, expected_TV in zip(rows, reference, strict=True):
        found = server.log_probabilities(row[:-1])
        known = [float(expected_TV[place, token]) for place, token in enumerate(row[1:-1])]
        errors += [abs(after - before) for before, after in zip(known, found, strict=True)]
        losses, reference_losses = losses - sum(found), reference_losses - sum(known)
        same += server.next_text(row[:-1]) == tokenizer.decode([int(expected_TV[-1].argmax())])
    error, share = sum(errors) / len(errors), same / len(rows)
    change = math.exp((losses - reference_losses) / len(errors)) - 1
    return {
        "rows": len(rows),
        **judged(
            "served",
            {
                "mean_log_probability_error": (error, error, limits.max_mean_log_probability_error, "at most"),
                "next_token_share": (share, share, limits.min_next_token_share, "at least"),
                "perplexity_change_share": (change, abs(change), limits.max_perplexity_change_share, "at most"),
            },
            about=f"{len(errors):,} held-out tokens",
        ),
    }


def _on_the_wire(message: Message) -> dict[str, Any]:
    """A message as OpenAI's API takes it: arguments are JSON text there."""
    sent: dict[str, Any] = dict(message)
    sent["tool_calls"] = [
        {
            **call,
            "function": {
                **call["function"],
                "arguments": json.dumps(call["function"]["arguments"], ensure_ascii=False),
            },
        }
        for call in message.get("tool_calls", [])
    ] or None
    return {name: value for name, value in sent.items() if value is not None}
