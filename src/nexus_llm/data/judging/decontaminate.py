"""Which documents hold a piece of an evaluation set: overlaps of 13 words, found by their hashes.

After Brown et al. 2020, "Language Models are Few-Shot Learners" (arXiv:2005.14165), appendix C: small letters, no
punctuation, runs of 13 words; an item of 8 to 12 words counts as one run. Like there, what is common is ignored: a run
that more than 10 items share says nothing about any of them. Unlike there, words end at punctuation ("don't" has two).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from numba import njit

from nexus_llm.characters import Bytes, Offsets, mix
from nexus_llm.data.duplicates.word_hashes import FACTOR, Hashes, fill_words, tables, text_buffers
from nexus_llm.data.reading.blocks import TextRecord, UnusableError
from nexus_llm.data.reading.readers import blocks_of, content_of
from nexus_llm.errors import DataError

LONGEST = 13
"""Words of a run."""
SHORTEST = 8
"""Items of fewer words cannot be checked: too much text holds them by chance."""
MAX_ITEMS = 10
"""A run in more items than this is boilerplate."""

SCHEMA = {"row": pl.UInt32, "set": pl.String, "item": pl.String, "hits": pl.UInt32}
"""`hits`: different runs shared."""

# Words hashed at a time.
_PIECE = 4096
# Bits of the filter for each run, of which it sets two: 1 look-up in 70 at most passes by chance and is checked.
_FILTER_BITS_PER_RUN = 16
_LEAST_FILTER_BITS = 16
_OTHER = np.uint64(0xD6E8FEB86659FD93)  # odd, so that it gives a second bit that the first does not tell


@dataclass(frozen=True)
class Index:
    """The runs of all items of named sets. Can be pickled; about 18 bytes a run."""

    runs: Hashes
    """Sorted distinct hashes of runs."""
    bounds: Offsets
    """The items that hold run i are `owners[bounds[i]:bounds[i + 1]]`."""
    owners: npt.NDArray[np.int64]
    filter: Bytes
    """Two bits for the leading SHORTEST words of each run: every run begins with that many. A Bloom filter (1970)."""
    widths: npt.NDArray[np.int64]
    """Words of runs that there are: LONGEST, and of shorter items, down to SHORTEST."""
    items: pl.DataFrame
    """Columns `set` and `item` of each item number."""
    unchecked: dict[str, int]
    """Set → items too short to be checked, or of common runs alone."""
    ignored: int
    """Runs in more than MAX_ITEMS items."""


def build_index(sets: Mapping[str, Iterable[tuple[str, str]]]) -> Index:
    """The index of sets, given as name → (item id, text). Texts with the same id are parts of one item."""
    rows = [(name, item, text) for name in sorted(sets) for item, text in sets[name]]
    given = pl.DataFrame(rows, schema={"set": pl.String, "item": pl.String, "text": pl.String}, orient="row")
    items = given.select("set", "item").unique(maintain_order=True)
    numbers = given.join(items.with_row_index("number"), on=["set", "item"], how="left", maintain_order="left")[
        "number"
    ]
    runs, prefixes, texts, widths = _item_runs(given["text"])
    found = pl.DataFrame({"run": runs, "prefix": prefixes, "owner": numbers.cast(pl.Int64)[texts], "width": widths})
    # An item may hold a run twice; it is one piece of evidence.
    found = found.unique(["run", "owner"], keep="first", maintain_order=True).sort("run", "owner")
    found = found.with_columns(items=pl.len().over("run"))
    kept = found.filter(pl.col("items") <= MAX_ITEMS)
    distinct = kept.group_by("run", maintain_order=True).len()
    checked = pl.DataFrame({"number": kept["owner"].unique()})
    left = items.with_row_index("number").join(checked.cast({"number": pl.UInt32}), on="number", how="anti")
    return Index(
        runs=np.array(distinct["run"], np.uint64),
        bounds=np.concatenate([[0], distinct["len"].cast(pl.Int64).cum_sum().to_numpy()]).astype(np.int64),
        owners=np.array(kept["owner"], np.int64),
        filter=_filter(kept["prefix"].unique().to_numpy()),
        widths=np.array(kept["width"].unique().sort(), np.int64),
        items=items,
        unchecked=dict(Counter(left["set"].to_list())),
        ignored=found.filter(pl.col("items") > MAX_ITEMS)["run"].n_unique(),
    )


def items_of(path: Path, *, origin: str) -> Iterator[tuple[str, str]]:
    """(item id, text) for `build_index` from a local file of any format that `readers` know.

    Every text in a row is a part of its item: question, answer and choices, however the set names them. The id is the
    file's name in `origin` and the record's number.

    Raises:
        DataError: a record cannot be read; a set that is checked in part would look like one that was checked.
    """
    for block in blocks_of(path, origin=origin, source="evaluation"):
        for number, content in content_of(block):
            if isinstance(content, UnusableError):
                raise DataError(
                    f"{origin}:{number} cannot be read: {content}",
                    fix="mend or remove this record of the evaluation set, or take its file out of data.decontaminate",
                )
            for text in _texts_in(content.text if isinstance(content, TextRecord) else content):
                yield f"{Path(origin).name}:{number}", text


def contaminated(texts: pl.Series, index: Index) -> pl.DataFrame:
    """The items of which a text holds a run; columns of SCHEMA, by row, set and item."""
    data, offsets = text_buffers(texts)
    rows, runs = _fill_hits(data, offsets, *tables(), index.runs, index.filter, index.widths, _POWERS)
    if not len(rows):
        return pl.DataFrame(schema=SCHEMA)
    counts = (index.bounds[runs + 1] - index.bounds[runs]).astype(np.int64)
    # Place of each owner: the first of its run, and one further for each one more.
    further = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    owners = index.owners[np.repeat(index.bounds[runs], counts) + further]
    hits = pl.DataFrame({"row": np.repeat(rows, counts), "number": owners, "run": np.repeat(runs, counts)})
    found = hits.group_by("row", "number").agg(hits=pl.col("run").n_unique())
    named = pl.concat([found, index.items[found["number"]]], how="horizontal").sort("row", "set", "item")
    return named.select(pl.col(name).cast(kind) for name, kind in SCHEMA.items())


def _texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _texts_in(one)
    elif isinstance(value, list):
        for one in value:
            yield from _texts_in(one)


def _item_runs(texts: pl.Series) -> tuple[npt.NDArray[Any], ...]:
    """(hash, hash of the leading words, text, words) of each run."""
    data, offsets = text_buffers(texts)
    # A word and what separates it take two bytes at least.
    room = (offsets[1:] - offsets[:-1]) // 2 + 1
    runs, prefixes = np.empty((2, int(room.sum())), np.uint64)
    places = np.empty((2, int(room.sum())), np.int64)
    longest = int(room.max()) if len(room) else 0
    count = _fill_item_runs(data, offsets, *tables(), _POWERS, longest, runs, prefixes, places)
    return runs[:count], prefixes[:count], *places[:, :count]


def _filter(prefixes: Hashes) -> Bytes:
    bits = max(_LEAST_FILTER_BITS, (len(prefixes) * _FILTER_BITS_PER_RUN).bit_length())
    table = np.zeros(1 << (bits - 3), np.uint8)
    for hashes in (prefixes, prefixes * _OTHER):
        places = hashes >> np.uint64(64 - bits)
        np.bitwise_or.at(table, places >> np.uint64(3), np.uint8(1) << (places & np.uint64(7)).astype(np.uint8))
    return table


@njit(cache=True, nogil=True, inline="always")
def _has(table: Any, bit: Any) -> Any:
    return (table[bit >> np.uint64(3)] >> (bit & np.uint64(7))) & np.uint8(1)


@njit(cache=True, nogil=True)
def _place_of(run: Any, runs: Any) -> int:
    """As `searchsorted`, which takes ten times longer to compile."""
    low, high = 0, len(runs)
    while low < high:
        middle = (low + high) // 2
        if runs[middle] < run:
            low = middle + 1
        else:
            high = middle
    return low


@njit(cache=True, nogil=True)
def _sum_up(hashes: Any, count: int, sums: Any) -> None:
    """`sums[i]` becomes Horner's sum of the first i hashes: that of any run is a difference of two."""
    sums[0] = 0
    for place in range(count):
        sums[place + 1] = sums[place] * FACTOR + hashes[place]


@njit(cache=True, nogil=True)
def _fill_item_runs(
    data: Any,
    offsets: Any,
    small: Any,
    flags: Any,
    lowered: Any,
    powers: Any,
    longest: int,
    runs: Any,
    prefixes: Any,
    places: Any,
) -> int:
    hashes, starts, sums = np.empty(longest, np.uint64), np.empty(longest, np.int64), np.empty(longest + 1, np.uint64)
    found = 0
    for text in range(len(offsets) - 1):
        count, _ = fill_words(data, offsets[text], offsets[text + 1], small, flags, lowered, hashes, starts, 0)
        width = min(count, LONGEST)
        if width < SHORTEST:
            continue
        _sum_up(hashes, count, sums)
        for word in range(count - width + 1):
            runs[found] = mix(sums[word + width] - sums[word] * powers[width])
            prefixes[found] = sums[word + SHORTEST] - sums[word] * powers[SHORTEST]
            places[0, found], places[1, found] = text, width
            found += 1
    return found


@njit(cache=True, nogil=True)
def _fill_hits(
    data: Any, offsets: Any, small: Any, flags: Any, lowered: Any, runs: Any, table: Any, widths: Any, powers: Any
) -> tuple[Any, Any]:
    """(text, place in `runs`) of each run that a text shares."""
    hashes, starts, sums = np.empty(_PIECE, np.uint64), np.empty(_PIECE, np.int64), np.empty(_PIECE + 1, np.uint64)
    hits, found = np.empty((2, 1024), np.int64), 0
    bits = 3
    while 1 << (bits - 3) < len(table):
        bits += 1
    shift, power = np.uint64(64 - bits), powers[SHORTEST]
    for text in range(len(offsets) - 1):
        place, end, carried = offsets[text], offsets[text + 1], 0
        while place < end:
            count, place = fill_words(data, place, end, small, flags, lowered, hashes, starts, carried)
            _sum_up(hashes, count, sums)
            # Before the text's end, a run that reaches behind this piece waits for the next one.
            last = count - (SHORTEST if place >= end else LONGEST)
            for word in range(last + 1):
                prefix = sums[word + SHORTEST] - sums[word] * power
                if not (_has(table, prefix >> shift) and _has(table, (prefix * _OTHER) >> shift)):
                    continue
                for width in widths:
                    if word + width > count:
                        break
                    run = mix(sums[word + width] - sums[word] * powers[width])
                    at = _place_of(run, runs)
                    if at < len(runs) and runs[at] == run:
                        if found == hits.shape[1]:
                            more = np.empty((2, 2 * found), np.int64)
                            more[:, :found] = hits
                            hits = more
                        hits[0, found], hits[1, found] = text, at
                        found += 1
            carried = min(count, LONGEST - 1)
            for word in range(carried):
                hashes[word] = hashes[count - carried + word]
    return hits[0, :found], hits[1, :found]


_POWERS = np.cumprod(np.concatenate([np.ones(1, np.uint64), np.full(LONGEST, FACTOR, np.uint64)]), dtype=np.uint64)
