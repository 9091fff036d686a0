"""Where the assistant's words lie in a rendered conversation, and what of the conversation a template leaves out.

Nothing here knows any template: everything is found by rendering, so it holds for every template or is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nexus_llm.chat.template import ChatTemplate, Tools
from nexus_llm.errors import ModelError
from nexus_llm.records import Message, ToolCall, ToolFunction

Span = tuple[int, int]
"""First character, and the one behind the last."""


def assistant_spans(template: ChatTemplate, messages: Sequence[Message], *, tools: Tools, text: str) -> list[Span]:
    """What of `text`, which is `messages` rendered, the assistant wrote: one span a turn, in order.

    A turn is what the assistant says and calls, and what ends it; the words that open its turn are the prompt's, line
    ends behind it nobody's. Where the template only appends, a turn is what it adds for it. Where it writes earlier
    turns otherwise than last ones (Qwen3 drops thoughts, Mistral moves the tools), it is what the template wrote while
    it looked at the message.

    Raises:
        ModelError: neither can be said of this template.
    """
    places = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    spans = _appended(template, messages, places, tools=tools, text=text)
    if spans is None:
        spans = _traced(template, messages, places, tools=tools, text=text)
    if spans is None:
        raise ModelError(
            "this chat template rewrites earlier turns, so nobody can say what the assistant wrote",
            fix="train on conversations of one question and one answer, or use a template that appends",
        )
    return spans


def refuse_lost_tools(
    template: ChatTemplate, messages: Sequence[Message], *, tools: Tools, text: str, add_generation_prompt: bool = False
) -> None:
    """Looks whether the tools and the calls have a place in `text`, which is `messages` rendered.

    Raises:
        ModelError: the template would write the same text without them.
    """
    for what, fewer_messages, fewer_tools in _without_tools(messages, tools):
        if template.render(fewer_messages, tools=fewer_tools, add_generation_prompt=add_generation_prompt) == text:
            raise ModelError(
                f"{what}, and the model's chat template has no place for tools: it writes the same text without them",
                fix="use a model whose template knows tools (Llama 3.1, Qwen2.5, Qwen3, Mistral, Hermes), or write "
                "calls and results into the messages' text",
            )


def refuse_lost_words(template: ChatTemplate, messages: Sequence[Message], *, tools: Tools, text: str) -> None:
    """Looks turn by turn whether all that a conversation says and calls is in `text`, which is `messages` rendered.

    Raises:
        ModelError: the template leaves something out; the turn is named.
    """
    for index, message in enumerate(messages):
        calls = message.get("tool_calls") or []
        for number in range(len(calls)):
            if template.render(_with(messages, index, _renamed(message, number)), tools=tools) == text:
                raise ModelError(
                    f"the model's chat template leaves out call {number + 1} of {len(calls)} in turn {index + 1}",
                    fix="one call a turn may be all that it knows: give each call a turn of its own",
                )
        content = message["content"].strip()
        # Of words without tools, only those that cannot be seen at once are looked for: it costs a rendering.
        if content and (calls or message["role"] == "tool" or content not in text):
            longer: Message = {**message, "content": f"{message['content'].rstrip()}x"}
            if template.render(_with(messages, index, longer), tools=tools) == text:
                beside = " beside its call" if calls else ""
                raise ModelError(
                    f"the model's chat template leaves out what turn {index + 1} ({message['role']}) says{beside}",
                    fix="make that turn's content empty" if calls else "use a model whose template takes such turns",
                )


def _appended(
    template: ChatTemplate, messages: Sequence[Message], places: list[int], *, tools: Tools, text: str
) -> list[Span] | None:
    """The spans, if the text up to each turn is the beginning of the whole; else None."""
    spans = []
    for index in places:
        try:
            before = template.render(messages[:index], tools=tools, add_generation_prompt=True)
            after = template.render(messages[: index + 1], tools=tools)
        except ModelError:
            return None  # some templates refuse a conversation that stops there
        if not (text.startswith(after) and after.startswith(before)):
            return None
        spans.append(_span(text, len(before), len(after)))
    return spans


def _traced(
    template: ChatTemplate, messages: Sequence[Message], places: list[int], *, tools: Tools, text: str
) -> list[Span] | None:
    """The spans, if the template writes each turn in one piece that begins with the words that ask for it."""
    opening = _opening(template, messages, places, tools=tools)
    turns = template.written_turns(messages, tools=tools)
    if opening is None or turns is None:
        return None
    spans = []
    for index in places:
        pieces = [turn for turn in turns if turn.index == index]
        if len(pieces) != 1:
            return None
        words = _words_start(text[pieces[0].start : pieces[0].end], opening, messages[index]["content"].strip())
        if words is None:
            return None
        spans.append(_span(text, pieces[0].start + words, pieces[0].end))
    return spans


def _words_start(turn: str, opening: str, content: str) -> int | None:
    """Where in a turn the assistant's own words begin; None where that is not sure.

    Behind the opening; or, where a prompt for an answer opens more than a turn in the past has (Qwen3.5: `<think>`),
    behind what they share, if the content begins right there.
    """
    if turn.startswith(opening):
        return len(opening)
    shared = next(
        (place for place, pair in enumerate(zip(turn, opening, strict=False)) if len(set(pair)) > 1), len(turn)
    )
    return shared if shared and content and turn.startswith(content, shared) else None


def _opening(template: ChatTemplate, messages: Sequence[Message], places: list[int], *, tools: Tools) -> str | None:
    """What the template writes to ask for an answer, such as `<|im_start|>assistant` and a line end."""
    for index in places:
        try:
            before = template.render(messages[:index], tools=tools)
            asking = template.render(messages[:index], tools=tools, add_generation_prompt=True)
            turns = template.written_turns(messages[:index], tools=tools, add_generation_prompt=True)
        except ModelError:
            continue
        if asking.startswith(before):
            return asking[len(before) :]
        # Phi-3 ends a text that asks for nothing with eos: then the opening is what stands behind the turns.
        return (asking[turns[-1].end :] or None) if turns else None
    return None


def _span(text: str, start: int, end: int) -> Span:
    return start, start + len(text[start:end].rstrip("\n"))


def _without_tools(messages: Sequence[Message], tools: Tools) -> Iterator[tuple[str, Sequence[Message], Tools]]:
    """(what is there, the messages without it, the tools without it)."""
    if tools:
        yield f"the conversation has {len(tools)} tools", messages, None
    calling = [number for number, message in enumerate(messages, start=1) if message.get("tool_calls")]
    if calling:
        yield f"turn {calling[0]} calls a tool", [_renamed(message) for message in messages], tools


def _renamed(message: Message, number: int | None = None) -> Message:
    """The message with its calls, or the one of that number, naming other functions; itself where it calls none."""
    calls = message.get("tool_calls")
    if not calls:
        return message
    others: list[ToolCall] = []
    for place, call in enumerate(calls):
        function = call["function"]
        other: ToolFunction = {**function, "name": f"{function['name']}x"}
        others.append({**call, "function": other} if number in (None, place) else call)
    return {**message, "tool_calls": others}


def _with(messages: Sequence[Message], index: int, message: Message) -> list[Message]:
    return [*messages[:index], message, *messages[index + 1 :]]
