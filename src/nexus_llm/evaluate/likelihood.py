"""How likely a model finds continuations, with what they share computed once.

Four endings of one HellaSwag context are four rows that begin alike, and so are all questions of one MMLU subject
behind the same five examples. A causal model computes the same keys and values for the same beginning, so that is read
once and its attention cache lent to all that go on from it: first what all contexts of a batch share, then each
context, then its endings. Endings of one token need no pass of their own: the context's last logits hold them all.
Logits are computed only where a continuation stands; over 49,152 tokens they are a fifth of SmolLM2-135M's work.

Names of tensors end in their dimensions: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nexus_llm.evaluate.perplexity import batches

if TYPE_CHECKING:
    import torch

# Tokens of one pass, padding counted. Logits of an ending's pass: 1,024 × 49,152 × 4 bytes = 200 MB.
_CONTEXT_TOKENS = 2_048
_ENDING_TOKENS = 1_024
# Padding in one pass: a pass of its own costs about as much as so many tokens, for the weights that it reads again: an
# estimate, not measured. Of 480 items of HellaSwag it leaves 8 % padding in 172 passes; one batch a pool, 20 % in 84.
_MOST_PADDING = 64
# A shorter common beginning is not worth a pass of its own.
_LEAST_SHARED = 32


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A continuation as token ids."""

    context: tuple[int, ...]
    """At least one."""
    continuation: tuple[int, ...]
    """At least one."""


@dataclass(frozen=True, slots=True)
class RowScore:
    """What the model thinks of a `TokenRow`."""

    log_probability: float
    """Sum over the continuation, in nats; NaN where the model predicts NaN."""
    is_greedy: bool


@dataclass(frozen=True, slots=True)
class Beginning:
    """Tokens that were read, and the attention cache that they left."""

    token_ids: tuple[int, ...] = ()
    cache: Any = None


