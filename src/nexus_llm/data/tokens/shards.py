"""Encoded blocks become shards: files that a trainer maps into memory, each beside the documents that it holds.

{split}-00000.tokens.npy            uint16, or uint32 for vocabularies of more than 65,536 tokens
{split}-00000.offsets.npy           int64, documents + 1: document i is tokens[offsets[i]:offsets[i + 1]]
{split}-00000.loss_mask.npy         bool, a token: of running text, or written by the assistant
{split}-00000.is_conversation.npy   bool, a document
{split}-00000.repeats.npy           uint16, a document: how often an epoch sees it; 1 in validation and test
{split}-00000.rejected_tokens.npy,  the worse answers of preferences, laid out as the documents: 0 tokens where a
  …rejected_offsets.npy,            document is no preference. Only in a shard that holds preferences.
  …rejected_loss_mask.npy
{split}-00000.documents.parquet     row i = document i, columns as in DOCUMENTS_SCHEMA

Shards depend on the order and the sizes of documents alone: blocks of another size give the same bytes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt
import polars as pl

from nexus_llm.data.tokens.encode import BLOCK_SCHEMA, REJECTED_ARRAYS, EncodedBlock, Rejected
from nexus_llm.records import SPLITS, Split

if TYPE_CHECKING:
    import pyarrow.parquet

DOCUMENTS_SCHEMA = {name: kind for name, kind in BLOCK_SCHEMA.items() if name not in ("split", "characters")}
"""Columns of `documents.parquet`."""

# A row group ends after so many documents or so much text, whichever comes first: both count documents from the
# shard's start, so the same rows give the same bytes, and one group in memory is all that writing needs.
_GROUP_DOCUMENTS = 1_000
_GROUP_TEXT_BYTES = 8_000_000

Sizes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Piece:
    """Documents `first` to `stop` of one encoded block."""

    block: int
    first: int
    stop: int


@dataclass(frozen=True)
class Shard:
    """What one shard holds."""

    split: Split
    number: int
    """From 0 in each split."""
    pieces: tuple[Piece, ...] = ()
    documents: int = 0
    tokens: int = 0

    @property
    def name(self) -> str:
        """`train-00000`: what its files begin with."""
        return f"{self.split}-{self.number:05d}"

    @property
    def files(self) -> tuple[str, ...]:
        """Names of its files but for those of rejected answers; the last one is written last."""
        return (*(f"{self.name}.{array}.npy" for array in _ARRAYS), f"{self.name}.documents.parquet")


@dataclass
class WrittenShard:
    """What went into a shard's files."""

    files: tuple[str, ...]
    sources: dict[str, int] = field(default_factory=dict)
    """Source → tokens that an epoch sees of it here: each document's times its repeats."""


def plan_shards(blocks: Iterable[tuple[int, Mapping[str, Sizes]]], *, shard_tokens: int) -> list[Shard]:
    """Every split's documents in order, cut into shards of at most `shard_tokens` tokens; splits in SPLITS order.

    `blocks` are (number, `EncodedBlock.sizes`) in the order of their documents, and may be read one at a time. A shard
    takes documents until the next one would exceed `shard_tokens`, in the midst of a block if need be; a document is
    never cut, so a longer one makes a longer shard of its own. A split without documents has one empty shard.

    >>> [(one.name, one.tokens) for one in plan_shards([(0, {"train": np.array([5, 5, 5])})], shard_tokens=12)]
    [('train-00000', 10), ('train-00001', 5), ('validation-00000', 0), ('test-00000', 0)]
    """
    done: dict[str, list[Shard]] = {split: [] for split in SPLITS}
    last = {split: Shard(split, 0) for split in SPLITS}
    for block, sizes_by_split in blocks:
        start = 0
        for split in SPLITS:
            sizes = sizes_by_split.get(split, np.empty(0, np.int64))
            for first, stop in _runs(sizes, room=shard_tokens - last[split].tokens, shard_tokens=shard_tokens):
                shard = last[split]
                # The first run belongs to the shard that is open, unless not even its first document fits.
                if shard.documents and (first or shard.tokens + int(sizes[first]) > shard_tokens):
                    done[split].append(shard)
                    shard = Shard(split, shard.number + 1)
                piece = Piece(block, start + first, start + stop)
                last[split] = _extended(shard, piece, int(sizes[first:stop].sum()))
            start += len(sizes)
    return [shard for split in SPLITS for shard in (*done[split], last[split])]


