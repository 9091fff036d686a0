"""Which of the common layouts a row of training data has, and the conversation in it.

Layouts and their sources, read 2026-11: messages (OpenAI's chat API), prompt-completion, preference and kto (TRL's
"Dataset formats and types"), alpaca and sharegpt (LLaMA-Factory's data/README.md), preference as two whole transcripts
(Anthropic's hh-rlhf).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from nexus_llm.data.reading.blocks import UnusableError
from nexus_llm.data.reading.chat_tools import (
    CALLERS,
    calls_of_text,
    calls_to_learn,
    declarations,
    from_json,
    name_results,
)
from nexus_llm.records import Message, Role

ChatFormat = Literal["messages", "prompt-completion", "alpaca", "sharegpt", "preference", "kto", "text"]
FORMATS: tuple[ChatFormat, ...] = get_args(ChatFormat)

Row = Mapping[str, Any]
Turn = Mapping[str, Any]
"""A turn in the shape of OpenAI's chat API: role, content, and where they exist tool_calls, tool_call_id, name."""

_ROLES = get_args(Role)
_SPEAKERS: Mapping[str, Role] = {
    **{role: role for role in _ROLES},
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    **dict.fromkeys(CALLERS, "assistant"),
    "observation": "tool",
    "function": "tool",
    "function_response": "tool",
    "tool_response": "tool",
    "ipython": "tool",
}
"""ShareGPT's speakers, and those of its many dialects, and the roles that they are."""
_SURE_FIELDS = frozenset(("chosen", "messages", "conversations", "prompt", "instruction"))
"""Every conversation has at least one of them, whatever its layout."""
_KEPT_TURN_FIELDS = ("name", "tool_calls", "tool_call_id", "reasoning_content", "weight")
_LEARNED_FIELDS: Mapping[str, tuple[str, ...]] = {"assistant": ("reasoning_content",), "tool": ("tool_call_id", "name")}
"""Role → fields of its turns that templates may write, calls apart."""
_TRANSCRIPT_TURN = re.compile(r"\n\n(Human|Assistant):")


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a row of any layout says, tool calls included."""

    turns: tuple[Turn, ...]
    """The whole conversation; for a preference what comes before the two answers."""
    chosen: tuple[Turn, ...] = ()
    """The better answer of a preference, else empty."""
    rejected: tuple[Turn, ...] = ()
    tools: Any = None
    """Declarations of the tools that may be called: JSON Schema, as found."""


def detect(row: Row, *, text_field: str = "text") -> ChatFormat | None:  # noqa: PLR0911 - one return a layout
    """The layout of `row`, or None for one that nobody here knows. Conversations go before running text.

    >>> detect({"instruction": "Greet.", "input": "", "output": "Hello"})
    'alpaca'
    """
    if _SURE_FIELDS.isdisjoint(row):
        return "text" if isinstance(row.get(text_field), str) else None

    def has(*names: str) -> bool:
        return all(row.get(name) is not None for name in names)

    if has("chosen", "rejected"):
        return "preference"
    is_turns = isinstance(row.get("messages"), list) or isinstance(row.get("conversations"), list)
    if isinstance(row.get("label"), bool) and (is_turns or has("prompt", "completion")):
        return "kto"
    if has("messages"):
        return "messages"
    if isinstance(row.get("conversations"), list):
        return "sharegpt"
    if has("prompt") and (has("completion") or isinstance(row.get("response"), str)):
        return "prompt-completion"
    if isinstance(row.get("instruction"), str) and (has("output") or has("instances") or has("response")):
        return "alpaca"
    return "text" if isinstance(row.get(text_field), str) else None


def to_messages(
    row: Row, format: ChatFormat
) -> tuple[tuple[Message, ...], tuple[Message, ...], tuple[dict[str, Any], ...]]:
    """(the conversation to learn from, for a preference the one with its rejected answer, the tools); all empty for
    running text.

    Raises:
        UnusableError: the row has another layout or no such conversation, its tools or calls are none, or it is
            labelled as undesired.
    """
    if format == "text":
        return (), (), ()
    found = read_conversation(row, format)
    tools = declarations(found.tools) if found.tools else ()
    if tools and any(turn["role"] == "system" and "<tools>" in turn["content"] for turn in found.turns):
        # Hermes's rows say everything in words, declarations too: a template would say them a second time.
        tools = ()
    if not found.rejected:
        return _to_learn(found.turns), (), tools
    return _to_learn((*found.turns, *found.chosen)), _to_learn((*found.turns, *found.rejected)), tools


def read_conversation(row: Row, format: ChatFormat) -> Conversation:
    """Everything that a row of this layout, which is not `text`, says.

    Raises:
        UnusableError: the row has another layout, or is labelled as undesired.
    """
    tools = from_json(row.get("tools"))
    if format == "preference":
        return _preference(row, tools)
    if format == "kto":
        turns = _messages(row) if row.get("messages") is not None else _sharegpt_or_pair(row)
        if not _required(row, "label", bool):
            raise UnusableError(
                "the answer is labelled as undesired (label false), so there is nothing to learn from it alone: pair "
                "it with a desired answer to the same prompt, as the fields prompt, chosen and rejected"
            )
        return Conversation(turns, tools=tools)
    return Conversation(_READERS[format](row), tools=tools)


def _to_learn(turns: tuple[Turn, ...]) -> tuple[Message, ...]:
    messages: list[Message] = []
    has_calls = False
    for number, turn in enumerate(turns, start=1):
        if len(turn) == 2:  # nearly all
            messages.append({"role": turn["role"], "content": turn["content"]})
        else:
            messages.append(_whole_turn(turn, number))
            has_calls = has_calls or "tool_calls" in messages[-1]
    if has_calls:
        name_results(messages)
    return tuple(messages)


def _whole_turn(turn: Turn, number: int) -> Message:
    """The turn with all that templates write of it: neighbouring calls and results stay what they are."""
    role = turn["role"]
    said: dict[str, Any] = {"role": role, "content": turn["content"] or ""}
    if turn.get("tool_calls"):
        if role != "assistant":
            raise UnusableError(f"turn {number} calls a tool, which only the assistant can: it is of the {role}")
        said["tool_calls"] = calls_to_learn(turn["tool_calls"], number)
    for name in _LEARNED_FIELDS.get(role, ()):
        value = turn.get(name)
        if value is not None and not isinstance(value, str):
            raise UnusableError(f"turn {number} has no text as {name}")
        if value:
            said[name] = value
    return cast(Message, said)


def _messages(row: Row) -> tuple[Turn, ...]:
    return _turns(row.get("messages"))


def _pair(row: Row) -> tuple[Turn, ...]:
    answer = row.get("completion") if row.get("completion") is not None else row.get("response")
    return (*_turns(row.get("prompt"), default_role="user"), *_turns(answer, default_role="assistant"))


def _sharegpt(row: Row) -> tuple[Turn, ...]:
    system = row.get("system")
    start = ({"role": "system", "content": system},) if isinstance(system, str) and system else ()
    return (*start, *_turns(row.get("conversations")))


def _sharegpt_or_pair(row: Row) -> tuple[Turn, ...]:
    return _sharegpt(row) if row.get("conversations") is not None else _pair(row)


def _alpaca(row: Row) -> tuple[Turn, ...]:
    if row.get("output") is None and row.get("instances") is not None:  # self-instruct's own files
        instances = row["instances"]
        if not isinstance(instances, list) or len(instances) != 1 or not isinstance(instances[0], Mapping):
            raise UnusableError("the row has several instances or none, and one conversation is one row")
        row = {**row, **instances[0]}
    answer = row.get("output") if row.get("output") is not None else row.get("response")
    if not isinstance(answer, str):
        raise UnusableError("the output is no text")
    return (*_alpaca_question(row), {"role": "assistant", "content": answer})


def _alpaca_question(row: Row) -> Iterator[Turn]:
    """System, earlier turns, and the instruction with its input on the next line."""
    if system := row.get("system"):
        yield _turn({"role": "system", "content": system}, 1)
    history = row.get("history") or ()
    if not isinstance(history, list | tuple):
        raise UnusableError("the history is no list")
    for number, pair in enumerate(history, start=1):
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(one, str) for one in pair):
            raise UnusableError(f"pair {number} of the history is no [question, answer]")
        yield {"role": "user", "content": pair[0]}
        yield {"role": "assistant", "content": pair[1]}
    instruction = _required(row, "instruction", str)
    given = row.get("input") if row.get("input") is not None else row.get("context")
    yield {"role": "user", "content": f"{instruction}\n{given}" if given and isinstance(given, str) else instruction}


_READERS: Mapping[str, Callable[[Row], tuple[Turn, ...]]] = {
    "messages": _messages,
    "prompt-completion": _pair,
    "alpaca": _alpaca,
    "sharegpt": _sharegpt,
}


def _preference(row: Row, tools: Any) -> Conversation:
    chosen, rejected = _answer(row.get("chosen")), _answer(row.get("rejected"))
    before = _before_answers(row)
    if not before:  # both are whole conversations: what they share came before the answers
        shared = 0
        while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
            shared += 1
        before, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    elif len(chosen) > len(before) and chosen[: len(before)] == before:
        rejected = rejected[len(before) :] if rejected[: len(before)] == before else rejected
        chosen = chosen[len(before) :]
    if not before or any(turn["role"] == "user" for turn in (chosen[0], rejected[0])):
        raise UnusableError("nothing says what the chosen and the rejected answer reply to")
    return Conversation(before, chosen, rejected, tools=tools)


def _before_answers(row: Row) -> tuple[Turn, ...]:
    if row.get("prompt") is not None:
        prompt = row["prompt"]
        return _transcript(prompt) or _turns(prompt, default_role="user")
    if row.get("conversations") is not None:
        return _sharegpt(row)
    if row.get("messages") is not None:
        return _messages(row)
    return tuple(_alpaca_question(row)) if isinstance(row.get("instruction"), str) else ()


def _answer(value: object) -> tuple[Turn, ...]:
    if isinstance(value, Mapping):
        return (_turn(value, 1),)
    return _transcript(value) or _turns(value, default_role="assistant")


def _transcript(value: object) -> tuple[Turn, ...]:
    """The turns of hh-rlhf's "\\n\\nHuman: …\\n\\nAssistant: …"; empty where `value` is no such text."""
    if not isinstance(value, str) or not _TRANSCRIPT_TURN.match(value):
        return ()
    parts = _TRANSCRIPT_TURN.split(value)[1:]
    turns = zip(parts[::2], parts[1::2], strict=True)
    return tuple(
        {"role": "user" if speaker == "Human" else "assistant", "content": said.strip()}
        for speaker, said in turns
        if said.strip() or speaker == "Human"  # a prompt ends with an empty "Assistant:"
    )


