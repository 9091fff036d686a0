"""Answers as OpenAI's Responses API words them.

Source: platform.openai.com, API reference, Responses and its streaming events (read November 2026).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

from nexus_llm.serve.answers import Usage, WholeChoice
from nexus_llm.serve.api_errors import ApiError
from nexus_llm.serve.dialects.events import compact, event
from nexus_llm.serve.dialects.openai_responses_body import ResponsesRequest
from nexus_llm.serve.generation import ChoiceDelta
from nexus_llm.serve.model_folder import ServedModel


class ResponseWriter:
    """Writes one response, whole or as events that are numbered from 0."""

    def __init__(self, request: ResponsesRequest, *, model: ServedModel) -> None:
        self._head = _head(request, model)
        self._events = 0
        self._text = ""
        self._finish_reason = ""
        self._item_id = f"msg_{uuid.uuid4().hex}"
        self._place = {"item_id": self._item_id, "output_index": 0, "content_index": 0}

    def whole(self, choices: Sequence[WholeChoice], usage: Usage) -> bytes:
        self._text, self._finish_reason = choices[0].text, choices[0].finish_reason
        return compact(self._finished(usage)).encode()

    def opening(self, choice_count: int) -> bytes:  # noqa: ARG002
        begun = {**self._head, "status": "in_progress", "output": []}
        item = self._item("in_progress", content=[])
        return "".join(
            (
                self._event("response.created", response=begun),
                self._event("response.in_progress", response=begun),
                self._event("response.output_item.added", output_index=0, item=item),
                self._event("response.content_part.added", **self._place, part=_part("")),
            )
        ).encode()

    def chunks(self, news: Sequence[ChoiceDelta]) -> bytes:
        parts = []
        for one in news:
            if one.delta.text:
                self._text += one.delta.text
                parts.append(
                    self._event("response.output_text.delta", **self._place, delta=one.delta.text, logprobs=[])
                )
            self._finish_reason = one.delta.finish_reason or self._finish_reason
        return "".join(parts).encode()

    def closing(self, usage: Usage) -> bytes:
        finished = self._finished(usage)
        name = "response.completed" if finished["status"] == "completed" else "response.incomplete"
        return (self._text_done() + self._event(name, response=finished)).encode()

    def failure(self, error: ApiError) -> bytes:
        told = {"code": "server_error", "message": error.message}
        output = [self._item("incomplete", content=[_part(self._text)])]
        failed = {**self._head, "status": "failed", "error": told, "output": output}
        return self._event("response.failed", response=failed).encode()

    def refusal(self, error: ApiError) -> bytes:
        return error.body()

    def _text_done(self) -> str:
        part, item = _part(self._text), self._own_item()
        return (
            self._event("response.output_text.done", **self._place, text=self._text, logprobs=[])
            + self._event("response.content_part.done", **self._place, part=part)
            + self._event("response.output_item.done", output_index=0, item=item)
        )

    def _finished(self, usage: Usage) -> dict[str, Any]:
        is_cut = self._finish_reason == "length"
        return {
            **self._head,
            "status": "incomplete" if is_cut else "completed",
            "completed_at": None if is_cut else int(time.time()),
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "output": [self._own_item()],
            "usage": _usage(usage),
        }

    def _own_item(self) -> dict[str, Any]:
        status = "incomplete" if self._finish_reason == "length" else "completed"
        return self._item(status, content=[_part(self._text)])

    def _item(self, status: str, *, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self._item_id, "type": "message", "role": "assistant", "status": status, "content": content}

    def _event(self, name: str, **members: Any) -> str:
        number, self._events = self._events, self._events + 1
        return event(name, {"type": name, "sequence_number": number, **members})


def _head(request: ResponsesRequest, model: ServedModel) -> dict[str, Any]:
    """The members that are known from the beginning: who answers, and what was asked for."""
    asked = request.model_dump(exclude_none=True, by_alias=True)
    sampling = model.sampling
    return {
        "id": f"resp_{uuid.uuid4().hex}",
        "object": "response",
        "created_at": int(time.time()),
        "completed_at": None,
        "status": "queued",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": None,
        "metadata": request.metadata or {},
        "model": model.name,
        "output": [],
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": False,
        "temperature": sampling.temperature if request.temperature is None else request.temperature,
        "text": {"format": asked.get("text", {}).get("format", {"type": "text"}), "verbosity": "medium"},
        "tool_choice": asked.get("tool_choice", "auto"),
        "tools": [{"parameters": None, "strict": None, **tool} for tool in asked.get("tools", [])],
        "top_logprobs": 0,
        "top_p": sampling.top_p if request.top_p is None else request.top_p,
        "truncation": "disabled",
        "usage": None,
    }


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
