"""What an engine predicts after every token of a text, over the whole vocabulary: for proofs, not for answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

BATCH_TOKENS = 512


def predictions(engine: str, weights: Path, rows: Sequence[Sequence[int]]) -> Iterator[npt.NDArray[np.float32]]:
    """For each row of token ids the logits of every next token, shape (tokens - 1, vocabulary).

    The weights are read by the engine's own reader and computed by its own kernels, at the precision that it answers
    with; its batching and its cache across requests are not part of it.
    """
    return _openvino(weights, rows) if engine == "openvino" else _llama_cpp(weights, rows)


def _openvino(weights: Path, rows: Sequence[Sequence[int]]) -> Iterator[npt.NDArray[np.float32]]:
    import numpy as np

    from nexus_llm.serve.engines.openvino_prompts import PromptReader

    reader = PromptReader(weights)
    for row in rows:
        yield np.concatenate([np.array(piece, dtype=np.float32) for piece in reader.logits(list(row))])[:-1]


def _llama_cpp(weights: Path, rows: Sequence[Sequence[int]]) -> Iterator[npt.NDArray[np.float32]]:
    import os

    import numpy as np

    from nexus_llm.serve.engines.llama_library import LlamaModel

    longest = max(map(len, rows), default=1)
    model = LlamaModel(
        weights,
        cache_tokens=max(256, -(-longest // 256) * 256),
        cache_bytes=0,
        sequences=1,
        batch=BATCH_TOKENS,
        threads=len(os.sched_getaffinity(0)),
    )
    try:
        for row in rows:
            pieces = []
            for start in range(0, len(row), BATCH_TOKENS):
                part = row[start : start + BATCH_TOKENS]
                model.decode([(token, start + place, 0, True) for place, token in enumerate(part)])
                pieces += [model.logits(place).copy() for place in range(len(part))]
            model.forget(0)
            yield np.stack(pieces[:-1])
    finally:
        model.close()
