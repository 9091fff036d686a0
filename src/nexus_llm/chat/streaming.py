"""Token ids that arrive one by one, as text that is whole at every moment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nexus_llm.chat.tokenizer import ChatTokenizer

_REPLACEMENT = "\ufffd"


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
