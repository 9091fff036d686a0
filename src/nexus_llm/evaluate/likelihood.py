"""How likely a model finds continuations, with what they share computed once.

Four endings of one HellaSwag context are four rows that begin alike, and so are all questions of one MMLU subject
behind the same five examples. Rows that begin alike are read as one tree: a token that stands behind the same ones in
several rows is in it once, and sees its own ancestors alone. What all contexts of a call share is read once, and its
attention cache lent to all trees. Logits are computed only where a continuation is predicted; over 49,152 tokens they
are a fifth of SmolLM2-135M's work.

Names of tensors end in their dimensions: B trees, T tokens of a tree, K tokens before it and its own, N places where
something is predicted, V vocabulary.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nexus_llm.evaluate.perplexity import batches

if TYPE_CHECKING:
    import torch

# Tokens of one pass, padding counted: 2,048 × 49,152 × 4 bytes of logits are 400 MB, if each of them predicts.
_PASS_TOKENS = 2_048
# A pass of its own costs about as much as so many tokens of padding, for the weights that it reads again.
_MOST_PADDING = 64
# Contexts behind a lent beginning share one tree up to so many tokens: its copy would cost more than attending to it.
_TREE_TOKENS = 512
# A shorter common beginning is not worth a pass of its own.
_LEAST_SHARED = 32
# Rows of logits that are looked at together, as in `perplexity`.
_LOGIT_ROWS = 128


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


@dataclass(frozen=True, slots=True)
class Tree:
    """The tokens of rows, each behind those that it stands behind: what several rows begin with is there once."""

    token_ids: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    """Place of the token before it; −1 where there is none."""
    depths: list[int] = field(default_factory=list)
    """Tokens before it."""
    paths: list[list[int]] = field(default_factory=list)
    """Of each row, the places whose logits predict its continuation."""

    @classmethod
    def of(cls, rows: Sequence[TokenRow], *, skip: int = 0) -> Tree:
        """The tree of rows without their first `skip` tokens, and without their last: that is only predicted.

        >>> Tree.of([TokenRow((7, 8), (1, 2)), TokenRow((7, 8), (1, 3)), TokenRow((7, 8), (4,))])
        Tree(token_ids=[7, 8, 1], parents=[-1, 0, 1], depths=[0, 1, 2], paths=[[1, 2], [1, 2], [1]])
        """
        tree, known = cls(), dict[tuple[int, int], int]()
        for row in rows:
            place, path = -1, []
            for depth, token in enumerate((*row.context, *row.continuation[:-1])[skip:]):
                before, place = place, known.setdefault((place, token), len(tree.token_ids))
                if place == len(tree.token_ids):
                    tree.token_ids.append(token)
                    tree.parents.append(before)
                    tree.depths.append(depth)
                path.append(place)
            tree.paths.append(path[-len(row.continuation) :])
        return tree


class LikelihoodReader:
    """Scores rows with one model, and remembers the longest common beginning of the last call for the next."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._head = model.get_output_embeddings()
        self._longest = self._longest_tree()
        self._beginning = Beginning()

    def score(self, rows: Sequence[TokenRow]) -> Iterator[tuple[int, RowScore]]:
        """The place of each row and its score, as soon as the model has read it: in the order of its passes."""
        longest = max((len(row.context) + len(row.continuation) for row in rows), default=0)
        return self._shared(rows) if longest <= self._longest else self._one_by_one(rows)

    def _longest_tree(self) -> float:
        """Tokens up to which the model reads trees: none where it keeps a recurrent state, or counts positions itself;
        those of its window where it has one, since a tree's own mask is used for all layers."""
        taken, config = inspect.signature(self._model.forward).parameters, self._model.config.get_text_config()
        if self._model._is_stateful or self._head is None or not {"position_ids", "logits_to_keep"} <= taken.keys():
            return 0
        windows = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size"))
        return min((one for one in windows if one), default=math.inf)

    def _shared(self, rows: Sequence[TokenRow]) -> Iterator[tuple[int, RowScore]]:
        by_context: dict[tuple[int, ...], list[int]] = {}
        for place, row in enumerate(rows):
            by_context.setdefault(row.context, []).append(place)
        beginning = self._read_beginning(list(by_context))
        skipped = len(beginning.token_ids)
        groups = list(_packed(list(by_context.values()), rows, skipped) if skipped else by_context.values())
        trees = [Tree.of([rows[place] for place in group], skip=skipped) for group in groups]
        most_tokens = _TREE_TOKENS if skipped else _PASS_TOKENS
        for batch in batches([len(one.token_ids) for one in trees], max_tokens=most_tokens, max_padding=_MOST_PADDING):
            places = [place for index in batch for place in groups[index]]
            scores = self._score_trees(beginning, [trees[index] for index in batch], [rows[place] for place in places])
            yield from zip(places, scores, strict=True)

    def _read_beginning(self, contexts: Sequence[tuple[int, ...]]) -> Beginning:
        """What all contexts begin with, read; empty where it is short, or all of one of them."""
        import torch

        if not contexts:
            return Beginning()
        shared = common_length(contexts)
        known = len(self._beginning.token_ids)
        if 0 < known <= shared < known + _LEAST_SHARED and contexts[0][:known] == self._beginning.token_ids:
            return self._beginning
        if len(contexts) < 2 or shared < _LEAST_SHARED:
            return Beginning()
        token_ids = contexts[0][:shared]
        with torch.inference_mode():
            read = self._model(input_ids=self._tensor([token_ids]), use_cache=True, logits_to_keep=1).past_key_values
        self._beginning = Beginning(token_ids, read)
        return self._beginning

    def _score_trees(self, beginning: Beginning, trees: Sequence[Tree], rows: Sequence[TokenRow]) -> list[RowScore]:
        """The scores of `rows`, which are those of the trees, one tree behind the other."""
        import torch

        paths = [[(number, place) for place in path] for number, tree in enumerate(trees) for path in tree.paths]
        wanted = {node: line for line, node in enumerate(dict.fromkeys(node for path in paths for node in path))}
        with torch.inference_mode():
            logits_NV = self._logits(beginning, trees, list(wanted))
            lines = self._tensor([wanted[node] for path in paths for node in path])
            targets = self._tensor([token for row in rows for token in row.continuation])
            values = logits_NV[lines, targets].double() - _log_sums(logits_NV)[lines]
            is_likeliest = logits_NV.argmax(-1)[lines] == targets
        lengths = [len(row.continuation) for row in rows]
        return [
            RowScore(float(some.sum()), bool(likeliest.all()))
            for some, likeliest in zip(values.cpu().split(lengths), is_likeliest.cpu().split(lengths), strict=True)
        ]

    def _logits(self, beginning: Beginning, trees: Sequence[Tree], wanted: Sequence[tuple[int, int]]) -> torch.Tensor:
        """Logits at the wanted (tree, place), shape NV; one pass."""
        import torch

        known, width = len(beginning.token_ids), max(len(one.token_ids) for one in trees)
        token_ids_BT = torch.zeros(len(trees), width, dtype=torch.long)
        positions_BT = torch.zeros_like(token_ids_BT)
        # Padding sees itself: a place that saw nothing would be NaN.
        sees_BTK = torch.eye(width, dtype=torch.bool).repeat(len(trees), 1, 1)
        for number, tree in enumerate(trees):
            token_ids_BT[number, : len(tree.token_ids)] = torch.tensor(tree.token_ids)
            positions_BT[number, : len(tree.token_ids)] = torch.tensor(tree.depths) + known
            sees = sees_BTK[number].numpy()
            for place, parent in enumerate(tree.parents):
                if parent >= 0:
                    sees[place] |= sees[parent]
        sees_BTK = torch.cat([torch.ones(len(trees), width, known, dtype=torch.bool), sees_BTK], dim=-1)
        lowest = torch.finfo(self._model.dtype).min
        mask_BTK = torch.zeros(sees_BTK.shape, dtype=self._model.dtype).masked_fill_(~sees_BTK, lowest)
        chosen, places = (self._tensor(list(some)) for some in zip(*wanted, strict=True))
        # The model's own head computes the logits, and whatever the model does behind it is done to them.
        hook = self._head.register_forward_pre_hook(lambda _, given: (given[0][chosen, places][None],))
        try:
            made = self._model(
                input_ids=token_ids_BT.to(self._model.device),
                attention_mask=mask_BTK[:, None].to(self._model.device),
                position_ids=positions_BT.to(self._model.device),
                past_key_values=_copies(beginning.cache, len(trees)) if known else None,
                use_cache=bool(known),
            )
        finally:
            hook.remove()
        logits_NV: torch.Tensor = made.logits[0].float()
        return logits_NV

    def _one_by_one(self, rows: Sequence[TokenRow]) -> Iterator[tuple[int, RowScore]]:
        """Each row alone and whole: for models that read no trees."""
        import torch

        for place, row in enumerate(rows):
            token_ids = (*row.context, *row.continuation)
            with torch.inference_mode():
                read_TV = self._model(input_ids=self._tensor([token_ids[:-1]]), use_cache=False).logits[0].float()
                logits_TV, targets_T = read_TV[len(row.context) - 1 :], self._tensor(row.continuation)
                values_T = logits_TV.gather(-1, targets_T[:, None])[:, 0].double() - _log_sums(logits_TV)
                score = RowScore(float(values_T.sum()), bool((logits_TV.argmax(-1) == targets_T).all()))
            yield place, score

    def _tensor(self, values: Sequence[Any]) -> torch.Tensor:
        import torch

        return torch.tensor(values, device=self._model.device)


