"""Which split a cluster of duplicates belongs to: decided by its content, so that nothing held out is trained on.

A cluster's number in 0–1 depends on its name and the seed alone: low numbers go to test, high ones to validation.
Added documents therefore leave the others where they are, except that a small corpus fills both held-out splits with
the next numbers until each has 8 clusters or a quarter of all (where its share is above 0).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from nexus_llm.recipe import SplitRecipe

BORDER_CLUSTERS = 8
"""Below this many clusters a held-out split says nothing; a small corpus gives up to a quarter of itself for each."""


@dataclass(frozen=True, slots=True)
class Borders:
    """Numbers below `test_below` go to test, the others from `validation_from` on to validation, the rest to train."""

    test_below: float
    validation_from: float


def cluster_numbers(clusters: pl.Series, *, seed: int) -> pl.Series:
    """A Float64 in 0–1 for each cluster's name, spread evenly and the same in every engine: BLAKE2b of seed and name.

    >>> cluster_numbers(pl.Series(["0f", "0f"]), seed=1).n_unique()
    1
    """
    salt = f"{seed}:".encode()
    digests = b"".join(hashlib.blake2b(salt + name.encode(), digest_size=8).digest() for name in clusters)
    # Unsigned 64 bits round to the nearest of a double's 53; dividing by a power of two rounds no further.
    return pl.Series("number", np.frombuffer(digests, ">u8").astype(np.float64) / 2.0**64)


def split_borders(count: int, lowest: Sequence[float], highest: Sequence[float], shares: SplitRecipe) -> Borders:
    """Where test ends and validation begins for `count` distinct clusters.

    `lowest` and `highest` are the BORDER_CLUSTERS smallest and largest of their numbers (all of them where there are
    fewer), each in any order: nobody needs to hold the others.
    """
    least = min(BORDER_CLUSTERS, count // 4) or (1 if count >= 3 else 0)
    test_below = shares.test_share
    validation_from = 1 - shares.validation_share if shares.validation_share else math.inf
    if least and shares.test_share:
        test_below = max(test_below, math.nextafter(sorted(lowest)[least - 1], math.inf))
    if least and shares.validation_share:
        validation_from = min(validation_from, sorted(highest)[-least])
    return Borders(test_below, validation_from)


def split_of(numbers: pl.Series, borders: Borders) -> pl.Series:
    """ "train", "validation" or "test" for each of the clusters' numbers."""
    chosen = (
        pl.when(pl.col("number") < borders.test_below)
        .then(pl.lit("test"))
        .when(pl.col("number") >= borders.validation_from)
        .then(pl.lit("validation"))
        .otherwise(pl.lit("train"))
    )
    return numbers.alias("number").to_frame().select(split=chosen)["split"]
