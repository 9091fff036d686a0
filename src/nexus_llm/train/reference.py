"""What the frozen base model says of pairs: asked at every step with the adapters off, or once before training.

Once, where every weight learns: 24 bytes a pair lie in a folder, in parts that are there or not there.

    <folder>/<digest>/part-00000-<sha256>.npy    KEYED: 32 forward passes
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nexus_llm.errors import TrainingError, TryAgainError
from nexus_llm.train.log_probabilities import answer_log_probabilities
from nexus_llm.train.packing import Batch, Integers
from nexus_llm.train.preferences import PackedPairs, pair_keys
from nexus_llm.train.ranks import OnlyOne, Ranks

KEYED = np.dtype([("key", "<u8"), ("chosen", "<f8"), ("rejected", "<f8")])
"""`preferences.pair_keys`, and both log-probabilities in nats."""
_PASSES_OF_A_PART = 32  # a kill costs so many forward passes at most

Rows = tuple[PackedPairs, Integers]


class PairModel(Protocol):
    """What is needed of a model that learns pairs."""

    @property
    def head(self) -> Tensor:
        """(V, C): hidden states times its transpose are logits."""

    def hidden(self, batch: Batch) -> Tensor:
        """What the last layer says of every token, (B * T, C), ready for the head; with gradients where enabled."""

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of a scalar to those that the next update will apply."""

    def evaluating(self) -> AbstractContextManager[None]:
        """No dropout inside."""

    def without_adapters(self) -> AbstractContextManager[None]:
        """The base model inside."""


class Reference(Protocol):
    """The frozen model."""

    def __call__(self, batch: Batch) -> Tensor:
        """Its log-probabilities of a batch's answers in nats, (P, 2), float64, without gradients."""

    def describe(self) -> dict[str, Any]:
        """Facts about it."""


class AdaptersOff:
    """The model in training without its adapters: one more forward pass a step, and no memory."""

    def __init__(self, model: PairModel) -> None:
        self._model = model

    def __call__(self, batch: Batch) -> Tensor:
        with self._model.without_adapters():
            return _asked(self._model, batch)

    def describe(self) -> dict[str, Any]:
        return {"reference": "adapters off"}


class StoredReference:
    """Log-probabilities that were computed before training."""

    def __init__(self, table: npt.NDArray[Any]) -> None:
        """`table` is KEYED, in any order; of equal keys the first counts."""
        keys, first = np.unique(table["key"], return_index=True)
        self._keys, self._values = keys, np.stack([table["chosen"], table["rejected"]], 1)[first]

    def __call__(self, batch: Batch) -> Tensor:
        """As `Reference` says.

        Raises:
            TrainingError: a pair was not among those that the reference was asked for.
        """
        keys = pair_keys(batch)
        places = np.searchsorted(self._keys, keys)
        if (places == len(self._keys)).any() or (self._keys[places] != keys).any():
            raise TrainingError(
                "a batch has a pair that the reference model was not asked for before training",
                fix="delete the folder `reference` in the run's work folder and start again",
            )
        return torch.from_numpy(self._values[places])

    def describe(self) -> dict[str, Any]:
        return {"reference": "computed before training", "reference_bytes": len(self._keys) * KEYED.itemsize}


def rows_of_training(pairs: PackedPairs, *, seed: int, steps: int, size: int, ranks: Ranks | None = None) -> Integers:
    """The rows that this process sees in so many steps of `size` rows (all processes together), each once."""
    ranks = ranks or OnlyOne()
    return np.unique(pairs.rows_of_steps(seed, steps, size=size)[:, ranks.rank :: ranks.size])


