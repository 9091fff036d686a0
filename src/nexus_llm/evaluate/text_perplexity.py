"""Perplexity of any text, as lm-evaluation-harness defines it: per token, per word, per byte.

Every token is predicted once, the first one from the model's start token. A text longer than the window is read in
windows: with `stride` = `window` they only touch, as the harness's do, and the first tokens of each have little
context; with a smaller stride each window starts with `window - stride` tokens of context that were counted before. All
documents are weighted by their length: the sum of negative log-likelihoods over the sum of tokens, words (pieces
between white space, as the harness counts) or UTF-8 bytes. Only figures per byte or word can be compared between
tokenizers.

Two things differ from the harness's task `wikitext`: it detokenises the text before the model reads it, but counts
words and bytes before (give it as it shall be read instead); and where a tokenizer opens every text itself (Llama 3),
the harness counts that token, which is not text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexus_llm.errors import EvaluationError, UsageError
from nexus_llm.evaluate.asking import kept_file, scores_of
from nexus_llm.evaluate.general import general_files, read_general
from nexus_llm.evaluate.perplexity import TokenizedDocument, load_model, score
from nexus_llm.evaluate.results import ItemResult, TaskResult, content_sha256
from nexus_llm.records import CompleterFacts, DocumentScore

if TYPE_CHECKING:
    from nexus_llm.chat import ChatTokenizer
    from nexus_llm.ports import Ports

# The logits of one window: 2,048 × 49,152 × 4 bytes = 400 MB.
_MOST_TOKENS = 2_048
_SUMS = ("tokens", "words", "bytes", "negative_log_likelihood")
# Windows between two answers, so that little is lost when a run is stopped.
_TOGETHER = 8


@dataclass(frozen=True, slots=True)
class TextPerplexity:
    """What a model makes of all documents together."""

    split: str
    documents: int
    tokens: int
    words: int
    bytes: int
    negative_log_likelihood: float
    """Sum over all tokens, in nats."""

    @property
    def figures(self) -> dict[str, float]:
        """By the harness's names; a token's depends on the tokenizer."""
        loss = self.negative_log_likelihood
        return {
            "bits_per_byte": loss / self.bytes / math.log(2),
            "byte_perplexity": _exp(loss / self.bytes),
            "word_perplexity": _exp(loss / self.words),
            "token_perplexity": _exp(loss / self.tokens),
        }


@dataclass(frozen=True, slots=True)
class Reading:
    """How the text is read."""

    split: str
    """Of which data set's part the text is: `test`, or the name of a file."""
    window: int | None = None
    """Tokens that are predicted from one another; None: the model's context, at most 2,048."""
    stride: int | None = None
    """Tokens that a window moves on; None: the whole window."""
    precision: str = "float32"


def text_perplexity(
    folder: Path, text: Path, reading: Reading, out: Path, ports: Ports, *, weights_sha256: str | None = None
) -> tuple[TextPerplexity, TaskResult]:
    """How well the Hugging Face model in `folder` predicts a file or folder of text: in all, and each document (a
    whole txt or md file, a row of jsonl). Window by window the scores are kept in `out`.

    Raises:
        UsageError: the window or the stride does not fit the model.
        DataError: there is no text. ModelError: no model, or it predicts what is no number.
        TryAgainError: somebody asked to stop.
    """
    from transformers import AutoConfig

    from nexus_llm.chat import ChatTokenizer

    documents = read_general(general_files(str(text)))
    if not documents:
        raise EvaluationError(f"{text} holds no text", fix="give txt, md, or jsonl with rows of `text`")
    tokenizer = ChatTokenizer.load(folder)
    context = getattr(
        AutoConfig.from_pretrained(folder, local_files_only=True), "max_position_embeddings", _MOST_TOKENS
    )
    window = reading.window or min(context, _MOST_TOKENS)
    stride = reading.stride or window
    if window > context or stride > window:
        raise UsageError(
            f"a window of {window} tokens with a stride of {stride} does not fit: the model has {context} places",
            fix="take --stride ≤ --window ≤ the model's context",
        )
    encoded = [_bare(one, tokenizer) for one in tokenizer.encode_documents([text for _, text in documents])]
    windows = [
        TokenizedDocument(f"{place}:{number}", tuple(ids), first)
        for place, token_ids in enumerate(encoded)
        for number, (ids, first) in enumerate(token_windows(token_ids, _start(tokenizer), window=window, stride=stride))
    ]
    facts = CompleterFacts(
        model=folder.resolve().name,
        road="transformers",
        precision=reading.precision,
        context_tokens=context,
        weights_sha256=weights_sha256,
    )
    model: list[Any] = []

    def scored(batch: Sequence[TokenizedDocument]) -> Iterator[DocumentScore]:
        if not model:  # what is kept already needs none
            model.append(load_model(folder, precision=reading.precision))
        for start in range(0, len(batch), _TOGETHER):
            yield from score(model[0], batch[start : start + _TOGETHER])

    found = scores_of(windows, scored, kept_file(out, facts, windows), ports)
    return _put_together(documents, found, reading, facts, window=window, stride=stride)


