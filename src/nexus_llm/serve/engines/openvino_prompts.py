"""Prompts read as a whole: how likely each token was, which would have been likelier, and the mean hidden state.

The continuous-batching pipeline of OpenVINO GenAI 2026.4.1 can echo a prompt with log probabilities, but only of the
part that its prefix cache does not know, without alternatives, and it keeps hidden states to itself. So prompts are
read by the same graph without batching: GenAI writes it down when it reads the GGUF file, and the input of its last
matrix product is what it hides. The weights lie in memory a second time then, but not before they are asked for.

Reading goes on in a thread beside the pipeline's steps: OpenVINO works without Python's lock.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexus_llm.serve.engines.port import EngineRequest

if TYPE_CHECKING:
    import numpy as np
    import openvino

CHUNK_TOKENS = 256  # logits of one chunk: 50 MB for a vocabulary of 49,152

Likely = tuple[int, float]
"""A token and its log probability."""


@dataclass(frozen=True, slots=True)
class PromptReading:
    """What was asked for of one prompt."""

    logprobs: list[float] = field(default_factory=list)
    """Of its tokens from the second on."""
    top_logprobs: list[list[Likely]] = field(default_factory=list)
    next_token: Likely = (0, 0.0)
    """The likeliest token behind it."""
    next_top: list[Likely] = field(default_factory=list)
    embedding: list[float] = field(default_factory=list)
    """Mean over all its tokens."""


class PromptReader:
    """Reads prompts, one after the other, in a thread of its own."""

    def __init__(self, weights: Path) -> None:
        """`weights` is the GGUF file, or the folder with OpenVINO's own files, that the pipeline reads too."""
        self._weights = weights
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prompts")
        self._model: openvino.InferRequest | None = None

    def logits(self, token_ids: list[int]) -> Iterator[np.ndarray[Any, Any]]:
        """What it predicts after each of the tokens, piece by piece, of shape (tokens, vocabulary), read here and now.

        A piece is a view that the next one overwrites.
        """
        if self._model is None:
            self._model = _load(self._weights)
        return (logits for logits, _ in self._chunks(token_ids))

    def start(self, request: EngineRequest) -> Future[PromptReading]:
        """Begins to read as soon as earlier prompts are done. Cancelling the future takes it out of the queue."""
        return self._thread.submit(self._read, request)

    def _read(self, request: EngineRequest) -> PromptReading:
        if self._model is None:
            self._model = _load(self._weights)
        if request.embed:
            return PromptReading(embedding=self._embedding(request.token_ids))
        return self._score(request.token_ids, request.top_logprobs)

    def _embedding(self, token_ids: list[int]) -> list[float]:
        total = sum(hidden.sum(axis=0, dtype="float64") for _, hidden in self._chunks(token_ids))
        return [float(value) for value in total / len(token_ids)]

    def _score(self, token_ids: list[int], top: int) -> PromptReading:
        logprobs: list[float] = []
        tops: list[list[Likely]] = []
        for logits, _ in self._chunks(token_ids):
            norms = _log_sum_exp(logits)
            # The last row of all tells of the token behind the prompt: it has no next token here.
            nexts = token_ids[len(logprobs) + 1 : len(logprobs) + 1 + len(logits)]
            logprobs += [float(logits[place, token] - norms[place]) for place, token in enumerate(nexts)]
            tops += [_likeliest(logits[place], norms[place], top) for place in range(len(nexts))] if top else []
        last, norm = logits[-1], norms[-1]
        return PromptReading(logprobs, tops, _likeliest(last, norm, 1)[0], _likeliest(last, norm, top))

    def _chunks(self, token_ids: list[int]) -> Iterator[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
        """(logits of shape (tokens, vocabulary), hidden states of shape (tokens, width)), chunk by chunk."""
        import numpy as np

        model = self._model
        assert model is not None
        model.reset_state()
        for start in range(0, len(token_ids), CHUNK_TOKENS):
            part = token_ids[start : start + CHUNK_TOKENS]
            end = start + len(part)
            model.infer(
                {
                    "input_ids": np.array([part], dtype=np.int64),
                    "attention_mask": np.ones((1, end), dtype=np.int64),
                    "position_ids": np.arange(start, end, dtype=np.int64)[None],
                    "beam_idx": np.zeros(1, dtype=np.int32),
                }
            )
            yield model.get_output_tensor(0).data[0], model.get_output_tensor(1).data[0]


def _load(weights: Path) -> openvino.InferRequest:
    """The graph with logits and hidden states as its outputs."""
    import openvino
    import openvino_genai

    with tempfile.TemporaryDirectory(prefix="nexus-prompts-") as folder:
        place = weights
        if not weights.is_dir():
            place = Path(folder)
            link = place / weights.name  # the graph is written beside the file that is read
            link.symlink_to(weights.resolve())
            openvino_genai.LLMPipeline(str(link), "CPU", enable_save_ov_model=True)
        core = openvino.Core()
        model = core.read_model(place / "openvino_model.xml")
        product = model.get_results()[0].input_value(0).get_node()
        while product.get_type_name() != "MatMul":  # conversions of types may stand behind it
            product = product.input_value(0).get_node()
        model.add_outputs(product.input_value(0))
        return core.compile_model(model, "CPU").create_infer_request()


def _log_sum_exp(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What each row's logits have to be lowered by to be log probabilities."""
    import numpy as np

    highest = logits.max(axis=-1, keepdims=True)
    powers = logits - highest
    return np.asarray(highest[:, 0] + np.log(np.exp(powers, out=powers).sum(axis=-1)))


def _likeliest(row: np.ndarray[Any, Any], norm: float, count: int) -> list[Likely]:
    """The `count` likeliest tokens of a row of logits, likeliest first."""
    import numpy as np

    if count <= 1:
        return [(int(row.argmax()), float(row.max() - norm))] * count
    best = np.argpartition(row, -count)[-count:]
    return [(int(token), float(row[token] - norm)) for token in best[np.argsort(-row[best], kind="stable")]]
