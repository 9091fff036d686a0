"""Conversations become token ids here and nowhere else: in data, training, packaging, evaluation and serving.

The template is Jinja, run in the same sandbox and with the same settings as transformers' `apply_chat_template`
(transformers 5.23, `chat_template_utils.py`); a test compares the two. Neither torch nor transformers is loaded.

Text that a user typed can never become a control token: where a message spells one out (`<|im_end|>`), those
characters are encoded as plain text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from nexus_llm.errors import ModelError
from nexus_llm.records import Message

if TYPE_CHECKING:
    import jinja2
    from tokenizers import Tokenizer

# Tokens that end a document in pre-training, by the model families that use them.
_DOCUMENT_ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>")
# Private-use characters stand in for control tokens that a message spells out; see `ChatTokenizer._encode`.
_STAND_IN = 0xF0000


@dataclass(frozen=True)
class EncodedConversation:
    """A conversation as token ids."""

    token_ids: list[int]
    is_assistant: list[bool]
    """For each token: the assistant wrote it (its words and its end-of-turn token), so `sft` learns it."""


class ChatTokenizer:
    """A model's tokenizer together with its chat template."""

    def __init__(self, tokenizer: Tokenizer, *, template: str | None, config: dict[str, Any]) -> None:
        self._tokenizer = tokenizer
        self._template_source = template
        self._config = config

    @classmethod
    def load(cls, folder: Path) -> ChatTokenizer:
        """From `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja` in a Hugging Face model folder.

        Raises:
            ModelError: the folder has no readable tokenizer.
        """
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        except Exception as error:  # noqa: BLE001 - tokenizers raises plain Exception for every fault
            raise ModelError(
                f"{folder} has no readable tokenizer ({error})",
                fix="a model folder needs tokenizer.json and tokenizer_config.json",
            ) from error
        template_file = folder / "chat_template.jinja"
        template = template_file.read_text(encoding="utf-8") if template_file.exists() else config.get("chat_template")
        # A stored truncation or padding would silently cut or stretch what we encode.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return cls(tokenizer, template=template, config=config)

    @cached_property
    def control_tokens(self) -> dict[str, int]:
        """Every special token's text and id."""
        added = self._tokenizer.get_added_tokens_decoder()
        return {token.content: token_id for token_id, token in sorted(added.items()) if token.special}

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids, control tokens included."""
        return cast(int, self._tokenizer.get_vocab_size(with_added_tokens=True))

    @property
    def eos_token_id(self) -> int:
        """Ends the assistant's turn.

        Raises:
            ModelError: the tokenizer names none.
        """
        return self._control_id("eos_token")

    @cached_property
    def document_end_id(self) -> int:
        """Ends a document of running text: the pre-training separator where the vocabulary has one, else eos."""
        for text in _DOCUMENT_ENDS:
            if text in self.control_tokens:
                return self.control_tokens[text]
        return self.eos_token_id

    def encode_document(self, text: str) -> list[int]:
        """Token ids of running text, closed by `document_end_id`."""
        return [*self._encode_plain(text), self.document_end_id]

    def encode_documents(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode_document` of many texts, on all cores."""
        self._tokenizer.encode_special_tokens = True
        encoded = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [[*one.ids, self.document_end_id] for one in encoded]

    def encode_text(self, text: str) -> list[int]:
        """Token ids of a raw prompt. Spelled-out control tokens become the control tokens, as `/v1/completions`
        callers expect who apply a template themselves."""
        self._tokenizer.encode_special_tokens = False
        return cast("list[int]", self._tokenizer.encode(text, add_special_tokens=False).ids)

    def encode_prompt(self, messages: Sequence[Message], *, tools: Sequence[dict[str, Any]] | None = None) -> list[int]:
        """Token ids of a conversation up to where the assistant begins to answer.

        Raises:
            ModelError: the model has no chat template, or the template refuses the conversation.
        """
        protected, stand_ins = self._protect(messages)
        return self._encode(self.render(protected, tools=tools, add_generation_prompt=True), stand_ins)[0]

    def encode_conversation(self, messages: Sequence[Message]) -> EncodedConversation:
        """Token ids of a whole conversation, and which of them the assistant wrote.

        A turn's share of the text is what the template adds for it, so the mask holds for every template that only
        appends (checked).

        Raises:
            ModelError: the template rewrites earlier turns, or refuses the conversation.
        """
        protected, stand_ins = self._protect(messages)
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
            return self._template.render(
                messages=list(messages),
                tools=list(tools) if tools else None,
                add_generation_prompt=add_generation_prompt,
                **{name: self._token_text(name) for name in ("bos_token", "eos_token", "pad_token", "unk_token")},
            )
        except (jinja2.TemplateError, TypeError) as error:
            raise ModelError(
                f"the model's chat template refuses this conversation: {error}",
                fix="check the order and roles of the messages",
            ) from error

    def decode(self, token_ids: Sequence[int], *, keep_control_tokens: bool = False) -> str:
        """The text of token ids."""
        return cast(str, self._tokenizer.decode(list(token_ids), skip_special_tokens=not keep_control_tokens))

    @cached_property
    def _template(self) -> jinja2.Template:
        if not self._template_source:
            raise ModelError(
                "this model has no chat template", fix="use /v1/completions, or add chat_template.jinja to its folder"
            )
        return _environment().from_string(self._template_source)

    def _token_text(self, name: str) -> str:
        value = self._config.get(name)
        return str(value["content"] if isinstance(value, dict) else value or "")

    def _control_id(self, name: str) -> int:
        token_id = self._tokenizer.token_to_id(self._token_text(name))
        if token_id is None:
            raise ModelError(f"the tokenizer names no {name}", fix=f"add {name} to its tokenizer_config.json")
        return cast(int, token_id)

    def _protect(self, messages: Sequence[Message]) -> tuple[list[Message], dict[str, str]]:
        """Messages with every spelled-out control token replaced by a stand-in character, and what each stands for."""
        stand_ins: dict[str, str] = {}
        protected = []
        for message in messages:
            content = message.get("content") or ""
            for number, token in enumerate(self.control_tokens):
                if token in content:
                    stand_in = chr(_STAND_IN + number)
                    stand_ins[stand_in] = token
                    content = content.replace(token, stand_in)
            protected.append(cast(Message, {**message, "content": content}))
        return protected, stand_ins

    def _encode(self, rendered: str, stand_ins: dict[str, str]) -> tuple[list[int], list[int]]:
        """Token ids of rendered text, and the character at which each begins."""
        ids: list[int] = []
        starts: list[int] = []
        position = 0
        for piece in _split_at(rendered, stand_ins):
            if piece in stand_ins:
                plain = self._encode_plain(stand_ins[piece])
                ids += plain
                starts += [position] * len(plain)
            else:
                self._tokenizer.encode_special_tokens = False
                encoded = self._tokenizer.encode(piece, add_special_tokens=False)
                ids += encoded.ids
                starts += [position + start for start, _ in encoded.offsets]
            position += len(piece)
        return ids, starts

    def _encode_plain(self, text: str) -> list[int]:
        self._tokenizer.encode_special_tokens = True
        return cast("list[int]", self._tokenizer.encode(text, add_special_tokens=False).ids)