def token_windows(
    token_ids: Sequence[int], start_id: int, *, window: int, stride: int
) -> Iterator[tuple[list[int], int]]:
    """(ids of a window with what stands before it, place of the first one that counts), until all tokens have counted.

    >>> list(token_windows([1, 2, 3, 4, 5], 0, window=3, stride=2))
    [([0, 1, 2, 3], 1), ([2, 3, 4, 5], 2)]
    """
    opened = [start_id, *token_ids]
    counted = 0
    while counted < len(token_ids):
        end = min(counted + (stride if counted else window), len(token_ids))
        begin = max(0, end - window)
        yield opened[begin : end + 1], counted + 1 - begin
        counted = end


def _put_together(
    documents: Sequence[tuple[str, str]],
    found: Sequence[DocumentScore],
    reading: Reading,
    facts: CompleterFacts,
    *,
    window: int,
    stride: int,
) -> tuple[TextPerplexity, TaskResult]:
    losses, tokens = [0.0] * len(documents), [0] * len(documents)
    for one in found:
        place = int(one.id.partition(":")[0])
        losses[place] += one.negative_log_likelihood
        tokens[place] += one.tokens
    whole = [
        TextPerplexity(reading.split, 1, count, words_in(text), len(text.encode()), loss)
        for (_, text), count, loss in zip(documents, tokens, losses, strict=True)
    ]
    sums = {name: sum(getattr(one, name) for one in whole) for name in _SUMS}
    together = TextPerplexity(reading.split, len(whole), **sums)
    items = tuple(
        ItemResult(
            f"{place}:{name}",
            {"bits_per_byte": one.figures["bits_per_byte"], **{name: float(getattr(one, name)) for name in _SUMS}},
        )
        for place, ((name, _), one) in enumerate(zip(documents, whole, strict=True))
    )
    result = TaskResult(
        task="perplexity",
        version="1",
        metric="bits_per_byte",
        dataset_sha256=content_sha256(documents),
        few_shot=0,
        completer=facts,
        items=items,
        settings={"split": reading.split, "window": window, "stride": stride},
        aggregates=together.figures,
        higher_is_better=False,
    )
    return together, result


def words_in(text: str) -> int:
    """Words as the harness counts them: pieces between white space, with the empty ones at both ends."""
    return len(re.split(r"\s+", text))


def _bare(token_ids: Sequence[int], tokenizer: ChatTokenizer) -> list[int]:
    """A document's ids without those that open and close it."""
    return list(token_ids[len(tokenizer.document_start_ids) : -1])


def _start(tokenizer: ChatTokenizer) -> int:
    """What the harness predicts the first token from: the start token, else the end token."""
    found = tokenizer.named_token_id("bos_token")
    return tokenizer.eos_token_id if found is None else found


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf
