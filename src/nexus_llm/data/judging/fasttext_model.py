"""A fastText classifier as arrays: reads `.ftz` (quantised, pruned) and `.bin` files of version 12.

The format, as fastText's `FastText::loadModel`, `Dictionary::load`, `QMatrix::load` and `ProductQuantizer::load` read
it (github.com/facebookresearch/fastText at v0.9.2): little-endian; magic and version; 12 integers and a double of
arguments; the dictionary with its words, labels and the buckets that pruning kept; the input matrix, dense or
product-quantised; the output matrix, dense or quantised.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nexus_llm.errors import ModelError

MAGIC, VERSION = 793712314, 12
HIERARCHICAL_SOFTMAX, SOFTMAX = 1, 3
SUPERVISED = 3
LABEL_PREFIX = "__label__"
END_OF_LINE = b"</s>"
CENTROIDS = 256
MOST_BUCKETS = 2**27  # 0.5 GB of row numbers; fastText's default is 2 million
LONGEST_NGRAM = 64
MOST_COUNTED = 10**15  # fastText's sentinel for "no node yet"
FNV_OFFSET, FNV_PRIME = 2166136261, 16777619


class ModelArrays(NamedTuple):
    """What kernels read of a model.

    `rows` (rows, dimensions) float32 holds the words' vectors, then the n-gram buckets'. `bucket_rows` (buckets,) int32
    is the row of each bucket, -1 where pruning dropped it; bit b & 63 of `kept_buckets[b >> 6]` says whether it did
    not: of lid.176's 2 million buckets 2 % are left, and the bits stay in a core's second-level cache. `word_slots` is
    an open hash table (a power of two long) of word numbers by FNV-1a, -1 where empty; word i is
    `word_bytes[word_bounds[i]:word_bounds[i + 1]]`. `output` (labels, dimensions) is one vector a label, or an inner
    node of the tree. `left`, `right` are the children of each tree node, leaves first, -1 for leaves; empty for a flat
    softmax. `end_row` is the row of the line's end, -1 for none.
    """

    rows: npt.NDArray[np.float32]
    output: npt.NDArray[np.float32]
    bucket_rows: npt.NDArray[np.int32]
    kept_buckets: npt.NDArray[np.uint64]
    word_slots: npt.NDArray[np.int32]
    word_bytes: npt.NDArray[np.uint8]
    word_bounds: npt.NDArray[np.int64]
    left: npt.NDArray[np.int32]
    right: npt.NDArray[np.int32]
    shortest_ngram: int
    longest_ngram: int
    end_row: int


@dataclass(frozen=True)
class Model:
    """A supervised fastText model, dequantised: what a prediction needs and nothing else."""

    labels: tuple[str, ...]
    arrays: ModelArrays


def load(path: Path) -> Model:
    """The model in the file `path`.

    Raises:
        ModelError: no such file; not a supervised fastText model with (hierarchical) softmax and without word n-grams;
            or the file ends early.
    """
    try:
        file = _Reader(path.read_bytes())
    except OSError as error:
        raise ModelError(
            f"{path}: cannot be read: {error.strerror}", fix="give the path of a fastText model, such as lid.176.ftz"
        ) from error
    try:
        return _model(file, path)
    except (struct.error, ValueError, IndexError, OverflowError, MemoryError) as error:
        raise ModelError(
            f"{path}: byte {file.place} of {len(file.data)} does not fit fastText's format: {error}",
            fix="fetch the file again",
        ) from error


class _Reader:
    """Takes values off the front of a file's bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.place = 0

    def numbers(self, layout: str) -> tuple[int, ...]:
        values = struct.unpack_from(f"<{layout}", self.data, self.place)
        self.place += struct.calcsize(f"<{layout}")
        return values

    def array(self, kind: str, count: int) -> npt.NDArray[np.generic]:
        if count < 0:
            raise ValueError(f"a length of {count}")
        values = np.frombuffer(self.data, np.dtype(kind), count=count, offset=self.place)
        self.place += values.nbytes
        return values

    def word(self) -> bytes:
        end = self.data.index(b"\0", self.place)
        value = self.data[self.place : end]
        self.place = end + 1
        return value


