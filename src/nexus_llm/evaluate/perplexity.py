"""How well a model predicts documents, in nats.

bfloat16 by measurement: on 44 pages of Python documentation SmolLM2-135M's loss per token differed from float32's by
0.0008 (documents scattered by 0.003), at 1.7 times the speed on a CPU with AMX or AVX-512 BF16. Both models of a
comparison are read in the same batches, so what rounding does to one it does to the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexus_llm.errors import MissingExtraError, ModelError
from nexus_llm.records import DocumentScore

if TYPE_CHECKING:
    import torch

# Tokens of one forward pass, padding counted: 2,048 × 49,152 logits in bfloat16 are 200 MB.
BATCH_TOKENS = 2_048
# Rows of logits that are widened to float32 at once: 128 × 49,152 × 4 bytes = 25 MB.
_LOGIT_ROWS = 128
# Digits kept of a score: float noise between two runs of one machine must not change an artifact.
_DIGITS = 4


@dataclass(frozen=True, slots=True)
class TokenizedDocument:
    """A document to be scored: its id and token ids."""

    id: str
    token_ids: tuple[int, ...]
    first_scored: int = 1
    """Place of the first token that counts; those before it are only context."""


def load_model(folder: Path, *, precision: str = "bfloat16") -> Any:
    """A Hugging Face causal model for reading, in bfloat16 or float32.

    Raises:
        MissingExtraError: torch or transformers is not installed.
        ModelError: the folder holds no model that transformers can load.
    """
    try:
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging
    except ImportError as error:
        raise MissingExtraError.for_extra("eval", error.name or "torch") from error
    logging.disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, precision), local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{folder} holds no model that transformers can load ({str(error).splitlines()[0]})",
            fix="make the artifact again: delete its folder and run the same command",
        ) from error
    return model.eval()


def score(model: Any, documents: Sequence[TokenizedDocument]) -> list[DocumentScore]:
    """One score a document, in the order given.

    What stands before `first_scored` is not counted: at least the first token, which has no context.

    Raises:
        ModelError: the model predicts values that are no numbers.
    """
    losses: dict[int, float] = {}
    for batch in batches([len(one.token_ids) for one in documents], max_tokens=BATCH_TOKENS):
        chosen = [documents[index] for index in batch]
        losses.update(zip(batch, _negative_log_likelihoods(model, chosen), strict=True))
    for index, loss in losses.items():
        if not math.isfinite(loss):
            raise ModelError(
                f"the model predicts {loss} for document {documents[index].id}",
                fix="its weights are damaged or training diverged: lower train.learning_rate and train again",
            )
    return [
        DocumentScore(one.id, len(one.token_ids) - one.first_scored, round(losses[index], _DIGITS))
        for index, one in enumerate(documents)
    ]


def batches(lengths: Sequence[int], *, max_tokens: int, max_padding: float = math.inf) -> list[list[int]]:
    """Indices grouped so that neighbours in length share a batch of at most `max_tokens`, padding counted, of which
    `max_padding` is padding.

    The longest come first: memory is at its peak at once and not at the end. A longer document is alone.

    >>> batches([10, 200, 12, 190], max_tokens=400)
    [[1, 3], [2, 0]]
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    grouped: list[list[int]] = []
    padding = 0
    for index in order:
        longest = lengths[grouped[-1][0]] if grouped else 0
        padding += longest - lengths[index]
        if grouped and (len(grouped[-1]) + 1) * longest <= max_tokens and padding <= max_padding:
            grouped[-1].append(index)
        else:
            grouped.append([index])
            padding = 0
    return grouped


def _negative_log_likelihoods(model: Any, documents: Sequence[TokenizedDocument]) -> list[float]:
    import torch

    rows = [one.token_ids for one in documents]
    width = max(map(len, rows))
    # Padding stands on the right, where a causal model's earlier positions cannot see it; without an attention mask
    # torch takes its fast causal kernel.
    token_ids_BT = torch.zeros(len(rows), width, dtype=torch.long)
    for place, row in enumerate(rows):
        token_ids_BT[place, : len(row)] = torch.tensor(row)
    token_ids_BT = token_ids_BT.to(model.device)
    with torch.inference_mode():
        # The last token predicts nothing, and a window of the whole context has no place left for it.
        logits_BTV = model(input_ids=token_ids_BT[:, :-1], use_cache=False).logits
        return [
            _row_loss(
                logits_BTV[place, one.first_scored - 1 : len(one.token_ids) - 1],
                token_ids_BT[place, one.first_scored : len(one.token_ids)],
            )
            for place, one in enumerate(documents)
        ]


def _row_loss(logits_TV: torch.Tensor, targets_T: torch.Tensor) -> float:
    total = 0.0
    for logits, targets in zip(logits_TV.split(_LOGIT_ROWS), targets_T.split(_LOGIT_ROWS), strict=True):
        wide = logits.float()
        loss = wide.logsumexp(-1) - wide.gather(1, targets[:, None])[:, 0]
        total += float(loss.double().sum())
    return total
