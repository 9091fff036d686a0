"""Which of the common layouts a row of training data has, and the conversation in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, cast, get_args

from nexus_llm.data.blocks import UnusableError
from nexus_llm.records import Message, Role

ChatFormat = Literal["messages", "prompt-completion", "text"]
FORMATS: tuple[ChatFormat, ...] = get_args(ChatFormat)
_ROLES = get_args(Role)


def detect(row: Mapping[str, object], *, text_field: str = "text") -> ChatFormat | None:
    """The layout of `row`, or None for one that nobody here knows."""
    if row.get("messages") is not None:
        return "messages"
    if row.get("prompt") is not None and row.get("completion") is not None:
        return "prompt-completion"
    return "text" if isinstance(row.get(text_field), str) else None


def to_messages(row: Mapping[str, object], format: ChatFormat) -> tuple[Message, ...]:
    """The conversation that `row` holds; empty for running text."""
    if format == "messages":
        return _messages(row["messages"], default_role=None)
    if format == "prompt-completion":
        prompt = _messages(row["prompt"], default_role="user")
        return (*prompt, *_messages(row["completion"], default_role="assistant"))
    return ()


def _messages(value: object, *, default_role: Role | None) -> tuple[Message, ...]:
    """A conversation, or a bare string where `default_role` says who speaks."""
    if isinstance(value, str) and default_role:
        return ({"role": default_role, "content": value},)
    if not isinstance(value, list) or not value:
        raise UnusableError("the messages are no list of turns, or an empty one")
    return tuple(_message(turn, number) for number, turn in enumerate(value, start=1))


def _message(turn: object, number: int) -> Message:
    if not isinstance(turn, Mapping) or turn.get("role") not in _ROLES:
        raise UnusableError(f"turn {number} has no role out of {', '.join(_ROLES)}")
    if turn.get("tool_calls"):
        raise UnusableError(f"turn {number} calls tools, which this version does not learn")
    content = turn.get("content")
    if isinstance(content, list) and all(isinstance(part, Mapping) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get("text") or "") for part in content)
    if not isinstance(content, str):
        raise UnusableError(f"turn {number} has no text as content")
    return {"role": cast(Role, turn["role"]), "content": content}