def _model(file: _Reader, path: Path) -> Model:
    if len(file.data) < 8 or file.numbers("ii") != (MAGIC, VERSION):
        raise ModelError(
            f"{path} is not a fastText model of version {VERSION}", fix="give a .ftz or .bin file, such as lid.176.ftz"
        )
    dimensions, _, _, _, _, word_ngrams, loss, kind, buckets, shortest, longest, _, _ = file.numbers("12id")
    if (
        kind != SUPERVISED
        or word_ngrams != 1
        or loss not in (HIERARCHICAL_SOFTMAX, SOFTMAX)
        or not 0 < shortest <= longest <= LONGEST_NGRAM
    ):
        raise ModelError(
            f"{path}: model kind {kind}, {word_ngrams} words at once, loss {loss}, n-grams of {shortest} to {longest}",
            fix="give a language identifier: supervised (3), no word n-grams (1), (hierarchical) softmax (1 or 3)",
        )
    words, labels, label_counts, pruned = _dictionary(file)
    quantised = file.numbers("?")[0]
    rows = _quantised(file) if quantised else _dense(file)
    output = _quantised(file) if file.numbers("?")[0] and quantised else _dense(file)
    _check_shapes(dimensions, len(words), len(labels), rows, output)
    bounds = np.zeros(len(words) + 1, np.int64)
    np.cumsum([len(word) for word in words], out=bounds[1:])
    tree = loss == HIERARCHICAL_SOFTMAX
    left, right = huffman_tree(label_counts) if tree else (np.empty(0, np.int32), np.empty(0, np.int32))
    bucket_rows = _bucket_rows(pruned, buckets, words=len(words), rows=len(rows))
    arrays = ModelArrays(
        rows=rows,
        output=output,
        bucket_rows=bucket_rows,
        kept_buckets=np.packbits(np.pad(bucket_rows >= 0, (0, -buckets % 64)), bitorder="little").view("<u8"),
        word_slots=_word_slots(words),
        word_bytes=np.frombuffer(bytearray(b"".join(words)), np.uint8),  # writable, as it is after pickling
        word_bounds=bounds,
        left=left,
        right=right,
        shortest_ngram=shortest,
        longest_ngram=longest,
        end_row=words.index(END_OF_LINE) if END_OF_LINE in words else -1,
    )
    names = (label.decode(errors="replace").removeprefix(LABEL_PREFIX) for label in labels)
    return Model(tuple(names), arrays)


def _dictionary(file: _Reader) -> tuple[list[bytes], list[bytes], list[int], npt.NDArray[np.int32] | None]:
    """(words, labels, label counts, (bucket, row) pairs that pruning kept or None if it never ran)."""
    size, word_count, label_count, _, pruned_count = file.numbers("iiiqq")
    words, labels, counts = [], [], []
    for number in range(size):
        word = file.word()
        count, is_label = file.numbers("qb")
        if bool(is_label) != (number >= word_count):
            raise ValueError(f"entry {number} is of kind {is_label}")
        if is_label:
            labels.append(word)
            counts.append(count)
        else:
            words.append(word)
    if len(labels) != label_count or not labels:
        raise ValueError(f"{len(labels)} labels where {label_count} are announced")
    pairs = file.array("<i4", 2 * pruned_count).reshape(-1, 2).astype(np.int32) if pruned_count >= 0 else None
    return words, labels, counts, pairs


def _dense(file: _Reader) -> npt.NDArray[np.float32]:
    rows, columns = file.numbers("qq")
    return file.array("<f4", rows * columns).reshape(rows, columns).astype(np.float32)


def _quantised(file: _Reader) -> npt.NDArray[np.float32]:
    """The matrix that a product quantiser stands for, shape (rows, columns)."""
    has_norms, rows, columns, code_count = file.numbers("?qqi")
    codes = file.array("u1", code_count).reshape(rows, -1)
    matrix = _decoded(codes, _centroids(file), columns)
    if has_norms:
        norm_codes = file.array("u1", rows).reshape(rows, 1)
        matrix *= _decoded(norm_codes, _centroids(file), 1)
    return matrix


