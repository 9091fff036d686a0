"""Clusters of exact and near-duplicate documents as Spark joins: the same rows as the embedded engine's.

    equal content hash ──► first of each ──► share a band key ──► Jaccard of the shingle sets ──► connected components

Each step is a statement about sets (no order, no partition, no seed enters), which is why both engines agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from nexus_llm.data.duplicates import minhash
from nexus_llm.data.duplicates.buckets import MAX_ALL_PAIRS, NEXT_IN_LARGE
from nexus_llm.data.duplicates.components import Components
from nexus_llm.data.spark.frames import collected, to_spark
from nexus_llm.recipe.schema import NearDuplicateRecipe

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

# Pairs that one process joins in memory (16 bytes each): below, connected components need no round trips at all.
MAX_PAIRS_ON_DRIVER = 4_000_000
# Large-star/small-star halves distances: 2^40 documents in one chain would need fewer rounds.
_MAX_ROUNDS = 60

Keep = Callable[["DataFrame", str], "DataFrame"]
"""Stores a frame under a name and gives it back as stored: a cut in the plan, so that nothing runs twice."""


@dataclass(frozen=True)
class Corpus:
    """The documents that were kept so far, read as often as a step asks and never more columns than it needs."""

    hashes: DataFrame
    """ordinal, task (bigint), content_hash (string), characters (bigint)."""
    band_keys: DataFrame
    """ordinal (bigint), band_keys (array<bigint>)."""
    ids: DataFrame
    """ordinal (bigint), id (string)."""
    texts: Callable[[DataFrame], DataFrame]
    """ordinal and text of the documents in a frame of ordinal and task."""


def find_duplicates(corpus: Corpus, settings: NearDuplicateRecipe, *, keep: Keep) -> DataFrame:
    """Documents that are not alone: ordinal, cluster, representative, copy_of (ordinals), jaccard; in no order.

    jaccard is the similarity with the representative, and 1 for the representative itself and its exact copies.
    """
    from pyspark.sql import functions as sql

    copies = keep(
        corpus.hashes.withColumns(
            {
                "copy_of": sql.min("ordinal").over(_by("content_hash")),
                "copies": sql.count("*").over(_by("content_hash")),
            }
        ),
        "copies",
    )
    firsts = copies.filter("ordinal = copy_of").select("ordinal", "task")
    pairs = keep(candidate_pairs(corpus.band_keys.join(firsts.select("ordinal"), "ordinal", "left_semi")), "candidates")
    candidates = pairs.select(sql.explode(sql.array("a", "b")).alias("ordinal")).distinct()
    texts = keep(corpus.texts(firsts.join(candidates, "ordinal")), "texts")
    verified = keep(jaccards(pairs, texts, words=settings.shingle_words), "verified")
    similar = verified.filter(sql.col("jaccard") >= settings.jaccard).select("a", "b")
    components = connected_components(similar, keep=keep)
    members = keep(_members(copies, components), "members")
    return _with_jaccard(members, texts, settings.shingle_words)


def candidate_pairs(keys: DataFrame) -> DataFrame:
    """Distinct pairs (a, b), a < b, of ordinals that share a band key, from rows of ordinal and band_keys."""
    from pyspark.sql import functions as sql

    key = sql.explode(sql.array_distinct("band_keys")).alias("key")
    named = keys.select("ordinal", key).filter(sql.col("key") != int(minhash.NO_KEY))
    shared = named.withColumn("members", sql.count("*").over(_by("key"))).filter("members > 1")
    # A window spills to disk; collecting a bucket of a million members into one row would not.
    following = sql.collect_list("ordinal").over(_by("key").orderBy("ordinal").rowsBetween(1, MAX_ALL_PAIRS - 1))
    reach = sql.when(sql.col("members") <= MAX_ALL_PAIRS, MAX_ALL_PAIRS - 1).otherwise(NEXT_IN_LARGE)
    partners = shared.withColumn("partners", following).select(
        sql.col("ordinal").alias("a"), sql.explode(sql.slice("partners", sql.lit(1), reach)).alias("b")
    )
    return partners.distinct()


def jaccards(pairs: DataFrame, texts: DataFrame, *, words: int) -> DataFrame:
    """Pairs (a, b) with the exact `jaccard` of their shingle sets; `texts` has ordinal and text."""
    left = texts.selectExpr("ordinal AS a", "text AS text_a")
    right = texts.selectExpr("ordinal AS b", "text AS text_b")
    return pairs.join(left, "a").join(right, "b").mapInArrow(_Comparison(words), "a bigint, b bigint, jaccard double")


def connected_components(pairs: DataFrame, *, keep: Keep) -> DataFrame:
    """(ordinal, component) of everything in a pair; the component is its smallest ordinal."""
    if pairs.limit(MAX_PAIRS_ON_DRIVER + 1).count() <= MAX_PAIRS_ON_DRIVER:
        return to_spark(pairs.sparkSession, joined(collected(pairs).to_numpy()))
    return stars(pairs, keep=keep)


def joined(pairs: npt.NDArray[np.int64]) -> pl.DataFrame:
    """(ordinal, component) of everything in `pairs`, shape (pairs, 2), in one process.

    >>> joined(np.array([[5, 9], [2, 5], [7, 8]])).rows()
    [(2, 2), (5, 2), (7, 7), (8, 7), (9, 2)]
    """
    ordinals, numbers = np.unique(pairs, return_inverse=True)
    parts = Components(len(ordinals))
    parts.join(*np.ascontiguousarray(numbers.reshape(-1, 2).T, np.uint64))
    _, roots = parts.joined(0, len(ordinals))  # each ordinal is in a pair
    return pl.DataFrame({"ordinal": ordinals, "component": ordinals[roots]})


def stars(pairs: DataFrame, *, keep: Keep) -> DataFrame:
    """(ordinal, component) as `joined` gives, for graphs beyond one machine's memory.

    Source: Kiveris et al. 2014, "Connected Components in MapReduce and Beyond", algorithms 1 to 3.
    """
    from pyspark.sql import functions as sql

    edges = keep(pairs.selectExpr("greatest(a, b) AS a", "least(a, b) AS b").filter("a <> b").distinct(), "edges-0")
    before = None
    for round_number in range(1, _MAX_ROUNDS):
        edges = keep(_small_star(_large_star(edges)), f"edges-{round_number}")
        # Order-free fingerprint of the edge set: when a round changes nothing, every edge points at its root.
        after = edges.agg(sql.count("*"), sql.expr("bit_xor(xxhash64(a, b))"), sql.expr("bit_xor(hash(b, a))")).first()
        if after == before:
            break
        before = after
    roots = edges.select(sql.col("b").alias("ordinal"), sql.col("b").alias("component")).distinct()
    return edges.selectExpr("a AS ordinal", "b AS component").unionByName(roots)


class _Comparison:
    """Arrow batches of pairs with both texts in; pairs with their similarity out."""

    def __init__(self, words: int) -> None:
        self.words = words

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            frame = pl.DataFrame(pa.Table.from_batches([batch]))
            values = pa.array(self._jaccards(frame), pa.float64())
            yield pa.RecordBatch.from_arrays(
                [batch.column("a"), batch.column("b"), values], names=["a", "b", "jaccard"]
            )

    def _jaccards(self, frame: pl.DataFrame) -> npt.NDArray[np.float64]:
        # A text stands in several pairs of a batch: its shingles are made once.
        both = pl.concat([frame.select(ordinal="a", text="text_a"), frame.select(ordinal="b", text="text_b")]).unique(
            "ordinal", maintain_order=True
        )
        places = both.select("ordinal").with_row_index("place").cast(pl.Int64)
        left = frame.join(places, left_on="a", right_on="ordinal", maintain_order="left")["place"].to_numpy()
        right = frame.join(places, left_on="b", right_on="ordinal", maintain_order="left")["place"].to_numpy()
        hashes, bounds = minhash.shingle_sets(both["text"], words=self.words)
        return minhash.jaccards(hashes, bounds, left, right)


def _large_star(edges: DataFrame) -> DataFrame:
    """Each node's larger neighbours point at its smallest neighbour."""
    from pyspark.sql import functions as sql

    both = edges.unionByName(edges.selectExpr("b AS a", "a AS b"))
    smallest = sql.least("a", sql.min("b").over(_by("a")))
    return both.withColumn("root", smallest).filter("b > a").selectExpr("b AS a", "root AS b").distinct()


