"""The fused implementation as a learner: a decoder, its adapters if any, and AdamW on float32 copies."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nexus_llm.recipe import TrainRecipe
from nexus_llm.train.checkpoint import write_tensors
from nexus_llm.train.fused import lora
from nexus_llm.train.fused.decoder import Decoder
from nexus_llm.train.fused.optimizer import MasterAdamW
from nexus_llm.train.loss import packed_cross_entropy
from nexus_llm.train.model import load_model
from nexus_llm.train.packing import Batch

FULL_WEIGHTS = "model.safetensors"


class FusedLearner:
    """A `Learner` of one process on a CPU: LoRA or full weights of a Llama-shaped model."""

    def __init__(self, model: Path, recipe: TrainRecipe, *, seed: int, base_name: str) -> None:
        """Loads the model in the folder `model`; an adapter will name `base_name` as its base.

        Raises:
            ModelError: the model cannot be read, is of another kind, or cannot see `max_length` tokens.
            TrainingError: a target module does not exist.
        """
        self._model, self._recipe, self._base_name = model, recipe, base_name
        self._decoder = Decoder(load_model(model, dtype=recipe.dtype), max_length=recipe.max_length)
        if recipe.method == "lora":
            start = lora.add_adapters(
                self._decoder,
                rank=recipe.lora_r,
                alpha=recipe.lora_alpha,
                dropout=recipe.lora_dropout,
                target_modules=recipe.target_modules,
                seed=seed,
            )
            parameters = lora.adapter_parameters(self._decoder)
        else:
            start = parameters = self._decoder.parameters()
        self._optimizer = MasterAdamW(parameters, start, weight_decay=recipe.weight_decay)
        if recipe.method == "full":
            self._decoder.collect_vocabulary_gradients(self._optimizer.gradients)

    def gradients(self, batch: Batch, *, learned_tokens: int) -> float:
        return collect_gradients(
            self._decoder,
            batch,
            rows_at_once=self._recipe.per_device_train_batch_size,
            learned_tokens=learned_tokens,
        )

    def loss(self, batch: Batch) -> float:
        return summed_loss(self._decoder, batch, rows_at_once=self._recipe.per_device_train_batch_size)

    def update(self, number: int, *, learning_rate: float, max_grad_norm: float) -> float:
        return self._optimizer.step(number, learning_rate=learning_rate, max_grad_norm=max_grad_norm)

    def forget_gradients(self) -> None:
        self._optimizer.forget_gradients()

    def tensors(self) -> dict[str, Tensor]:
        return self._optimizer.tensors()

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self._optimizer.restore(tensors)

    def write(self, folder: Path) -> Path:
        recipe, masters = self._recipe, self._optimizer.masters
        if recipe.method == "lora":
            config = lora.adapter_config(
                base=self._base_name,
                rank=recipe.lora_r,
                alpha=recipe.lora_alpha,
                dropout=recipe.lora_dropout,
                target_modules=recipe.target_modules,
            )
            (folder / lora.ADAPTER_CONFIG).write_text(config, encoding="utf-8")
            weights = folder / lora.ADAPTER_WEIGHTS
            write_tensors(masters, weights)
        else:
            shutil.copyfile(self._model / "config.json", folder / "config.json")
            weights = folder / FULL_WEIGHTS
            learned = self._decoder.state_dict(masters)
            write_tensors({name: value.to(torch.bfloat16) for name, value in learned.items()}, weights)
        return weights

    def describe(self) -> dict[str, Any]:
        return {
            "implementation": "fused",
            "trainable_parameters": sum(master.numel() for master in self._optimizer.masters.values()),
        }


def collect_gradients(decoder: Decoder, batch: Batch, *, rows_at_once: int, learned_tokens: int) -> float:
    """Adds the gradients of the batch's summed loss divided by `learned_tokens`; gives that loss in nats.

    Rows go through the model `rows_at_once` at a time. Each token weighs the same, however the rows are divided.
    """
    total = 0.0
    for part in batch.parts(rows_at_once):
        loss = packed_cross_entropy(
            decoder.hidden(part),
            decoder.head,
            part,
            scale=1 / max(1, learned_tokens),
            head_gradient=decoder.head_gradient if torch.is_grad_enabled() else None,
        )
        if loss.requires_grad:
            loss.backward()
        total += float(loss.detach())
    return total


def summed_loss(decoder: Decoder, batch: Batch, *, rows_at_once: int) -> float:
    """The loss in nats summed over learned tokens, without dropout and without gradients."""
    decoder.training = False
    with torch.no_grad():
        loss = collect_gradients(decoder, batch, rows_at_once=rows_at_once, learned_tokens=1)
    decoder.training = True
    return loss
