"""A transformers model as one torch module: packed rows in, their summed loss out.

Shapes: B rows, T tokens in a row, M learned tokens, C channels, V vocabulary entries.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from nexus_llm.recipe import TrainRecipe
from nexus_llm.train.hf import head
from nexus_llm.train.hf.attention import Attention


@dataclass(frozen=True)
class Origin:
    """Where a model in training came from."""

    folder: Path
    """The base model's files."""
    base: str
    """Its name, for the adapter's config."""
    total_parameters: int
    """Of the base model."""


class PackedModel(nn.Module):  # type: ignore[misc]
    """What several processes wrap: divide `layers` first, then the module itself; the head belongs to the latter."""

    def __init__(self, model: Any, *, attention: Attention, origin: Origin, recipe: TrainRecipe, adapter: Any) -> None:
        """`model` is ready to train, its adapters inside; `adapter` is PEFT's wrapper around it, or None."""
        super().__init__()
        self.model = model
        self.attention, self.origin, self.recipe = attention, origin, recipe
        self.plain_head = head.has_plain_head(model)
        # A tuple, so that torch does not find every weight a second time.
        self._adapter = (adapter,)

    def forward(self, inputs: dict[str, Any], places: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        """The loss in nats summed over `places` (M,) of the B * T tokens; without places, the hidden states (B * T, C).

        `inputs` are what `attention.inputs` made of the rows, `labels` (M,) the token that follows at each place.
        """
        hidden: Tensor = head.trunk_of(self.model)(**inputs, use_cache=False)[0].flatten(0, 1)
        if places is None or labels is None:
            return hidden
        return head.summed_loss(self.model, hidden[places], labels, plain=self.plain_head)

    @property
    def adapter(self) -> Any:
        """PEFT's wrapper, or None where all weights learn."""
        return self._adapter[0]

    @property
    def layers(self) -> list[nn.Module]:
        """The decoder layers, in order: what a process may hold one at a time."""
        lists = [found for found in head.trunk_of(self.model).modules() if isinstance(found, nn.ModuleList)]
        return list(max(lists, key=_parameters, default=[]))

    @property
    def vocabulary(self) -> int:
        """Token ids that the model knows: 0 to this minus 1."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    @property
    def dtype(self) -> Any:
        """Of weights and activations."""
        return getattr(torch, self.recipe.dtype)

    @property
    def device(self) -> str:
        return str(next(self.parameters()).device)

    def learning(self) -> dict[str, nn.Parameter]:
        """The weights that learn, each once, by their name in the model."""
        return {name: cast(nn.Parameter, value) for name, value in self.model.named_parameters() if value.requires_grad}


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