def _centroids(file: _Reader) -> list[npt.NDArray[np.float32]]:
    """One table of shape (CENTROIDS, width) a part of the vector; the last may be narrower."""
    dimensions, parts, width, last_width = file.numbers("4i")
    values = file.array("<f4", dimensions * CENTROIDS).astype(np.float32)
    tables = []
    for part in range(parts):
        columns = last_width if part == parts - 1 else width
        begin = part * CENTROIDS * width
        tables.append(values[begin : begin + CENTROIDS * columns].reshape(CENTROIDS, columns))
    return tables


def _decoded(
    codes: npt.NDArray[np.generic], tables: list[npt.NDArray[np.float32]], columns: int
) -> npt.NDArray[np.float32]:
    matrix = np.concatenate([table[codes[:, part]] for part, table in enumerate(tables)], axis=1)
    if matrix.shape[1] != columns:
        raise ValueError(f"{matrix.shape[1]} quantised columns where {columns} are announced")
    return np.ascontiguousarray(matrix)


def _check_shapes(
    dimensions: int, words: int, labels: int, rows: npt.NDArray[np.float32], output: npt.NDArray[np.float32]
) -> None:
    """What compiled code relies on: it checks no place that it reads."""
    if rows.shape[1] != dimensions or output.shape != (labels, dimensions) or len(rows) < words:
        raise ValueError(f"matrices of {rows.shape} and {output.shape} for {words} words, {labels} labels")
    if not (np.isfinite(rows).all() and np.isfinite(output).all()):
        raise ValueError("a number that is not finite")


def _bucket_rows(pruned: npt.NDArray[np.int32] | None, buckets: int, *, words: int, rows: int) -> npt.NDArray[np.int32]:
    if not 0 < buckets <= MOST_BUCKETS:
        raise ValueError(f"{buckets} buckets")
    if pruned is None:
        if rows != words + buckets:
            raise ValueError(f"{rows} rows for {words} words and {buckets} buckets")
        return np.arange(words, words + buckets, dtype=np.int32)
    if len(pruned) and (pruned.min() < 0 or pruned[:, 0].max() >= buckets or pruned[:, 1].max() >= rows - words):
        raise ValueError(f"kept buckets point outside of {buckets} buckets or {rows} rows")
    table = np.full(buckets, -1, np.int32)
    table[pruned[:, 0]] = pruned[:, 1] + words
    return table


def word_hash(word: bytes) -> int:
    """fastText's 32-bit FNV-1a, whose bytes are signed: those from 0x80 set the upper 24 bits.

    >>> word_hash(b"")
    2166136261
    """
    value = FNV_OFFSET
    for byte in word:
        value = ((value ^ (byte | 0xFFFFFF00 if byte >= 0x80 else byte)) * FNV_PRIME) & 0xFFFFFFFF
    return value


def _word_slots(words: list[bytes]) -> npt.NDArray[np.int32]:
    slots = np.full(1 << (2 * len(words) + 1).bit_length(), -1, np.int32)
    for number, word in enumerate(words):
        slot = word_hash(word) & (len(slots) - 1)
        while slots[slot] >= 0:
            slot = (slot + 1) & (len(slots) - 1)
        slots[slot] = number
    return slots


def huffman_tree(counts: list[int]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """(left child, right child) of each of the 2n-1 nodes; leaf i is label i, the last node is the root.

    As fastText's `HierarchicalSoftmaxLoss::buildTree`: counts fall; on a tie the inner node goes first.

    >>> [side.tolist() for side in huffman_tree([2, 1, 1])]
    [[-1, -1, -1, 2, 3], [-1, -1, -1, 1, 0]]
    """
    if min(counts) < 0 or sum(counts) >= MOST_COUNTED or sorted(counts, reverse=True) != counts:
        raise ValueError("label counts that do not fall")
    leaves = len(counts)
    weight = [*counts, *[MOST_COUNTED] * (leaves - 1)]
    left = np.full(2 * leaves - 1, -1, np.int32)
    right = np.full(2 * leaves - 1, -1, np.int32)
    leaf, inner = leaves - 1, leaves
    for node in range(leaves, 2 * leaves - 1):
        children = []
        for _ in range(2):
            if leaf >= 0 and weight[leaf] < weight[inner]:
                children.append(leaf)
                leaf -= 1
            else:
                children.append(inner)
                inner += 1
        left[node], right[node] = children
        weight[node] = weight[children[0]] + weight[children[1]]
    return left, right