def common_length(rows: Sequence[tuple[int, ...]]) -> int:
    """Tokens with which all rows begin; one less than the shortest row at most, so that each has one left to read.

    >>> common_length([(1, 2, 3, 4), (1, 2, 3), (1, 2, 5)])
    2
    """
    first, last = min(rows), max(rows)  # in the order of a dictionary the two that differ first
    most = min(map(len, rows)) - 1
    return next((place for place in range(most) if first[place] != last[place]), most)


def _packed(groups: Sequence[list[int]], rows: Sequence[TokenRow], skip: int) -> Iterator[list[int]]:
    """Neighbouring groups of row numbers together, as long as their trees have room in one."""
    packed: list[int] = []
    room = 0
    for group in groups:
        size = len(rows[group[0]].context) - skip + sum(len(rows[place].continuation) - 1 for place in group)
        if packed and size > room:
            yield packed
            packed = []
        room = (room if packed else _TREE_TOKENS) - size
        packed = packed + group
    if packed:
        yield packed


def _log_sums(logits_NV: torch.Tensor) -> torch.Tensor:
    """The logarithm of the sum of what each line's logits are logarithms of."""
    import torch

    return torch.cat([some.logsumexp(-1) for some in logits_NV.split(_LOGIT_ROWS)]).double()


def _copies(cache: Any, count: int) -> Any:
    """The cache of one row for `count` of them; the given one stays as it is: layers grow by making new tensors."""
    import torch

    chosen = copy.copy(cache)
    chosen.layers = [copy.copy(layer) for layer in cache.layers]
    chosen.batch_select_indices(torch.zeros(count, dtype=torch.long, device=cache.layers[0].keys.device))
    return chosen
