"""Embeddings as OpenAI's API words them: one vector of length 1 an input."""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Sequence

from nexus_llm.serve.answers import WholeChoice, Writer
from nexus_llm.serve.generation import Usage


class EmbeddingWriter(Writer):
    """Writes the answer to one request, which is never streamed."""

    def __init__(self, model: str, *, is_base64: bool) -> None:
        """`is_base64`: each vector as little-endian 32-bit floats in base64, which is what official clients ask for."""
        self._model = model
        self._is_base64 = is_base64

    def whole(self, choices: Sequence[WholeChoice], usage: Usage) -> bytes:
        data = [
            {"object": "embedding", "index": index, "embedding": self._spelled(normalised(choice.embedding))}
            for index, choice in enumerate(choices)
        ]
        told = {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.prompt_tokens}
        document = {"object": "list", "data": data, "model": self._model, "usage": told}
        return json.dumps(document, separators=(",", ":")).encode()

    def _spelled(self, vector: list[float]) -> list[float] | str:
        if not self._is_base64:
            return vector
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def normalised(vector: Sequence[float]) -> list[float]:
    """The vector with length 1; a vector of zeros stays one.

    >>> normalised([3.0, 4.0])
    [0.6, 0.8]
    """
    length = math.sqrt(math.fsum(value * value for value in vector))
    return [value / length for value in vector] if length else list(vector)
