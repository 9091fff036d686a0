"""Prompts of a wanted number of tokens, every one different from its first words on, written in microseconds.

Words are short and common, about one token each in any vocabulary. How many a prompt needs is measured with the
server's own count of prompt tokens, so that neither its tokenizer nor its chat template changes the load.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from nexus_llm.serve.bench.plan import Arrival
from nexus_llm.serve.bench.trace import TRACE_BLOCK_TOKENS

# Short words that common vocabularies hold as one token each, with the blank before them.
_WORDS = """
time year people way day man thing woman life child world school state family student group country problem hand part
place case week company system program question work government number night point home water room mother area money
story fact month lot right study book eye job word business issue side kind head house
"""
WORDS = tuple(_WORDS.split())
CALIBRATION_WORDS = (16, 80)
_STREAM_WORDS = 1 << 15
_HEAD_SPACE = len(WORDS) ** 6


@dataclass(frozen=True, slots=True)
class WordCount:
    """How many words make how many tokens: `words = (tokens - overhead_tokens) / tokens_per_word`."""

    overhead_tokens: float = 0.0
    tokens_per_word: float = 1.0

    @classmethod
    def measured(cls, few_tokens: int, many_tokens: int) -> WordCount:
        """From the server's counts for prompts of 16 and of 80 words.

        >>> WordCount.measured(26, 90).words(128)
        118
        """
        few, many = CALIBRATION_WORDS
        per_word = max((many_tokens - few_tokens) / (many - few), 0.1)
        return cls(few_tokens - few * per_word, per_word)

    def words(self, tokens: int) -> int:
        """Words in a prompt of so many tokens; at least one."""
        return max(1, round((tokens - self.overhead_tokens) / self.tokens_per_word))


class Prompts:
    """Texts by number. Prompts of one seed differ in their first six words; another seed gives others."""

    def __init__(self, count: WordCount, *, seed: int) -> None:
        self._count = count
        source = random.Random(seed)  # noqa: S311 - load, not secrets
        self._shift = source.randrange(_HEAD_SPACE)
        stream = source.choices(WORDS, k=_STREAM_WORDS)
        # One long text and where its words begin: a prompt is a slice of it, which costs a copy and no loop.
        self._text = " ".join(stream) + " "
        self._starts = [0]
        for word in stream:
            self._starts.append(self._starts[-1] + len(word) + 1)

    def text(self, number: int, arrival: Arrival) -> str:
        wanted = self._count.words(arrival.input_tokens)
        if not arrival.blocks:
            return self._words(number, wanted)
        # Blocks of one name are the same text, so that a prefix cache finds what it would have found.
        each = max(1, round(TRACE_BLOCK_TOKENS / self._count.tokens_per_word))
        texts, left = [], wanted
        for block in arrival.blocks:
            texts.append(self._words(block, min(each, left)))
            left -= each
            if left <= 0:
                break
        return " ".join(texts)

    def _words(self, number: int, words: int) -> str:
        """So many words: the number written in words, then a part of the long text."""
        rest, head = (number * 7_919 + self._shift) % _HEAD_SPACE, []
        for _ in range(min(6, words)):
            rest, digit = divmod(rest, len(WORDS))
            head.append(WORDS[digit])
        left, parts = words - len(head), [" ".join(head)]
        begin = (number * 2_654_435_761) % (_STREAM_WORDS // 2)
        while left > 0:
            taken = min(left, _STREAM_WORDS - begin)
            parts.append(self._text[self._starts[begin] : self._starts[begin + taken] - 1])
            left, begin = left - taken, 0
        return " ".join(parts)
