"""Answers as OpenAI's Responses API words them.

Source: platform.openai.com, API reference, Responses and its streaming events (read November 2026).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

from nexus_llm.serve.answers import WholeChoice, Writer, compact, event
from nexus_llm.serve.api_errors import ApiError
from nexus_llm.serve.dialects.openai_responses_body import ResponsesRequest
from nexus_llm.serve.generation import ChoiceDelta, Usage
from nexus_llm.serve.model_folder import ServedModel
from nexus_llm.serve.text import AnsweredCall


class ResponseWriter(Writer):
    """Writes one response, whole or as events numbered from 0. An item is opened when its first piece comes."""

    def __init__(self, request: ResponsesRequest, *, model: ServedModel) -> None:
        self._head = _head(request, model)
        self._events = 0
        self._finish_reason = ""
        self._output: list[dict[str, Any]] = []
        """Items that are whole."""
        self._message_id = ""
        """Of the message that is open; empty where none is."""
        self._text = ""

    def whole(self, choices: Sequence[WholeChoice], usage: Usage) -> bytes:
        choice = choices[0]
        self._finish_reason = choice.finish_reason
        calls = [_function_call(call) for call in choice.calls]
        message = _message(f"msg_{uuid.uuid4().hex}", choice.text, self._end_status())
        self._output = ([message] if choice.text or not calls else []) + calls
        return compact(self._finished(usage)).encode()

    def opening(self, choice_count: int) -> bytes:  # noqa: ARG002
        begun = {**self._head, "status": "in_progress"}
        return (
            self._event("response.created", response=begun) + self._event("response.in_progress", response=begun)
        ).encode()

    def chunks(self, news: Sequence[ChoiceDelta]) -> bytes:
        parts = []
        for one in news:
            if one.delta.text:
                parts += [self._open_message(), self._text_delta(one.delta.text)]
            parts += [self._close_message("completed") + self._call(call) for call in one.delta.calls]
            self._finish_reason = one.delta.finish_reason or self._finish_reason
        return "".join(parts).encode()

    def closing(self, usage: Usage) -> bytes:
        opened = "" if self._output else self._open_message()  # an answer without a word is a message too
        closed = opened + self._close_message(self._end_status())
        finished = self._finished(usage)
        return (closed + self._event(f"response.{finished['status']}", response=finished)).encode()

    def failure(self, error: ApiError) -> bytes:
        if self._message_id:
            self._output.append(_message(self._message_id, self._text, "incomplete"))
        told = {"code": "server_error", "message": error.message}
        failed = {**self._head, "status": "failed", "error": told, "output": self._output}
        return self._event("response.failed", response=failed).encode()

    def _open_message(self) -> str:
        if self._message_id:
            return ""
        self._message_id, self._text = f"msg_{uuid.uuid4().hex}", ""
        item = {**_message(self._message_id, "", "in_progress"), "content": []}
        added = self._event("response.output_item.added", output_index=len(self._output), item=item)
        return added + self._event("response.content_part.added", **self._place(), part=_part(""))

    def _text_delta(self, text: str) -> str:
        self._text += text
        return self._event("response.output_text.delta", **self._place(), delta=text, logprobs=[])

    def _close_message(self, status: str) -> str:
        if not self._message_id:
            return ""
        item = _message(self._message_id, self._text, status)
        closed = (
            self._event("response.output_text.done", **self._place(), text=self._text, logprobs=[])
            + self._event("response.content_part.done", **self._place(), part=_part(self._text))
            + self._event("response.output_item.done", output_index=len(self._output), item=item)
        )
        self._output.append(item)
        self._message_id = ""
        return closed

    def _call(self, call: AnsweredCall) -> str:
        item = _function_call(call)
        index, place = len(self._output), {"item_id": item["id"], "output_index": len(self._output)}
        begun = {**item, "arguments": "", "status": "in_progress"}
        told = {"name": call.name, "arguments": call.arguments}
        self._output.append(item)
        return (
            self._event("response.output_item.added", output_index=index, item=begun)
            + self._event("response.function_call_arguments.delta", **place, delta=call.arguments)
            + self._event("response.function_call_arguments.done", **place, **told)
            + self._event("response.output_item.done", output_index=index, item=item)
        )

    def _finished(self, usage: Usage) -> dict[str, Any]:
        status = self._end_status()
        return {
            **self._head,
            "status": status,
            "completed_at": int(time.time()) if status == "completed" else None,
            "incomplete_details": None if status == "completed" else {"reason": "max_output_tokens"},
            "output": self._output,
            "usage": _usage(usage),
        }

    def _end_status(self) -> str:
        return "incomplete" if self._finish_reason == "length" else "completed"

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._message_id, "output_index": len(self._output), "content_index": 0}

    def _event(self, name: str, /, **members: Any) -> str:
        number, self._events = self._events, self._events + 1
        return event(name, {"type": name, "sequence_number": number, **members})


def _message(item_id: str, text: str, status: str) -> dict[str, Any]:
    return {"id": item_id, "type": "message", "role": "assistant", "status": status, "content": [_part(text)]}


def _function_call(call: AnsweredCall) -> dict[str, Any]:
    return {
        "id": f"fc_{call.id}",
        "type": "function_call",
        "status": "completed",
        "call_id": call.id,
        "name": call.name,
        "arguments": call.arguments,
    }


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
        "model": request.model,
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
