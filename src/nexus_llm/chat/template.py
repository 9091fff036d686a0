"""A model's chat template: Jinja, run in the same sandbox and with the same settings as transformers runs it.

Source: `apply_chat_template` (transformers 5.23, `chat_template_utils.py`); a test compares the two. Neither torch nor
transformers is loaded. One difference is meant: the same conversation must give the same ids tomorrow, so
`strftime_now` tells a fixed day.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from nexus_llm.chat.conversations import strings
from nexus_llm.errors import ModelError
from nexus_llm.records import Message

if TYPE_CHECKING:
    import jinja2

TODAY = datetime.datetime(2024, 7, 26, tzinfo=datetime.UTC)
"""The day that templates are told: the one that Llama 3.1's and 3.2's own templates fall back to."""
# Marks where a message's text begins. The plane after the one that chat.tokenizer takes its stand-ins from.
_MARKS = range(0x100000, 0x10FFFE)
_TURN_BEGINS, _TURNS_END = "nexus_turn_begins", "nexus_turns_end"

Tools = Sequence[dict[str, Any]] | None
"""JSON Schema of the functions that the assistant may call."""


@dataclass(frozen=True, slots=True)
class WrittenTurn:
    """A piece of text that a template wrote while it looked at one message."""

    index: int
    """Of the message in the conversation."""
    start: int
    """First character in the text."""
    end: int


class ChatTemplate:
    """A compiled template. Immutable once made, so threads may share it."""

    def __init__(self, source: str, *, special_tokens: Mapping[str, str]) -> None:
        """`special_tokens` are the texts of `bos_token`, `eos_token`, … that the template may name."""
        self._source = source
        self._special_tokens = dict(special_tokens)

    def render(self, messages: Sequence[Message], *, tools: Tools = None, add_generation_prompt: bool = False) -> str:
        """The conversation as text.

        Raises:
            ModelError: the template refuses the conversation, or is no Jinja.
        """
        return self._render("_compiled", messages, tools, add_generation_prompt=add_generation_prompt)

    def written_turns(
        self, messages: Sequence[Message], *, tools: Tools = None, add_generation_prompt: bool = False
    ) -> list[WrittenTurn] | None:
        """Which message wrote which part of `render`'s text, in the text's order; None where that cannot be said.

        The template is run once more, with a mark put out wherever one of its loops takes up a message. The text
        without the marks must be the text itself, so a template that reads its own output is recognised.

        Raises:
            ModelError: the template refuses the conversation.
        """
        text = self.render(messages, tools=tools, add_generation_prompt=add_generation_prompt)
        used = set().union(*strings([text, [dict(one) for one in messages], list(tools or ())]))
        mark = next(chr(code) for code in _MARKS if chr(code) not in used)
        marks = _Marks(mark, messages)
        tracers = {_TURN_BEGINS: marks.turn_begins, _TURNS_END: marks.turns_end}
        marked = self._render("_tracing", messages, tools, add_generation_prompt=add_generation_prompt, **tracers)
        pieces = re.split(f"{mark}(\\d*){mark}", marked)  # text, mark, text, mark, …, text
        if "".join(pieces[::2]) != text:
            return None
        turns, position = [], len(pieces[0])
        for index, piece in zip(pieces[1::2], pieces[2::2], strict=True):
            if index and piece.strip():
                turns.append(WrittenTurn(int(index), position, position + len(piece)))
            position += len(piece)
        return turns

    def _render(self, which: str, messages: Sequence[Message], tools: Tools, **more: Any) -> str:
        import jinja2

        try:
            template: jinja2.Template = getattr(self, which)
            return template.render(
                **{"add_generation_prompt": False, **self._special_tokens, **more},
                messages=list(messages),
                tools=list(tools) if tools else None,
            )
        except (jinja2.TemplateError, TypeError, ValueError, LookupError) as error:
            raise ModelError(
                f"the model's chat template refuses this conversation: {error}",
                fix="check the order and roles of the messages",
            ) from error

    @cached_property
    def _compiled(self) -> jinja2.Template:
        return _environment().from_string(self._source)

    @cached_property
    def _tracing(self) -> jinja2.Template:
        """The template with a mark before each round of every loop, and one after its last round."""
        from jinja2 import nodes
        from jinja2.visitor import NodeTransformer

        environment = _environment()

        def put_out(name: str, *arguments: nodes.Expr) -> nodes.Node:
            return nodes.Output([nodes.Call(nodes.Name(name, "load"), list(arguments), [], None, None)])

        class LoopMarks(NodeTransformer):
            loops = 0

            def visit_For(self, node: nodes.For) -> Any:
                self.generic_visit(node)
                if not isinstance(node.target, nodes.Name):
                    return node
                number = nodes.Const(self.loops)
                self.loops += 1
                node.body.insert(0, put_out(_TURN_BEGINS, number, nodes.Name(node.target.name, "load")))
                return [node, put_out(_TURNS_END, number)]

        tree = LoopMarks().visit(environment.parse(self._source))
        tree.set_environment(environment)
        return environment.template_class.from_code(
            environment, environment.compile(tree), environment.make_globals(None)
        )


class _Marks:
    """What the traced template puts out, in one rendering."""

    def __init__(self, mark: str, messages: Sequence[Message]) -> None:
        self._mark = mark
        self._messages = messages
        self._loop: int | None = None
        """The loop over messages that runs: another one inside it looks ahead or back, and writes for the outer one."""

    def turn_begins(self, loop: int, item: object) -> str:
        index = next((place for place, one in enumerate(self._messages) if one is item), None)
        if index is None or self._loop not in (None, loop):
            return ""
        self._loop = loop
        return f"{self._mark}{index}{self._mark}"

    def turns_end(self, loop: int) -> str:
        if self._loop != loop:
            return ""
        self._loop = None
        return self._mark * 2


def default_template(tokenizer_config: dict[str, Any]) -> str | None:
    """The chat template that an older `tokenizer_config.json` carries: its only one, or the one named `default`."""
    template = tokenizer_config.get("chat_template")
    if isinstance(template, list):
        template = {one["name"]: one["template"] for one in template}.get("default")
    return template


def _environment() -> jinja2.Environment:
    import jinja2
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class GenerationTag(Extension):
        """`{% generation %}…{% endgeneration %}` marks the assistant's words for trainers; here it changes nothing."""

        tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

        def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(value: object, ensure_ascii: bool = False, indent: int | None = None, **layout: Any) -> str:
        # Jinja's own filter escapes for HTML, which a model must not see.
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **layout)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = TODAY.strftime
    return environment
