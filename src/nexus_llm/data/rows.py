"""Names of records and of their content, and conversations as one line of JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from nexus_llm.records import Message, ToolCall


def document_id(source: str, origin: str) -> str:
    """128-bit hash of where a record comes from, as 32 hex digits."""
    return hashlib.blake2b(f"{source}\0{origin}".encode(), digest_size=16).hexdigest()


def content_hash(content: str) -> str:
    """128-bit hash of a cleaned text (a conversation's JSON) as 32 hex digits: the first half of its SHA-256."""
    return hashlib.sha256(content.encode()).hexdigest()[:32]


class StoredConversation(NamedTuple):
    """What `conversation_json` says."""

    messages: list[Message]
    """The conversation to learn from."""
    rejected: list[Message]
    """The same with the rejected answer of a preference, or nothing."""
    tools: list[dict[str, Any]]
    """Declarations of the tools that may be called, as chat templates take them, or nothing."""


def conversation_json(
    messages: Sequence[Message], rejected: Sequence[Message] = (), tools: Sequence[dict[str, Any]] = ()
) -> str:
    """A conversation as one line of JSON: a list of turns, or an object where there is more to say.

    >>> conversation_json([{"role": "user", "content": "Hi"}], [{"role": "user", "content": "Ho"}])
    '{"chosen":[{"role":"user","content":"Hi"}],"rejected":[{"role":"user","content":"Ho"}]}'
    >>> conversation_json([{"role": "user", "content": "Hi"}], tools=[{"type": "function"}])
    '{"messages":[{"role":"user","content":"Hi"}],"tools":[{"type":"function"}]}'
    """
    content: Any = messages
    if rejected:
        content = {"chosen": messages, "rejected": rejected}
    elif tools:
        content = {"messages": messages}
    if tools:
        content["tools"] = tools
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def stored_conversation(text: str) -> StoredConversation:
    """The conversation out of `conversation_json`."""
    content = json.loads(text)
    if isinstance(content, list):
        return StoredConversation(content, [], [])
    messages = content["chosen"] if "chosen" in content else content["messages"]
    return StoredConversation(messages, content.get("rejected", []), content.get("tools", []))


def conversation_text(messages: Sequence[Message]) -> str:
    """What filters and the search for duplicates judge: contents, thoughts, and calls, joined by newlines.

    A call is the function's name and the values of its arguments. Their names, and the declarations of tools, are the
    same in every conversation about the same tools: they say nothing about this one.

    >>> call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome", "days": 3}}}
    >>> conversation_text([{"role": "assistant", "content": "", "tool_calls": [call]}])
    'weather Rome 3'
    """
    parts: list[str] = []
    for message in messages:
        if len(message) == 2:
            parts.append(message["content"])
        else:
            said = (message.get("reasoning_content"), message["content"])
            parts += [one for one in said if one]
            parts += [_call_text(call) for call in message.get("tool_calls", ())]
    return "\n".join(parts)


def _call_text(call: ToolCall) -> str:
    function = call["function"]
    return " ".join((function["name"], *_values(function["arguments"])))


def _values(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _values(item)
    elif value is not None:
        yield value if isinstance(value, str) else json.dumps(value)
