"""Any causal language model of transformers as a learner, on a CPU or a GPU.

For several processes: `load` a `PackedModel`, divide it, then give it to the learner, whose optimizer takes the share
of each weight that lies in this process. Subclasses say how processes add up: `reduce_gradients` and `norm`.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nexus_llm.errors import DataError, ModelError
from nexus_llm.train.checkpoint import write_tensors
from nexus_llm.train.hf import adapters
from nexus_llm.train.hf.optimizer import ModuleAdamW
from nexus_llm.train.hf.packed import PackedModel
from nexus_llm.train.packing import Batch

FULL_WEIGHTS = "model.safetensors"


class TransformersLearner:
    """A `Learner` of one process, and what learners of several processes have in common."""

    def __init__(self, packed: PackedModel, *, hooks: bool = True) -> None:
        """`hooks` takes gradients while the backward pass runs; a wrapper that needs them at the weights says no."""
        self.packed = packed
        self.module: nn.Module = packed
        """What is called: a wrapper around it may stand in its place."""
        self._recipe = packed.recipe
        self.optimizer = ModuleAdamW(packed.learning(), weight_decay=packed.recipe.weight_decay, hooks=hooks)

    # The Learner.

    def gradients(self, batch: Batch, *, learned_tokens: int) -> float:
        total = 0.0
        for part in batch.parts(self._recipe.per_device_train_batch_size):
            loss = self._summed_loss(part) / max(1, learned_tokens)
            self.backward(loss)
            total += float(loss.detach())
        return total

    def loss(self, batch: Batch) -> float:
        with torch.no_grad(), self.evaluating():
            parts = batch.parts(self._recipe.per_device_train_batch_size)
            return sum(float(self._summed_loss(part)) for part in parts)

    def update(self, number: int, *, learning_rate: float, max_grad_norm: float) -> float:
        self.reduce_gradients()
        norm = self.norm()
        if math.isfinite(norm):
            share_kept = min(1.0, max_grad_norm / (norm + 1e-6))
            self.optimizer.step(number, learning_rate=learning_rate, share_kept=share_kept)
        self.forget_gradients()
        return norm

    def forget_gradients(self) -> None:
        self.optimizer.forget_gradients()

    def tensors(self) -> dict[str, Tensor]:
        return self.optimizer.tensors()

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self.optimizer.restore(tensors)

    def write(self, folder: Path) -> Path:
        return write(self.packed, self.whole_weights(), folder)

    def describe(self) -> dict[str, Any]:
        packed = self.packed
        return {
            "implementation": "transformers",
            "method": self._recipe.method,
            "device": packed.device,
            "attention": packed.attention.implementation,
            "trainable_parameters": sum(weight.numel() for weight in packed.learning().values()),
            "total_parameters": packed.origin.total_parameters,
        }

    # What learners of several processes change.

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of a scalar to those that `update` will apply."""
        if loss.requires_grad:
            loss.backward()
            self.optimizer.collect()

    def reduce_gradients(self) -> None:
        """Sums `optimizer.gradients()` over all processes, in place. One process has nothing to sum."""

    def norm(self) -> float:
        """Of the whole gradient, after `reduce_gradients`; where weights are divided, a sum over processes."""
        return math.sqrt(self.optimizer.squared_norm())

    def whole_weights(self) -> dict[str, Tensor]:
        """All weights that learn, whole and float32, by their name in the model."""
        return self.optimizer.masters

    # What a loss of one's own needs: see dpo.PairModel.

    @property
    def head(self) -> Tensor:
        """(V, C): hidden states times its transpose are logits.

        Raises:
            ModelError: the model scales, caps or shifts its logits.
        """
        if not self.packed.plain_head:
            raise ModelError(
                f"a model of type {self.packed.model.config.model_type!r} does more to its logits than one matrix",
                fix="set train.objective to sft for this model, or take one such as llama, qwen or mistral",
            )
        weight: Tensor = self.packed.model.get_output_embeddings().weight
        return weight

    def hidden(self, batch: Batch) -> Tensor:
        """What the last layer says of every token: (B * T, C), ready for the head."""
        states: Tensor = self.module(self._inputs(batch))
        return states

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """No dropout inside."""
        self.module.eval()
        try:
            yield
        finally:
            self.module.train()

    def without_adapters(self) -> AbstractContextManager[None]:
        """The base model inside; where all weights learn there is none to come back to, and nothing changes."""
        adapter = self.packed.adapter
        result: AbstractContextManager[None] = nullcontext() if adapter is None else adapter.disable_adapter()
        return result

    def _inputs(self, batch: Batch) -> dict[str, Any]:
        packed = self.packed
        if (highest := int(batch.token_ids.max())) >= packed.vocabulary:
            # On a GPU this would end the process without a word about which token.
            raise DataError(
                f"a batch holds token id {highest}, and the model's vocabulary ends at {packed.vocabulary - 1}",
                fix="make the data with the tokenizer of the model that is trained",
            )
        return packed.attention.inputs(batch, device=packed.device, dtype=packed.dtype)

    def _summed_loss(self, batch: Batch) -> Tensor:
        chosen, targets = (torch.from_numpy(one).to(self.packed.device) for one in batch.learned())
        loss: Tensor = self.module(self._inputs(batch), chosen, targets)
        return loss


def write(packed: PackedModel, weights: Mapping[str, Tensor], folder: Path) -> Path:
    """Writes the learned `weights` (float32, whole, by their name in the model); gives their file.

    An adapter stays float32. A full model is bfloat16 under the names of its checkpoint, without a tied head, and with
    the base model's config.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if packed.adapter is not None:
        return adapters.write(packed.adapter, weights, folder)
    path = folder / FULL_WEIGHTS
    write_tensors(_checkpoint_names(packed.model, weights), path)
    shutil.copyfile(packed.origin.folder / "config.json", folder / "config.json")
    return path


def _checkpoint_names(model: Any, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All of the model's tensors on the CPU, in bfloat16, as transformers' `save_pretrained` would name them.

    Not by that function itself: it also writes a generation config, and refuses those that it finds odd.
    """
    from transformers.core_model_loading import revert_weight_conversion

    held = model.state_dict(keep_vars=True)
    tied = {
        copy for copy, source in model.all_tied_weights_keys.items() if copy in held and held[copy] is held.get(source)
    }
    state = {}
    for name, tensor in held.items():
        if name not in tied:
            value = weights.get(name, tensor).detach()
            state[name] = value.to("cpu", torch.bfloat16 if value.is_floating_point() else value.dtype)
    # Some models compute with other tensors than their files hold: experts that lie in one, for example.
    return {name: tensor.contiguous() for name, tensor in sorted(revert_weight_conversion(model, state).items())}
