"""What a GGUF file and `tokenizer.json` call the same things, for byte-level BPE; nothing here touches a file.

GGUF keeps only a name for the way text is cut before merging. A wrong guess gives other ids without an error, so an
unknown name is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nexus_llm.errors import ModelError, PackagingError

Metadata = Mapping[str, Any]

NAMED_TOKENS = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}
"""The field of `tokenizer_config.json` → the middle of GGUF's field, `tokenizer.ggml.<this>_token_id`."""

# Kinds of tokens (gguf.md, `tokenizer.ggml.token_type`).
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """How text is cut before byte-pair merges, as tokenizer.json writes it."""

    steps: tuple[dict[str, Any], ...]
    normalizer: dict[str, Any] | None = None
    ignore_merges: bool = False
    """A word that is a token as a whole is taken without merging (Llama 3)."""
    adds_bos: bool = False
    """What llama.cpp does where the file does not say."""


def _byte_level(*, use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


_DIGITS = {"type": "Digits", "individual_digits": True}
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT_2 = PreTokenizer((_byte_level(use_regex=True),))
_STARCODER = PreTokenizer((_DIGITS, _byte_level(use_regex=True)))
# The models' own tokenizer.json files, by the names that llama.cpp gives (`llama-vocab.cpp`, read 2026-11).
PRE_TOKENIZERS = {
    "gpt-2": _GPT_2,
    "smollm": _STARCODER,
    "starcoder": _STARCODER,
    "llama-bpe": PreTokenizer(
        (_split(_WORDS % r"\p{N}{1,3}"), _byte_level(use_regex=False)), ignore_merges=True, adds_bos=True
    ),
    "qwen2": PreTokenizer((_split(_WORDS % r"\p{N}"), _byte_level(use_regex=False)), normalizer={"type": "NFC"}),
}


def tokenizer_from_metadata(metadata: Metadata) -> dict[str, Any]:
    """The content of `tokenizer.json` for a GGUF file's tokens, merges and pre-tokenizer.

    Raises:
        ModelError: the tokenizer is not byte-level BPE, or its pre-tokenizer is not known.
    """
    kind, pre = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    known = PRE_TOKENIZERS.get(str(pre))
    if kind != "gpt2" or known is None:
        raise ModelError(
            f"this GGUF file's tokenizer ({kind}, {pre}) cannot be rebuilt: it would cut text in other places",
            fix=f"use a byte-level BPE model ({', '.join(PRE_TOKENIZERS)}) or its Hugging Face version",
        )
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    added = [
        added_token(token, token_id, is_special=token_type == _CONTROL)
        for token_id, (token, token_type) in enumerate(zip(tokens, types, strict=True))
        if token_type in (_CONTROL, _USER_DEFINED)
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": known.normalizer,
        "pre_tokenizer": known.steps[0]
        if len(known.steps) == 1
        else {"type": "Sequence", "pretokenizers": list(known.steps)},
        "post_processor": _post_processor(metadata, tokens, known),
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": known.ignore_merges,
            "vocab": {token: token_id for token_id, token in enumerate(tokens)},
            "merges": [merge.split(" ", 1) for merge in metadata["tokenizer.ggml.merges"]],
        },
    }


def added_token(token: str, token_id: int, *, is_special: bool) -> dict[str, Any]:
    """An entry of `added_tokens` in tokenizer.json."""
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token_id, "content": token, **plain, "special": is_special}


def metadata_from_tokenizer(tokenizer: Mapping[str, Any], *, vocabulary: int) -> dict[str, Any]:
    """The fields that a GGUF file needs to cut text as `tokenizer.json` does.

    `vocabulary` is the number of rows in the embedding: ids without a token get a name of their own.

    Raises:
        PackagingError: the tokenizer is not byte-level BPE with a known pre-tokenizer.
    """
    model, pre = tokenizer["model"], _pre_tokenizer_name(tokenizer)
    if model["type"] != "BPE" or pre is None:
        raise PackagingError(
            f"this tokenizer ({model['type']}) cannot be written to GGUF: the engine would cut text in other places",
            fix=f"use a base model with a byte-level BPE tokenizer ({', '.join(PRE_TOKENIZERS)})",
        )
    tokens = [f"[PAD{token_id}]" for token_id in range(vocabulary)]
    types = [_UNUSED] * vocabulary
    for token, token_id in model["vocab"].items():
        tokens[token_id], types[token_id] = token, _NORMAL
    for added in tokenizer["added_tokens"]:
        tokens[added["id"]] = added["content"]
        types[added["id"]] = _CONTROL if added["special"] else _USER_DEFINED
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": merges,
    }


def _post_processor(metadata: Metadata, tokens: list[str], known: PreTokenizer) -> dict[str, Any] | None:
    bos = metadata.get("tokenizer.ggml.bos_token_id")
    if bos is None or not metadata.get("tokenizer.ggml.add_bos_token", known.adds_bos):
        return None
    start = {"SpecialToken": {"id": tokens[bos], "type_id": 0}}
    first, second = {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}
    return {
        "type": "TemplateProcessing",
        "single": [start, first],
        "pair": [start, first, {"SpecialToken": {"id": tokens[bos], "type_id": 1}}, second],
        "special_tokens": {tokens[bos]: {"id": tokens[bos], "ids": [int(bos)], "tokens": [tokens[bos]]}},
    }


def _pre_tokenizer_name(tokenizer: Mapping[str, Any]) -> str | None:
    """llama.cpp's name for the way this tokenizer.json cuts text."""
    pre = tokenizer["pre_tokenizer"] or {}
    steps = pre.get("pretokenizers", [pre]) if pre.get("type") == "Sequence" else [pre]
    for name, known in PRE_TOKENIZERS.items():
        same_steps = [_without_offsets(step) for step in steps] == [_without_offsets(step) for step in known.steps]
        same_rest = (tokenizer["normalizer"], tokenizer["model"].get("ignore_merges", False)) == (
            known.normalizer,
            known.ignore_merges,
        )
        if same_steps and same_rest:
            return name
    return None


def _without_offsets(step: Mapping[str, Any]) -> dict[str, Any]:
    # trim_offsets changes which characters a token is said to cover, never the ids.
    return {name: value for name, value in step.items() if name != "trim_offsets"}