def write_shard(
    folder: Path,
    shard: Shard,
    *,
    block: Callable[[int], EncodedBlock],
    dtype: type[np.uint16] | type[np.uint32],
    repeats: Callable[[pl.DataFrame], npt.NDArray[np.uint16]] | None = None,
) -> WrittenShard:
    """Writes the files of a shard into `folder`, reading one block at a time; gives its counts.

    Files get their names when all of them are whole, `documents.parquet` last; who finishes the artifact waits for the
    disk. `block` gives an encoded block by its number (`tokens.load_block`); `dtype` is `tokens.token_type`; `repeats`
    gives for some documents how often an epoch sees each (`mix.repeats`), 1 without it and outside of training.

    Needs memory for one block and for one row group, 8 MB of text or a single longer document.

    Raises:
        OSError: the disk is full or refuses.
    """
    count = WrittenShard(shard.files)
    shapes = {name: _length(name, shard) for name in _ARRAYS}
    kinds: dict[str, Any] = {**_ARRAYS, "tokens": dtype}
    with contextlib.ExitStack() as stack:
        streams = {name: stack.enter_context(_partial(folder / name)) for name in shard.files}
        rejected = _RejectedWriter(stack, folder, shard.name, dtype)
        arrays = dict(zip(_ARRAYS, streams.values(), strict=False))
        for name, stream in arrays.items():
            _write_header(stream, kinds[name], shapes[name])
        arrays["offsets"].write(np.zeros(1, np.int64).data)
        documents = stack.enter_context(_document_writer(streams[shard.files[-1]]))
        tokens = 0
        for piece in shard.pieces:
            part = _part(block(piece.block), piece)
            often = repeats(part.documents) if repeats and shard.split == "train" else np.ones(len(part.documents))
            content = {
                "tokens": part.tokens,
                "offsets": part.offsets[1:] + tokens,
                "loss_mask": part.loss_mask,
                "is_conversation": part.is_conversation,
                "repeats": often,
            }
            for name, values in content.items():
                arrays[name].write(np.ascontiguousarray(values, kinds[name]).data)
            rejected.add(part)
            documents.add(part.documents)
            _count(count, part.documents, often)
            tokens += int(part.offsets[-1])
    if tokens != shard.tokens:
        raise AssertionError(f"{shard.name} was planned with {shard.tokens} tokens and has {tokens}")
    count.files = (*rejected.files, *shard.files)
    for name in count.files:
        _partial_path(folder / name).rename(folder / name)
    return count


_ARRAYS: dict[str, Any] = {
    "tokens": np.uint16,
    "offsets": np.int64,
    "loss_mask": np.bool_,
    "is_conversation": np.bool_,
    "repeats": np.uint16,
}


def _runs(sizes: Sizes, *, room: int, shard_tokens: int) -> Iterator[tuple[int, int]]:
    """(first, stop) of the documents that share a shard, of which the first run has only `room` tokens left."""
    ends = np.cumsum(sizes)
    first = 0
    while first < len(sizes):
        before = int(ends[first - 1]) if first else 0
        stop = int(np.searchsorted(ends, before + room, side="right"))
        if stop == first:  # not even one fits
            if room == shard_tokens:
                stop += 1
            else:
                room = shard_tokens
                continue
        yield first, stop
        first, room = stop, shard_tokens


def _extended(shard: Shard, piece: Piece, tokens: int) -> Shard:
    return Shard(
        shard.split,
        shard.number,
        (*shard.pieces, piece),
        shard.documents + piece.stop - piece.first,
        shard.tokens + tokens,
    )


def _length(name: str, shard: Shard) -> int:
    """Entries in the array of that name."""
    per_token = name in ("tokens", "loss_mask")
    return shard.tokens if per_token else shard.documents + (name == "offsets")


def _part(block: EncodedBlock, piece: Piece) -> EncodedBlock:
    """Some documents of a block as a block."""
    start, stop = int(block.offsets[piece.first]), int(block.offsets[piece.stop])
    return EncodedBlock(
        block.documents.slice(piece.first, piece.stop - piece.first),
        block.tokens[start:stop],
        block.offsets[piece.first : piece.stop + 1] - start,
        block.loss_mask[start:stop],
        block.is_conversation[piece.first : piece.stop],
        rejected=None if block.rejected is None else _rejected_part(block.rejected, piece),
    )


def _rejected_part(rejected: Rejected, piece: Piece) -> Rejected:
    start, stop = int(rejected.offsets[piece.first]), int(rejected.offsets[piece.stop])
    return Rejected(
        rejected.tokens[start:stop],
        rejected.offsets[piece.first : piece.stop + 1] - start,
        rejected.loss_mask[start:stop],
    )


def _count(count: WrittenShard, documents: pl.DataFrame, repeats: npt.NDArray[Any]) -> None:
    """Adds these documents to the counts of their sources."""
    seen = documents.select("source", seen=pl.Series(repeats, dtype=pl.Int64) * pl.col("tokens"))
    for source, tokens in seen.group_by("source").agg(pl.col("seen").sum()).iter_rows():
        count.sources[source] = count.sources.get(source, 0) + tokens


