"""Conversations become token ids here and nowhere else: in data, training, packaging, evaluation and serving.

The template is Jinja, run in the same sandbox and with the same settings as transformers' `apply_chat_template`
(transformers 5.23, `chat_template_utils.py`); a test compares the two. Neither torch nor transformers is loaded. One
difference is meant: `strftime_now` is not defined, because the same conversation must give the same ids tomorrow.

Text that a user typed can never become a control token: where a message spells one out (`<|im_end|>`), those
characters are encoded as plain text (transformers calls this `sanitize_control_tokens`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from nexus_llm.errors import ModelError
from nexus_llm.records import Message

if TYPE_CHECKING:
    import jinja2
    from tokenizers import Tokenizer

Value = TypeVar("Value")

# Tokens that end a document in pre-training, and a turn of a conversation, by the model families that use them.
_DOCUMENT_ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>")
_TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>")
# Characters that mean nothing (Unicode 16, chapter 23.5): they stand in for control tokens that a message spells out.
_PRIVATE_USE = range(0xF0000, 0xFFFFE)
_REPLACEMENT = "\ufffd"


@dataclass(frozen=True)
class EncodedConversation:
    """A conversation as token ids."""

    token_ids: list[int]
    is_assistant: list[bool]
    """For each token: the assistant wrote it (its words and its end-of-turn token), so `sft` learns it."""


class ChatTokenizer:
    """A model's tokenizer together with its chat template. Immutable once made, so threads may share it."""

    def __init__(self, tokenizer_json: str, *, template: str | None, config: dict[str, Any]) -> None:
        """`tokenizer_json` and `config` are the contents of `tokenizer.json` and `tokenizer_config.json`."""
        # Two tokenizers, because the switch between them is a property of a tokenizer, not of a call: turning one
        # back and forth would let another thread's user text through as control tokens.
        self._tokenizer = _load_tokenizer(tokenizer_json)
        self._plain = _load_tokenizer(tokenizer_json)
        self._plain.encode_special_tokens = True
        self.template = template
        """Source of the Jinja chat template, or None where the model has none."""
        self._config = config

    @classmethod
    def load(cls, folder: Path) -> ChatTokenizer:
        """From `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja` in a Hugging Face model folder.

        Raises:
            ModelError: the folder has no readable tokenizer.
        """
        try:
            tokenizer_json = (folder / "tokenizer.json").read_text(encoding="utf-8")
            config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
            template_file = folder / "chat_template.jinja"
            template = template_file.read_text(encoding="utf-8") if template_file.exists() else None
            return cls(tokenizer_json, template=template or default_template(config), config=config)
        except Exception as error:  # tokenizers raises plain Exception for every fault
            raise ModelError(
                f"{folder} has no readable tokenizer ({error})",
                fix="a model folder needs tokenizer.json and tokenizer_config.json",
            ) from error

    @cached_property
    def control_tokens(self) -> dict[str, int]:
        """Text and id of what only the template may write: special tokens, and added ones that it spells out."""
        added = self._tokenizer.get_added_tokens_decoder()
        return {
            token.content: token_id
            for token_id, token in sorted(added.items())
            if token.special or (token.content in (self.template or "") and not token.content.isspace())
        }

    @property
    def tokenizer_json(self) -> str:
        """The tokenizer as the content of a `tokenizer.json`, in the form that Hugging Face's library writes today."""
        return self._tokenizer.to_str()

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids, control tokens included."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    @property
    def eos_token_id(self) -> int:
        """Ends the assistant's turn.

        Raises:
            ModelError: the tokenizer names none.
        """
        token_id = self.named_token_id("eos_token")
        if token_id is None:
            raise ModelError("the tokenizer names no eos_token", fix="add eos_token to its tokenizer_config.json")
        return token_id

    @cached_property
    def document_end_id(self) -> int:
        """Ends a document of running text: the pre-training separator where the vocabulary has one, else eos."""
        for text in _DOCUMENT_ENDS:
            if text in self.control_tokens:
                return self.control_tokens[text]
        return self.eos_token_id

    @cached_property
    def document_start_ids(self) -> list[int]:
        """What the tokenizer itself puts before every text: `<|begin_of_text|>` in Llama 3, nothing in SmolLM2."""
        encoded = self._tokenizer.encode("a", add_special_tokens=True)
        return [
            token_id
            for token_id, (start, end), is_added in zip(
                encoded.ids, encoded.offsets, encoded.special_tokens_mask, strict=True
            )
            if is_added and start == end == 0
        ]

    @cached_property
    def stop_token_ids(self) -> list[int]:
        """Every token after which an answer is over, sorted: eos, the ends of turns, the end of a document."""
        ends = (self.control_tokens[text] for text in (*_TURN_ENDS, *_DOCUMENT_ENDS) if text in self.control_tokens)
        return sorted({self.eos_token_id, *ends})

    def named_token_id(self, name: str) -> int | None:
        """The id of the tokenizer's `eos_token`, `bos_token`, `pad_token` or `unk_token`, or None."""
        return self._tokenizer.token_to_id(self._token_text(name))

    def encode_document(self, text: str) -> list[int]:
        """Token ids of running text, opened by `document_start_ids` and closed by `document_end_id`."""
        return self.encode_documents([text])[0]

    def encode_documents(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode_document` of many texts, on all cores."""
        encoded = self._plain.encode_batch_fast(list(texts), add_special_tokens=False)
        return [[*self.document_start_ids, *one.ids, self.document_end_id] for one in encoded]

    def encode_text(self, text: str) -> list[int]:
        """Token ids of a raw prompt, opened by `document_start_ids`. Spelled-out control tokens become the control
        tokens, as `/v1/completions` callers expect who apply a template themselves."""
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        start = self.document_start_ids
        return ids if ids[: len(start)] == start else [*start, *ids]

    def encode_prompt(self, messages: Sequence[Message], *, tools: Sequence[dict[str, Any]] | None = None) -> list[int]:
        """Token ids of a conversation up to where the assistant begins to answer.

        Raises:
            ModelError: the model has no chat template, or the template refuses the conversation.
        """
        conversation = _without_nulls(messages)
        stand_ins = self._stand_ins([conversation, tools])
        rendered = self.render(
            self._protect(conversation, stand_ins), tools=self._protect(tools, stand_ins), add_generation_prompt=True
        )
        return self._encode(rendered, stand_ins)[0]

    def encode_conversation(self, messages: Sequence[Message]) -> EncodedConversation:
        """Token ids of a whole conversation, and which of them the assistant wrote.

        A turn's share of the text is what the template adds for it, so the mask holds for every template that only
        appends (checked).

        Raises:
            ModelError: the template rewrites earlier turns, or refuses the conversation.
        """
        conversation = _without_nulls(messages)
        stand_ins = self._stand_ins(conversation)
        protected = self._protect(conversation, stand_ins)
        whole = self.render(protected)
        spans = []
        for index, message in enumerate(protected):
            if message["role"] == "assistant":
                before = self.render(protected[:index], add_generation_prompt=True)
                after = self.render(protected[: index + 1])
                if not (whole.startswith(after) and after.startswith(before)):
                    raise ModelError(
                        "this chat template rewrites earlier turns, so nobody can say what the assistant wrote",
                        fix="train on conversations of one question and one answer, or use a template that appends",
                    )
                spans.append((len(before), len(before) + len(after[len(before) :].rstrip("\n"))))
        token_ids, starts = self._encode(whole, stand_ins)
        return EncodedConversation(token_ids, [any(a <= start < b for a, b in spans) for start in starts])

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[dict[str, Any]] | None = None,
        add_generation_prompt: bool = False,
    ) -> str:
        """The conversation as the text that the template makes of it.

        Raises:
            ModelError: the model has no chat template, or the template refuses the conversation.
        """
        import jinja2

        try:
            return self._compiled_template.render(
                messages=list(messages),
                tools=list(tools) if tools else None,
                add_generation_prompt=add_generation_prompt,
                **{name: self._token_text(name) for name in ("bos_token", "eos_token", "pad_token", "unk_token")},
            )
        except (jinja2.TemplateError, TypeError, ValueError, LookupError) as error:
            raise ModelError(
                f"the model's chat template refuses this conversation: {error}",
                fix="check the order and roles of the messages",
            ) from error

    def decode(self, token_ids: Sequence[int], *, keep_control_tokens: bool = False) -> str:
        """The text of token ids."""
        return self._tokenizer.decode(list(token_ids), skip_special_tokens=not keep_control_tokens)

    @cached_property
    def _compiled_template(self) -> jinja2.Template:
        if not self.template:
            raise ModelError(
                "this model has no chat template", fix="use /v1/completions, or add chat_template.jinja to its folder"
            )
        return _environment().from_string(self.template)

    def _token_text(self, name: str) -> str:
        value = self._config.get(name)
        return str(value["content"] if isinstance(value, dict) else value or "")

    @cached_property
    def _control_pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self.control_tokens, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def _protect(self, value: Value, stand_ins: dict[str, str]) -> Value:
        """`value` with every control token that its strings spell out replaced by a stand-in character.

        `stand_ins` (stand-in → control token) must have been made for all the texts that are rendered together.
        """
        if not stand_ins:
            return value
        by_token = {token: stand_in for stand_in, token in stand_ins.items()}
        return cast(
            Value,
            _map_strings(value, lambda text: self._control_pattern.sub(lambda found: by_token[found[0]], text)),
        )

    def _stand_ins(self, value: object) -> dict[str, str]:
        """A private-use character that no string in `value` contains, for each control token that one spells out."""
        whole = "\n".join(_strings(value))
        found = sorted(set(self._control_pattern.findall(whole)))
        free = (chr(code) for code in _PRIVATE_USE if chr(code) not in whole)
        return dict(zip(free, found, strict=False))

    def _encode(self, rendered: str, stand_ins: dict[str, str]) -> tuple[list[int], list[int]]:
        """Token ids of rendered text, and the character at which each begins."""
        pieces = re.split(f"([{''.join(stand_ins)}])", rendered) if stand_ins else [rendered]
        ids: list[int] = []
        starts: list[int] = []
        position = 0
        for piece in pieces:
            if piece in stand_ins:
                plain = self._plain.encode(stand_ins[piece], add_special_tokens=False).ids
                ids += plain
                starts += [position] * len(plain)
            elif piece:
                encoded = self._tokenizer.encode(piece, add_special_tokens=False)
                ids += encoded.ids
                starts += [position + start for start, _ in encoded.offsets]
            position += len(piece)
        return ids, starts


class StreamDecoder:
    """Turns a growing list of token ids into pieces of text that never split a character.

    A byte-level token may hold a part of a character, which decodes to U+FFFD: a last U+FFFD is held back until the
    next token or the end says whether it stays. Only the tokens since the last clean cut but one are decoded again, so
    a long answer costs linear time; the cut before gives context to tokenizers that treat a first word otherwise.
    """

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        """Tokens since the last clean cut but one."""
        self._context_ids = 0
        """How many of them lie before the last clean cut."""
        self._given = 0
        """Characters of their text that were handed out."""

    def push(self, token_ids: Sequence[int]) -> str:
        """The text that these tokens complete; may be empty."""
        self._ids += token_ids
        text = self._tokenizer.decode(self._ids)
        is_clean = not text.endswith(_REPLACEMENT)
        settled = len(text) - (0 if is_clean else 1)
        piece = text[self._given : settled]
        self._given = max(self._given, settled)
        if is_clean and piece:
            del self._ids[: self._context_ids]
            self._context_ids = len(self._ids)
            self._given = len(self._tokenizer.decode(self._ids))
        return piece

    def flush(self) -> str:
        """What was held back, even where it is a broken character."""
        rest = self._tokenizer.decode(self._ids)[self._given :]
        self._given += len(rest)
        return rest


def default_template(tokenizer_config: dict[str, Any]) -> str | None:
    """The chat template that an older `tokenizer_config.json` carries: its only one, or the one named `default`."""
    template = tokenizer_config.get("chat_template")
    if isinstance(template, list):
        template = {one["name"]: one["template"] for one in template}.get("default")
    return template


def _load_tokenizer(tokenizer_json: str) -> Tokenizer:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(tokenizer_json)
    # A stored truncation or padding would silently cut or stretch what we encode.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _without_nulls(messages: Sequence[Message]) -> list[Message]:
    """The messages without fields that are null (OpenAI's clients send them); a message always has a content."""
    return [
        cast(Message, {"content": "", **{name: value for name, value in message.items() if value is not None}})
        for message in messages
    ]


def _strings(value: Any) -> Iterator[str]:
    """Every string in a JSON value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for pair in value.items():
            yield from _strings(pair)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)


def _map_strings(value: Any, change: Callable[[str], str]) -> Any:
    """A JSON value with `change` applied to every string in it, keys included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {_map_strings(key, change): _map_strings(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_map_strings(item, change) for item in value]
    return value


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
    return environment
