"""New tokens for a model folder: in its tokenizer, its configuration, and its embeddings.

The vocabulary grows by the rows that are needed and is not padded to a round number. Rows that a model has beyond its
tokenizer's last token (Qwen2.5: 271 of them) are used first, so that they need not grow.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nexus_llm import gguf_format, weights
from nexus_llm.chat import ChatTokenizer
from nexus_llm.errors import ModelError
from nexus_llm.gguf_tokenizer import added_token

_EMBEDDINGS = ("model.embed_tokens.weight", "lm_head.weight")
_LOOKS_SPECIAL = re.compile(r"<\|.+\|>")
_ROWS_AT_ONCE = 8_192
# Names that models give to tokens which stand for nothing: Llama 3's <|finetune_right_pad_id|> and
# <|reserved_special_token_0|>, Qwen's <|vision_pad|>, T5's <extra_id_0>, Gemma's <unused0>, Mistral's [control_8].
_MADE_FOR_PADDING = (re.compile(r"pad", re.IGNORECASE), re.compile(r"reserved|unused|extra_id|control_\d|dummy"))
_ADDED_PAD = "<|pad|>"


def add_tokens(folder: Path, tokens: Sequence[str]) -> dict[str, int]:
    """Makes each text in `tokens` one token of the model in `folder`, and returns their ids.

    A token is special (left out of decoded text, never made from what people type) if it looks like `<|…|>`. Its rows
    in the embedding, and in an output layer of its own, are the mean of all other rows in float32, rounded to
    bfloat16: the new logit then lies within what the model says anyway (Hewitt 2021, "Initializing New Word Embeddings
    for Pretrained Language Models"). One tensor is in memory at a time; the same folder gives the same bytes.

    Raises:
        ModelError: a token is empty, named twice, or in the vocabulary already.
    """
    if not tokens:
        return {}
    tokenizer = ChatTokenizer.load(folder)
    _check_new(tokenizer, tokens)
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    last = max(tokenizer.vocabulary_size - 1, *(int(one["id"]) for one in content["added_tokens"]), 0)
    ids = {token: last + place for place, token in enumerate(tokens, start=1)}
    content["added_tokens"] += [
        added_token(token, token_id, is_special=bool(_LOOKS_SPECIAL.fullmatch(token)))
        for token, token_id in ids.items()
    ]
    file.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    read_back = ChatTokenizer.load(folder)
    wrong = [token for token, token_id in ids.items() if read_back.token_id(token) != token_id]
    if wrong:
        raise ModelError(
            f"{wrong[0]!r} cannot be added: the tokenizer gives it the id {read_back.token_id(wrong[0])} "
            f"instead of {ids[wrong[0]]}",
            fix="take another token, or a model with a plain byte-level BPE tokenizer",
        )
    config_file = folder / "config.json"
    config = json.loads(config_file.read_text(encoding="utf-8"))
    config["vocab_size"] = max(int(config["vocab_size"]), last + len(tokens) + 1)
    _write_rows(folder, config, sorted(ids.values()))
    config_file.write_text(json.dumps(config, ensure_ascii=False, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return ids


def spare_token(tokenizer: ChatTokenizer, *, stops: Iterable[int]) -> str | None:
    """The token to pad with: one that ends nothing and that neither the template nor our data ever writes.

    The model's own pad token where it is such a one; else a special token that was made for padding or for nothing,
    the first of them; else the last special token that has no work in chats; None where there is none. Padding with a
    token that ends answers teaches nothing to end them, where a trainer masks padding by its id.
    """
    named = (tokenizer.named_token_id(name) for name in ("bos_token", "unk_token"))
    busy = {*stops, tokenizer.eos_token_id, tokenizer.document_end_id, *tokenizer.document_start_ids, *named}
    own = tokenizer.named_token_id("pad_token")
    free = {
        token: token_id
        for token, token_id in sorted(tokenizer.control_tokens.items(), key=lambda pair: pair[1])
        if token_id not in busy and token not in (tokenizer.template or "") and tokenizer.is_special(token)
    }
    if own is not None and own not in busy:
        return tokenizer.token(own)
    for pattern in _MADE_FOR_PADDING:
        if found := [token for token in free if pattern.search(token)]:
            return found[0]
    return list(free)[-1] if free else None


def new_pad_token(tokenizer: ChatTokenizer) -> str:
    """A text for a pad token that the vocabulary does not have yet."""
    names = (_ADDED_PAD, *(f"<|pad_{number}|>" for number in range(1, 1_000)))
    return next(name for name in names if tokenizer.token_id(name) is None)


def _check_new(tokenizer: ChatTokenizer, tokens: Sequence[str]) -> None:
    for place, token in enumerate(tokens):
        if not token.strip():
            raise ModelError(f"model.add_tokens has an empty token, {token!r}", fix="remove it")
        if token in tokens[:place]:
            raise ModelError(f"model.add_tokens names {token!r} twice", fix="remove one of them")
        known = tokenizer.token_id(token)
        if known is None:
            # A byte-level vocabulary spells " the" as "Ġthe": ask also what the text becomes.
            ids = tokenizer.encode_bare(token)
            known = ids[0] if len(ids) == 1 and tokenizer.decode(ids, keep_control_tokens=True) == token else None
        if known is not None:
            raise ModelError(
                f"model.add_tokens: {token!r} is a token already, with the id {known}",
                fix="remove it from model.add_tokens: it can be used as it is",
            )


def _write_rows(folder: Path, config: dict[str, Any], ids: list[int]) -> None:
    """Gives the rows `ids` of the embeddings the mean of the others, in as many rows as `config` says."""
    stored = weights.Weights.open(folder)
    shapes = gguf_format.tensor_shapes(config)

    def bits(name: str) -> weights.Bits16:
        old = stored.bits(name)
        if name not in _EMBEDDINGS:
            return old
        new = np.empty(shapes[name], dtype=np.uint16)
        new[: len(old)] = old
        new[ids] = weights.to_bfloat16(_mean_row(old, besides=ids))
        return new

    # Beside the file that it is read from, and renamed over it when it is whole.
    partial = folder / f".{weights.SINGLE_FILE}.partial"
    weights.write_bfloat16(partial, shapes, bits)
    partial.replace(folder / weights.SINGLE_FILE)


def _mean_row(rows: weights.Bits16, *, besides: Sequence[int]) -> weights.Float32:
    """The mean of all rows but some, in float32; summed in float64, so that their order does not matter."""
    is_counted = np.ones(len(rows), np.bool_)
    is_counted[[place for place in besides if place < len(rows)]] = False
    total = np.zeros(rows.shape[1], np.float64)
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        piece = rows[start : start + _ROWS_AT_ONCE][is_counted[start : start + _ROWS_AT_ONCE]]
        total += weights.from_bfloat16(piece).sum(axis=0, dtype=np.float64)
    mean: weights.Float32 = (total / is_counted.sum()).astype(np.float32)
    return mean
