"""A model's tokenizer and its chat template as one: text to ids, ids to text.

Text that a user typed can never become a control token: where a message spells one out (`<|im_end|>`), those
characters are encoded as plain text (transformers calls this `sanitize_control_tokens`).
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from nexus_llm.chat.conversations import as_templates_take_it, map_strings, strings
from nexus_llm.chat.streaming import TokenPieces
from nexus_llm.chat.template import ChatTemplate, Tools, default_template
from nexus_llm.chat.turns import assistant_spans, refuse_lost_tools, refuse_lost_words
from nexus_llm.errors import ModelError
from nexus_llm.records import Message, ToolCall

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

Value = TypeVar("Value")

# Tokens that end a document in pre-training, by the model families that use them.
_DOCUMENT_ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>")
# Characters that mean nothing (Unicode 16, chapter 23.5): they stand in for control tokens that a message spells out.
_PRIVATE_USE = range(0xF0000, 0xFFFFE)
_HELLO: Message = {"role": "user", "content": "Hello"}
_ANSWER: Message = {"role": "assistant", "content": "Good day"}
_LOOKING: ToolCall = {"id": "abcdefghi", "type": "function", "function": {"name": "look", "arguments": {"at": "it"}}}
_CALL: Message = {"role": "assistant", "content": "", "tool_calls": [_LOOKING]}
_CALLS: Message = {"role": "assistant", "content": "", "tool_calls": [_LOOKING, _LOOKING]}
_RESULT: Message = {"role": "tool", "content": "seen", "name": "look", "tool_call_id": "abcdefghi"}
_LOOK = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Looks.",
        "parameters": {"type": "object", "properties": {"at": {"type": "string"}}},
    },
}
# What `turn_end_ids` looks at. Mistral's templates want call ids of nine letters and digits.
_SAMPLES: tuple[tuple[list[Message], Tools], ...] = (
    ([_HELLO, _ANSWER], None),
    ([_HELLO, _ANSWER, _HELLO, _ANSWER], None),
    ([{"role": "system", "content": "Be kind"}, _HELLO, _ANSWER], None),
    ([_HELLO, _CALL, _RESULT, _ANSWER], [_LOOK]),
    ([_HELLO, _CALLS, _RESULT, _RESULT, _ANSWER], [_LOOK]),
)


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

    @cached_property
    def longest_token_characters(self) -> int:
        """The most characters that one token stands for: a text of so many times `n` has more than `n` tokens."""
        # Byte-level vocabularies spell each byte as a character, so that theirs are never too short.
        return max(map(len, self._tokenizer.get_vocab(with_added_tokens=True)))

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
    def turn_end_ids(self) -> list[int]:
        """The tokens with which the chat template ends a turn of the assistant, first that of an ordinary answer.

        Found by rendering small conversations, so a model's own names need not be known. Empty where there is no
        template, or one that writes no token behind an answer.
        """
        control = set(self.control_tokens.values())
        ends: list[int] = []
        inside: set[int] = set()
        for messages, tools in _SAMPLES if self.template else ():
            try:
                sample = self.encode_conversation(messages, tools=tools)
            except ModelError:
                continue  # not every template takes a system message, or tools
            for turn in reversed(_runs(sample)):
                place = max((place for place, token_id in enumerate(turn) if token_id in control), default=len(turn))
                inside.update(turn[:place])
                if place < len(turn) and not self.decode(turn[place + 1 :]).strip():
                    ends.append(turn[place])
        # What ends a call but not the turn (GLM's </tool_call>) also stands between two calls.
        return [token_id for token_id in dict.fromkeys(ends) if token_id not in inside]

    @cached_property
    def stop_token_ids(self) -> list[int]:
        """Every token after which an answer is over, sorted: eos, the ends of turns, the end of a document."""
        return sorted({self.eos_token_id, *self.turn_end_ids, self.document_end_id})

    def named_token_id(self, name: str) -> int | None:
        """The id of the tokenizer's `eos_token`, `bos_token`, `pad_token` or `unk_token`, or None."""
        return self._tokenizer.token_to_id(self._token_text(name))

    def token_id(self, token: str) -> int | None:
        """The id of a token by its text as the vocabulary spells it, or None."""
        return self._tokenizer.token_to_id(token)

    def token(self, token_id: int) -> str | None:
        """A token's text as the vocabulary spells it, or None where no token has that id."""
        return self._tokenizer.id_to_token(token_id)

    def is_special(self, token: str) -> bool:
        """Whether it is an added token that is left out of decoded text."""
        added = self._tokenizer.get_added_tokens_decoder().get(self.control_tokens.get(token, -1))
        return added is not None and bool(added.special)

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

    def encode_bare(self, text: str) -> list[int]:
        """Token ids of a piece of text with nothing before or behind it; control tokens become control tokens."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def encode_prompt(self, messages: Sequence[Message], *, tools: Tools = None) -> list[int]:
        """Token ids of a conversation up to where the assistant begins to answer.

        Raises:
            ModelError: the model has no chat template, or the template refuses the conversation or ignores its tools.
        """
        conversation, tools, stand_ins = self._readied(messages, tools)
        rendered = self._chat_template.render(conversation, tools=tools, add_generation_prompt=True)
        refuse_lost_tools(self._chat_template, conversation, tools=tools, text=rendered, add_generation_prompt=True)
        return [token_id for part, _ in self._encoded(rendered, stand_ins) for token_id in part.ids]

    def encode_conversation(self, messages: Sequence[Message], *, tools: Tools = None) -> EncodedConversation:
        """Token ids of a whole conversation, and which of them the assistant wrote: `turns.assistant_spans`.

        Results of tools are not the assistant's; its calls are.

        Raises:
            ModelError: nobody can say what the assistant wrote, the template refuses the conversation, or it leaves
                out tools, calls or their results.
        """
        conversation, tools, stand_ins = self._readied(messages, tools)
        template = self._chat_template
        whole = template.render(conversation, tools=tools)
        refuse_lost_tools(template, conversation, tools=tools, text=whole)
        refuse_lost_words(template, conversation, tools=tools, text=whole)
        spans = assistant_spans(template, conversation, tools=tools, text=whole)
        token_ids: list[int] = []
        starts: list[int] = []
        for part, begin in self._encoded(whole, stand_ins):
            token_ids += part.ids
            starts += [begin if whole[begin] in stand_ins else begin + start for start, _ in part.offsets]
        bounds = list(chain.from_iterable(spans))
        return EncodedConversation(token_ids, [bisect_right(bounds, start) % 2 == 1 for start in starts])

    def render(self, messages: Sequence[Message], *, tools: Tools = None, add_generation_prompt: bool = False) -> str:
        """The conversation as the text that the template makes of it.

        Raises:
            ModelError: the model has no chat template, or the template refuses the conversation.
        """
        conversation = as_templates_take_it(messages)
        return self._chat_template.render(conversation, tools=tools, add_generation_prompt=add_generation_prompt)

    def decode(self, token_ids: Sequence[int], *, keep_control_tokens: bool = False) -> str:
        """The text of token ids."""
        return self._tokenizer.decode(list(token_ids), skip_special_tokens=not keep_control_tokens)

    @cached_property
    def pieces(self) -> TokenPieces | None:
        """Texts of single tokens, where a text is those of its tokens joined; None where neighbours matter."""
        from tokenizers.decoders import ByteLevel

        return TokenPieces(self.decode) if isinstance(self._tokenizer.decoder, ByteLevel) else None

    @cached_property
    def _chat_template(self) -> ChatTemplate:
        if not self.template:
            raise ModelError(
                "this model has no chat template, so a conversation cannot become tokens",
                fix="use an instruct model, or add chat_template.jinja to its folder; running text "
                "(continued-pretraining, /v1/completions) needs none",
            )
        names = ("bos_token", "eos_token", "pad_token", "unk_token")
        return ChatTemplate(self.template, special_tokens={name: self._token_text(name) for name in names})

    @cached_property
    def _typed(self) -> Tokenizer:
        """Encodes control tokens that people typed: `_plain`, but that would still find those that are not special."""
        content = json.loads(self._tokenizer.to_str())
        ordinary = [
            one for one in content["added_tokens"] if one["content"] in self.control_tokens and not one["special"]
        ]
        if not ordinary:
            return self._plain
        for one in ordinary:
            one["special"] = True
        tokenizer = _load_tokenizer(json.dumps(content))
        tokenizer.encode_special_tokens = True
        return tokenizer

    def _token_text(self, name: str) -> str:
        value = self._config.get(name)
        return str(value["content"] if isinstance(value, dict) else value or "")

    @cached_property
    def _control_pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self.control_tokens, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def _readied(self, messages: Sequence[Message], tools: Tools) -> tuple[list[Message], Tools, dict[str, str]]:
        """The conversation and its tools as the template takes them, control tokens in them replaced, and by what."""
        conversation = as_templates_take_it(messages)
        stand_ins = self._stand_ins([conversation, tools])
        return self._protect(conversation, stand_ins), self._protect(tools, stand_ins), stand_ins

    def _protect(self, value: Value, stand_ins: dict[str, str]) -> Value:
        """`value` with every control token that its strings spell out replaced by a stand-in character.

        `stand_ins` (stand-in → control token) must have been made for all the texts that are rendered together.
        """
        if not stand_ins:
            return value
        by_token = {token: stand_in for stand_in, token in stand_ins.items()}
        return cast(
            Value,
            map_strings(value, lambda text: self._control_pattern.sub(lambda found: by_token[found[0]], text)),
        )

    def _stand_ins(self, value: object) -> dict[str, str]:
        """A private-use character that no string in `value` contains, for each control token that one spells out."""
        whole = "\n".join(strings(value))
        found = sorted(set(self._control_pattern.findall(whole)))
        free = (chr(code) for code in _PRIVATE_USE if chr(code) not in whole)
        return dict(zip(free, found, strict=False))

    def _encoded(self, rendered: str, stand_ins: dict[str, str]) -> Iterator[tuple[Encoding, int]]:
        """Rendered text in parts, each with the character at which it begins: a stand-in's tokens all begin there."""
        pieces = re.split(f"([{''.join(stand_ins)}])", rendered) if stand_ins else [rendered]
        position = 0
        for piece in pieces:
            if piece in stand_ins:
                yield self._typed.encode(stand_ins[piece], add_special_tokens=False), position
            elif piece:
                yield self._tokenizer.encode(piece, add_special_tokens=False), position
            position += len(piece)


def _load_tokenizer(tokenizer_json: str) -> Tokenizer:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(tokenizer_json)
    # A stored truncation or padding would silently cut or stretch what we encode.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _runs(encoded: EncodedConversation) -> list[list[int]]:
    """The assistant's tokens, turn by turn."""
    tokens = zip(encoded.token_ids, encoded.is_assistant, strict=True)
    return [[token_id for token_id, _ in run] for is_own, run in groupby(tokens, key=itemgetter(1)) if is_own]