def stored_reference(
    model: PairModel,
    rows: Sequence[Rows],
    *,
    folder: Path,
    identity: str,
    rows_at_once: int,
    ranks: Ranks | None = None,
    stop_reason: Callable[[], str | None] = lambda: None,
    on_rows: Callable[[int], None] = lambda _rows: None,
) -> StoredReference:
    """The answers of `model` as it is now, with every pair of `rows` (this process's own), `rows_at_once` at a time.

    What `folder` already has of the same `identity` (base model and data) and the same rows is taken over; broken parts
    are made again. `on_rows` hears how many rows were done.

    Raises:
        TryAgainError: asked to stop; what was computed so far is saved.
    """
    ranks = ranks or OnlyOne()
    passes = [
        (pairs, numbers[start : start + rows_at_once])
        for pairs, numbers in rows
        for start in range(0, len(numbers), rows_at_once)
    ]
    parts = [passes[start : start + _PASSES_OF_A_PART] for start in range(0, len(passes), _PASSES_OF_A_PART)]
    place = folder / _digest(rows, identity=identity, rows_at_once=rows_at_once, ranks=ranks)
    _remove_others(place, ranks)
    found = _whole_parts(place)
    pending = [number for number in range(len(parts)) if number not in found]
    on_rows(sum(len(numbers) for number in found for _, numbers in parts[number]))
    # A sharded model must be called equally often by all processes, and each may have found other parts.
    while ranks.any(bool(pending)):
        part = parts[pending[0]] if pending else []
        values = [_keyed(model, pairs.take(numbers)) for pairs, numbers in part]
        for pairs, numbers in [passes[0]] * (_PASSES_OF_A_PART - len(part) if ranks.size > 1 else 0):
            _keyed(model, pairs.take(numbers))
        if part:
            found[pending[0]] = np.concatenate(values)
            _write_part(place, pending[0], found[pending.pop(0)])
            on_rows(sum(len(numbers) for _, numbers in part))
        reason = stop_reason()
        if ranks.any(reason is not None):
            raise TryAgainError(
                f"stopped by {reason or 'another process'} while the reference model was asked; all answers are saved",
                fix="the same command continues there",
            )
    return StoredReference(np.concatenate([*(found[number] for number in sorted(found)), np.empty(0, KEYED)]))


def _asked(model: PairModel, batch: Batch) -> Tensor:
    with torch.no_grad(), model.evaluating():
        return answer_log_probabilities(model.hidden(batch), model.head, batch)


def _keyed(model: PairModel, batch: Batch) -> npt.NDArray[Any]:
    values = _asked(model, batch).cpu().numpy()
    table = np.empty(len(values), KEYED)
    table["key"], table["chosen"], table["rejected"] = pair_keys(batch), values[:, 0], values[:, 1]
    return table


def _digest(rows: Iterable[Rows], *, identity: str, rows_at_once: int, ranks: Ranks) -> str:
    # Rows that pass through the model together may change one another's last bits: so they are a part of it.
    hashed = hashlib.sha256(json.dumps([identity, rows_at_once, ranks.rank, ranks.size]).encode())
    for pairs, numbers in rows:
        for array in (pairs.pieces, pairs.row_starts, numbers):
            hashed.update(len(array).to_bytes(8, "little") + array.astype("<i8").tobytes())
    return f"{ranks.rank:05d}-{hashed.hexdigest()[:16]}"


def _remove_others(place: Path, ranks: Ranks) -> None:
    place.mkdir(parents=True, exist_ok=True)
    for other in place.parent.glob(f"{ranks.rank:05d}-*"):
        if other != place:
            shutil.rmtree(other)


def _whole_parts(place: Path) -> dict[int, npt.NDArray[Any]]:
    found = {}
    for path in sorted(place.glob("part-*.npy")):
        _, number, digest = path.stem.split("-")
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() == digest:
            found[int(number)] = np.load(io.BytesIO(content), allow_pickle=False)
        else:
            path.unlink()
    return found


def _write_part(place: Path, number: int, table: npt.NDArray[Any]) -> None:
    stream = io.BytesIO()
    np.save(stream, table, allow_pickle=False)
    content = stream.getvalue()
    partial = place / f".partial-{number:05d}"
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(place / f"part-{number:05d}-{hashlib.sha256(content).hexdigest()}.npy")
