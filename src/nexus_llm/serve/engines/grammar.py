"""JSON Schemas as masks over the vocabulary, by llguidance: one mask a token, whatever the schema.

Source: guidance-ai/llguidance 1.9 (PyPI), its Python API `LLTokenizer` and `LLMatcher`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# JSON allows space without end, and small models take it: they then fill their whole answer with it.
WHITESPACE = r"[\x20\x0A\x0D\x09]{0,16}"


class SchemaGrammars:
    """Makes masks for one tokenizer."""

    def __init__(self, tokenizer_file: Path, *, stop_token_ids: Sequence[int]) -> None:
        import llguidance

        self._library = llguidance
        self._tokenizer = llguidance.LLTokenizer(
            tokenizer_file.read_text(encoding="utf-8"), eos_token=list(stop_token_ids)
        )

    @classmethod
    def load(cls, tokenizer_file: Path, *, stop_token_ids: Sequence[int]) -> SchemaGrammars | None:
        """None where the file, the tokens that may end a document, or llguidance are not there."""
        is_there = tokenizer_file.is_file() and stop_token_ids and importlib.util.find_spec("llguidance") is not None
        return cls(tokenizer_file, stop_token_ids=stop_token_ids) if is_there else None

    def compile(self, json_schema: str) -> SchemaMask:
        """The mask at the start of a document that the schema allows.

        Raises:
            ValueError: the schema is none, or uses what cannot be enforced.
        """
        matcher = self._library.LLMatcher
        grammar = matcher.grammar_from_json_schema(json_schema, overrides={"whitespace_pattern": WHITESPACE})
        complaint = matcher.validate_grammar(grammar, self._tokenizer)
        if complaint:
            raise ValueError("the JSON schema cannot be enforced")
        return SchemaMask(matcher(self._tokenizer, grammar))


class SchemaMask:
    """How far one document has come."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def allowed(self) -> NDArray[np.bool_]:
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        return np.unpackbits(bits, bitorder="little").astype(bool)

    def accept(self, token: int) -> None:
        self._matcher.consume_token(token)

    @property
    def is_done(self) -> bool:
        # An accepted end token stops the matcher; a document that is merely whole may still be followed by space.
        return bool(self._matcher.is_stopped())