def _small_star(edges: DataFrame) -> DataFrame:
    """Each node and its smaller neighbours point at the smallest of them."""
    from pyspark.sql import functions as sql

    rooted = edges.withColumn("root", sql.min("b").over(_by("a")))
    own = rooted.selectExpr("a", "root AS b")
    return rooted.selectExpr("b AS a", "root AS b").unionByName(own).filter("a <> b").distinct()


def _members(copies: DataFrame, components: DataFrame) -> DataFrame:
    """All documents that are not alone, with the name and the representative of their cluster."""
    from pyspark.sql import functions as sql

    component = sql.coalesce(sql.col("component"), sql.col("copy_of"))
    known = components.withColumnRenamed("ordinal", "copy_of")
    together = copies.join(known, "copy_of", "left").filter("component IS NOT NULL OR copies > 1")
    together = together.withColumn("component", component)
    best = sql.min(sql.struct((-sql.col("characters")).alias("shorter"), "content_hash", "ordinal"))
    return together.select(
        "ordinal",
        "copy_of",
        sql.min("content_hash").over(_by("component")).alias("cluster"),
        best.over(_by("component"))["ordinal"].alias("representative"),
    )


def _with_jaccard(members: DataFrame, texts: DataFrame, words: int) -> DataFrame:
    from pyspark.sql import functions as sql

    pairs = members.selectExpr("copy_of AS a", "representative AS b").filter("a <> b").distinct()
    values = jaccards(pairs, texts, words=words).withColumnsRenamed({"a": "copy_of", "b": "representative"})
    value = sql.coalesce(sql.col("jaccard"), sql.lit(1.0)).alias("jaccard")
    return members.join(values, ["copy_of", "representative"], "left").select(
        "ordinal", "cluster", "representative", "copy_of", value
    )


def _by(column: str) -> Any:
    from pyspark.sql import Window

    return Window.partitionBy(column)