def _turns(value: object, *, default_role: Role | None = None) -> tuple[Turn, ...]:
    """A conversation, or a bare string where `default_role` says who speaks."""
    if isinstance(value, str) and default_role:
        return ({"role": default_role, "content": value},)
    if not isinstance(value, list) or not value:
        raise UnusableError("the messages are no list of turns, or an empty one")
    turns: list[Turn] = []
    for number, turn in enumerate(value, start=1):
        read = _turn(turn, number)
        # ShareGPT gives calls a turn of their own; what the assistant says before, or calls besides, is the same turn.
        if read["content"] is None and turns and turn.get("role") != "assistant" and _may_call(turns[-1]):
            before = turns.pop()
            read = {**before, **read, "content": before["content"]}
            read["tool_calls"] = [*before.get("tool_calls", ()), *read["tool_calls"]]
        turns.append(read)
    return tuple(turns)


def _may_call(turn: Turn) -> bool:
    return turn["role"] == "assistant" and isinstance(turn.get("tool_calls", []), list)


def _turn(turn: object, number: int) -> dict[str, Any]:
    """A turn in OpenAI's shape, from there or from ShareGPT's `from` and `value`."""
    if not isinstance(turn, Mapping):
        raise UnusableError(f"turn {number} is no object")
    content = turn.get("content") if turn.get("content") is not None else turn.get("value")
    calls = turn.get("tool_calls")
    if turn.get("role") in _ROLES:
        role = cast(Role, turn["role"])
    else:
        speaker = turn.get("from") or turn.get("role")
        if not isinstance(speaker, str) or speaker not in _SPEAKERS:
            raise UnusableError(f"turn {number} has no role out of {', '.join(_ROLES)}")
        role = _SPEAKERS[speaker]
        if speaker in CALLERS:
            content, calls = None, calls_of_text(content, number)
    if isinstance(content, list) and all(isinstance(part, Mapping) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get("text") or "") for part in content)
    if not isinstance(content, str) and (content is not None or not calls):
        raise UnusableError(f"turn {number} has no text as content")
    read: dict[str, Any] = {"role": role, "content": content}
    for name in _KEPT_TURN_FIELDS:
        if turn.get(name) is not None:
            read[name] = turn[name]
    if calls:
        read["tool_calls"] = calls
    return read


def _required(row: Row, name: str, kind: type) -> Any:
    if not isinstance(row.get(name), kind):
        raise UnusableError(f"{name!r} is missing or no {kind.__name__}")
    return row[name]