class StreamDecoder:
    """Turns a growing list of token ids into pieces of text that never split a character.

    A byte-level token may hold a part of a character: text is held back while it ends in U+FFFD. Only the tokens
    since the last clean cut are decoded again, so a long answer costs linear time (Hugging Face TGI does the same).
    """

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._prefix_start = 0
        self._read_to = 0

    def push(self, token_ids: Sequence[int]) -> str:
        """The text that these tokens complete; may be empty."""
        self._ids += token_ids
        prefix = self._tokenizer.decode(self._ids[self._prefix_start : self._read_to])
        text = self._tokenizer.decode(self._ids[self._prefix_start :])
        if text.endswith("�") or len(text) <= len(prefix):
            return ""
        self._prefix_start, self._read_to = self._read_to, len(self._ids)
        return text[len(prefix) :]

    def flush(self) -> str:
        """What was held back, even where it is a broken character."""
        prefix = self._tokenizer.decode(self._ids[self._prefix_start : self._read_to])
        text = self._tokenizer.decode(self._ids[self._prefix_start :])
        self._prefix_start = self._read_to = len(self._ids)
        return text[len(prefix) :]


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

    def tojson(value: object, *, indent: int | None = None) -> str:
        # Jinja's own filter escapes for HTML, which a model must not see.
        return json.dumps(value, ensure_ascii=False, indent=indent)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    return environment


def _split_at(text: str, marks: dict[str, str]) -> list[str]:
    """`text` cut before and after each mark, the marks kept, empty pieces left out."""
    pieces = [""]
    for character in text:
        if character in marks:
            pieces += [character, ""]
        else:
            pieces[-1] += character
    return [piece for piece in pieces if piece]