def _write_header(stream: BinaryIO, kind: Any, length: int) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(kind)), "fortran_order": False, "shape": (length,)}
    np.lib.format.write_array_header_1_0(stream, header)


@dataclass
class _RejectedWriter:
    """Rejected answers in, three files out; no files as long as there is no such answer."""

    stack: contextlib.ExitStack
    folder: Path
    name: str
    dtype: type[np.uint16] | type[np.uint32]
    streams: dict[str, BinaryIO] = field(default_factory=dict)
    documents: int = 0
    tokens: int = 0

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the files that were begun."""
        return tuple(f"{self.name}.rejected_{name}.npy" for name in self.streams)

    def add(self, part: EncodedBlock) -> None:
        rejected, count = part.rejected, len(part.is_conversation)
        if rejected is not None and len(rejected.tokens) and not self.streams:
            self._begin()
        if self.streams:
            sizes = np.zeros(count, np.int64) if rejected is None else np.diff(rejected.offsets)
            self.streams["offsets"].write((np.cumsum(sizes) + self.tokens).data)
        self.documents += count
        if self.streams and rejected is not None:
            self.streams["tokens"].write(np.ascontiguousarray(rejected.tokens, self.dtype).data)
            self.streams["loss_mask"].write(np.ascontiguousarray(rejected.loss_mask, np.bool_).data)
            self.tokens += len(rejected.tokens)

    def _begin(self) -> None:
        self.streams = {
            name: self.stack.enter_context(_partial(self.folder / f"{self.name}.rejected_{name}.npy"))
            for name in REJECTED_ARRAYS
        }
        self._write_headers()
        self.streams["offsets"].write(np.zeros(self.documents + 1, np.int64).data)
        self.stack.callback(self._write_headers)  # again at the end, when the lengths are known, before files close

    def _write_headers(self) -> None:
        lengths = {"tokens": self.tokens, "loss_mask": self.tokens, "offsets": self.documents + 1}
        kinds: dict[str, Any] = {"tokens": self.dtype, "loss_mask": np.bool_, "offsets": np.int64}
        for name, stream in self.streams.items():
            stream.seek(0)
            # numpy leaves room for a longer length, so the header takes as many bytes with any.
            _write_header(stream, kinds[name], lengths[name])


@dataclass
class _DocumentWriter:
    """Rows in, row groups out."""

    writer: pyarrow.parquet.ParquetWriter
    pending: list[pl.DataFrame] = field(default_factory=list)
    rows: int = 0
    text_bytes: int = 0

    def add(self, documents: pl.DataFrame) -> None:
        sizes = documents.select(pl.col("text").str.len_bytes() + pl.col("messages").str.len_bytes().fill_null(0))
        ends = np.cumsum(sizes.to_series().to_numpy(), dtype=np.int64)
        first = 0
        while first < len(documents):
            before = int(ends[first - 1]) if first else 0
            room = before + _GROUP_TEXT_BYTES - self.text_bytes
            stop = min(int(np.searchsorted(ends, room, side="right")), first + _GROUP_DOCUMENTS - self.rows)
            if stop <= first:  # no room for the next one
                if self.rows:
                    self.flush()
                    continue
                stop = first + 1
            self.pending.append(documents.slice(first, stop - first))
            self.rows += stop - first
            self.text_bytes += int(ends[stop - 1]) - before
            first = stop

    def flush(self) -> None:
        """One row group of what is pending."""
        if self.rows:
            table = pl.concat(self.pending).select(list(DOCUMENTS_SCHEMA)).rechunk()
            self.writer.write_table(table.to_arrow(compat_level=pl.CompatLevel.oldest()), row_group_size=self.rows)
        self.pending, self.rows, self.text_bytes = [], 0, 0


@contextlib.contextmanager
def _document_writer(stream: BinaryIO) -> Iterator[_DocumentWriter]:
    import pyarrow.parquet

    empty = pl.DataFrame(schema=DOCUMENTS_SCHEMA).to_arrow(compat_level=pl.CompatLevel.oldest())
    # Statistics let a reader skip row groups that cannot hold an ordinal; of text they would be copies of it.
    with pyarrow.parquet.ParquetWriter(
        stream, empty.schema, compression="zstd", use_dictionary=["source", "language"], write_statistics=["ordinal"]
    ) as writer:
        documents = _DocumentWriter(writer)
        yield documents
        documents.flush()


def _partial_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.partial")


@contextlib.contextmanager
def _partial(path: Path) -> Iterator[BinaryIO]:
    """A file to write under another name. The disk begins with it when the block ends, and nobody waits for it here."""
    with _partial_path(path).open("wb") as stream:
        yield stream
        stream.flush()
        if hasattr(os, "posix_fadvise"):  # else the system begins when it likes; there is none on macOS
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