class LikelihoodReader:
    """Scores rows with one model, and remembers the longest common beginning of the last batch for the next."""

    def __init__(self, model: Any) -> None:
        self._model = model
        # A recurrent state cannot be padded on the left, and older models compute all logits or none.
        self._can_share = not model._is_stateful and "logits_to_keep" in inspect.signature(model.forward).parameters
        self._beginning = Beginning()

    def score(self, rows: Sequence[TokenRow]) -> list[RowScore]:
        """One score a row, in order."""
        import torch

        with torch.inference_mode():
            return self._shared(rows) if self._can_share else self._one_by_one(rows)

    def _shared(self, rows: Sequence[TokenRow]) -> list[RowScore]:
        by_context: dict[tuple[int, ...], list[int]] = {}
        for place, row in enumerate(rows):
            by_context.setdefault(row.context, []).append(place)
        contexts = list(by_context)
        beginning = self._read_beginning(contexts)
        skipped = len(beginning.token_ids)
        found: dict[int, RowScore] = {}
        for batch in batches(
            [len(one) - skipped for one in contexts], max_tokens=_CONTEXT_TOKENS, max_padding=_MOST_PADDING
        ):
            chosen = [contexts[index] for index in batch]
            endings = [[(place, rows[place].continuation) for place in by_context[one]] for one in chosen]
            found.update(self._score_batch(beginning, chosen, endings))
        return [found[place] for place in range(len(rows))]

    def _read_beginning(self, contexts: Sequence[tuple[int, ...]]) -> Beginning:
        """What all contexts begin with, read; empty where it is short, or all of one of them."""
        shared = common_length(contexts)
        known = len(self._beginning.token_ids)
        if 0 < known <= shared < known + _LEAST_SHARED and contexts[0][:known] == self._beginning.token_ids:
            return self._beginning
        if len(contexts) < 2 or shared < _LEAST_SHARED:
            return Beginning()
        token_ids = contexts[0][:shared]
        read = self._model(
            input_ids=_tensor([token_ids], self._model), use_cache=True, logits_to_keep=1
        ).past_key_values
        self._beginning = Beginning(token_ids, read)
        return self._beginning

    def _score_batch(
        self,
        beginning: Beginning,
        contexts: Sequence[tuple[int, ...]],
        endings: Sequence[Sequence[tuple[int, tuple[int, ...]]]],
    ) -> dict[int, RowScore]:
        """Row number → score; `endings` are the row numbers and continuations of each context."""
        import torch

        read, mask_BT = self._read(beginning, contexts)
        logits_BV = read.logits[:, -1].float()
        firsts_BV, likeliest_B = logits_BV.log_softmax(-1), logits_BV.argmax(-1).tolist()
        flat = [(row, place, ending) for row, some in enumerate(endings) for place, ending in some]
        found = {
            place: RowScore(float(firsts_BV[row, ending[0]]), likeliest_B[row] == ending[0])
            for row, place, ending in flat
        }
        longer = [one for one in flat if len(one[2]) > 1]
        for batch in batches(
            [len(ending) for _, _, ending in longer], max_tokens=_ENDING_TOKENS, max_padding=_MOST_PADDING
        ):
            chosen = [longer[index] for index in batch]
            parents = torch.tensor([row for row, _, _ in chosen])
            rest = self._read_behind(
                _rows_of(read.past_key_values, parents), mask_BT[parents], [ending for _, _, ending in chosen]
            )
            for (_, place, _), (value, is_greedy) in zip(chosen, rest, strict=True):
                first = found[place]
                found[place] = RowScore(first.log_probability + value, first.is_greedy and is_greedy)
        return found

    def _read(self, beginning: Beginning, contexts: Sequence[Sequence[int]]) -> tuple[Any, torch.Tensor]:
        """One pass over contexts behind their common beginning, and which places of its cache hold a token.

        Padding stands on the left, so that all end together and only the last logits are needed.
        """
        import torch

        known, width = len(beginning.token_ids), max(map(len, contexts))
        token_ids_BT = torch.zeros(len(contexts), width - known, dtype=torch.long)
        mask_BT = torch.zeros(len(contexts), width, dtype=torch.long)
        mask_BT[:, :known] = 1
        for place, context in enumerate(contexts):
            left = width - len(context)
            token_ids_BT[place, left:] = torch.tensor(context[known:])
            mask_BT[place, known + left :] = 1
        positions_BT = (mask_BT.cumsum(-1) - 1).clamp(min=0)[:, known:]
        cache = _rows_of(beginning.cache, torch.zeros(len(contexts), dtype=torch.long)) if known else None
        return self._call(token_ids_BT, mask_BT, positions_BT, cache, keep=1), mask_BT

    def _read_behind(
        self, cache: Any, known_BT: torch.Tensor, endings: Sequence[Sequence[int]]
    ) -> list[tuple[float, bool]]:
        """(log probability, is greedy) of each ending's tokens behind its first, padded on the right."""
        import torch

        width = max(map(len, endings)) - 1
        inputs_BT = torch.zeros(len(endings), width, dtype=torch.long)
        mask_BT = torch.zeros_like(inputs_BT)
        for place, ending in enumerate(endings):
            inputs_BT[place, : len(ending) - 1] = torch.tensor(ending[:-1])
            mask_BT[place, : len(ending) - 1] = 1
        positions_BT = known_BT.sum(-1, keepdim=True) + torch.arange(width)
        made = self._call(inputs_BT, torch.cat([known_BT, mask_BT], -1), positions_BT, cache, keep=0)
        return [_sum_up(made.logits[place, : len(one) - 1], one[1:]) for place, one in enumerate(endings)]

    def _call(self, inputs: Any, mask: Any, positions: Any, cache: Any, *, keep: int) -> Any:
        device = self._model.device
        return self._model(
            input_ids=inputs.to(device),
            attention_mask=mask.to(device),
            position_ids=positions.to(device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=keep,
        )

    def _one_by_one(self, rows: Sequence[TokenRow]) -> list[RowScore]:
        """Each row alone and whole: for models whose past is no list of keys and values."""
        scores = []
        for row in rows:
            token_ids = (*row.context, *row.continuation)
            logits_TV = self._model(input_ids=_tensor([token_ids[:-1]], self._model), use_cache=False).logits[0]
            scores.append(RowScore(*_sum_up(logits_TV[len(row.context) - 1 :], row.continuation)))
        return scores


def common_length(rows: Sequence[tuple[int, ...]]) -> int:
    """Tokens with which all rows begin; one less than the shortest row at most, so that each has one left to read.

    >>> common_length([(1, 2, 3, 4), (1, 2, 3), (1, 2, 5)])
    2
    """
    first, last = min(rows), max(rows)  # in the order of a dictionary the two that differ first
    most = min(map(len, rows)) - 1
    return next((place for place in range(most) if first[place] != last[place]), most)


def _sum_up(logits_TV: torch.Tensor, wanted: Sequence[int]) -> tuple[float, bool]:
    import torch

    targets_T = torch.tensor(wanted, device=logits_TV.device)
    wide_TV = logits_TV.float()
    values_T = wide_TV.gather(-1, targets_T[:, None])[:, 0] - wide_TV.logsumexp(-1)
    return float(values_T.sum()), bool((wide_TV.argmax(-1) == targets_T).all())


def _rows_of(cache: Any, rows: torch.Tensor) -> Any:
    """The cache of the chosen rows; the given one stays as it is: layers grow by making new tensors."""
    chosen = copy.copy(cache)
    chosen.layers = [copy.copy(layer) for layer in cache.layers]
    chosen.batch_select_indices(rows.to(cache.layers[0].keys.device))
    return chosen


def _tensor(rows: Sequence[Sequence[int]], model: Any) -> torch.Tensor:
    import torch

    return torch.tensor([list(row) for row in rows], device=model.device)
