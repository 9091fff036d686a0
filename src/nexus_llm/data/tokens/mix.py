"""How often an epoch sees each document: epochs and weights of sources become whole numbers of repeats.

A source of 1.5 epochs shows every document once and half of them twice. Which half depends on the document's id and
the seed alone, so a document keeps its repeats when others come and go.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import polars as pl

from nexus_llm.errors import DataError

Repeats = npt.NDArray[np.uint16]

MAX_REPEATS = 2**16 - 1
"""Repeats are stored as uint16."""


def effective_epochs(
    tokens: Mapping[str, int], *, epochs: Mapping[str, float], weights: Mapping[str, float]
) -> dict[str, float]:
    """Source → how often one epoch of training sees its training tokens, on average over its documents.

    Without weights that is `epochs`, 1 where a source has none. With weights it is the largest mix whose shares of
    tokens are as the weights and in which no source is seen more than its `epochs`:
    e_i = weight_i / tokens_i · min over j of (epochs_j · tokens_j / weight_j). A source without tokens gets 0 and the
    shares hold among the others.

    `tokens` names every source; `weights` names all of them or none.

    >>> effective_epochs({"web": 900, "books": 100}, epochs={"books": 2}, weights={"web": 3, "books": 1})
    {'web': 0.6666666666666666, 'books': 2.0}

    Raises:
        DataError: some sources have a weight and others none; no weight is above 0 where there are tokens; a number
            is negative, not finite, or asks for more than 65,535 repeats.
    """
    limits = {name: float(epochs.get(name, 1.0)) for name in tokens}
    _check(tokens, limits, weights)
    if not weights:
        return {name: limits[name] if count else 0.0 for name, count in tokens.items()}
    weighted = [name for name, count in tokens.items() if count and weights[name] > 0]
    if not weighted:
        if not any(tokens.values()):
            return dict.fromkeys(tokens, 0.0)
        raise DataError(
            f"no source with text has a weight above 0: {_listed(weights)}", fix="raise a weight in data.sources"
        )
    scale = min(limits[name] * tokens[name] / weights[name] for name in weighted)
    # min: rounding must not lift the source that sets the scale above its own epochs.
    mixed = {name: min(weights[name] * scale / tokens[name], limits[name]) for name in weighted}
    return {name: _rounded(mixed[name], limits[name]) if name in mixed else 0.0 for name in tokens}


def repeats(ids: pl.Series, sources: pl.Series, *, epochs: Mapping[str, float], seed: int) -> Repeats:
    """How often an epoch sees each document: floor(e) times, and once more for a share e - floor(e) of the documents.

    `epochs` are those that `effective_epochs` gives, for each of `sources`; arrays have one entry a document.
    """
    wanted = sources.replace_strict(dict(epochs), return_dtype=pl.Float64).to_numpy()
    whole = np.floor(wanted)
    chances = np.array([_chance(identity, seed) for identity in ids], np.float64)
    often: Repeats = (whole + (chances < wanted - whole)).astype(np.uint16)
    return often


def _chance(identity: str, seed: int) -> float:
    """A number in 0–1 that looks random and belongs to this document."""
    # Another prefix than split.py's: the same numbers would tie repeats to the choice of held-out documents.
    digest = hashlib.blake2b(f"mix:{seed}:{identity}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _rounded(epochs: float, limit: float) -> float:
    """`limit` where only the rounding of a division keeps `epochs` below it."""
    return limit if math.isclose(epochs, limit, rel_tol=1e-12) else epochs


def _check(tokens: Mapping[str, int], limits: Mapping[str, float], weights: Mapping[str, float]) -> None:
    if weights and (missing := sorted(set(tokens) - set(weights))):
        raise DataError(
            f"sources {', '.join(missing)} have no weight, and {', '.join(sorted(weights))} have one",
            fix="give every source of data.sources a weight, or none",
        )
    for what, values in (("epochs", limits), ("weight", weights)):
        for name, value in values.items():
            if not 0 <= value <= (MAX_REPEATS if what == "epochs" else math.inf) or math.isinf(value):
                raise DataError(
                    f"source {name!r} has {what} {value:g}",
                    fix=f"{what} lie between 0 and {MAX_REPEATS:,}" if what == "epochs" else "weights are 0 or more",
                )


def _listed(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in sorted(values.items()))
