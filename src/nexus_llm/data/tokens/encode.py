"""A block of documents as token ids, what may be learned of them, and the documents themselves in the same order.

One block lies in a folder of its own, complete or absent:

tokens.npy            uint16, or uint32 for vocabularies of more than 65,536 tokens; all documents behind one another
offsets.npy           int64, documents + 1: document i is tokens[offsets[i]:offsets[i + 1]]
loss_mask.npy         bool, a token: of running text, or written by the assistant, its calls of tools too. Absent where
                      all may be learned
is_conversation.npy   bool, a document
rejected_*.npy        tokens, offsets and loss_mask of the worse answers of preferences: only where there are any
documents.arrow       row i = document i, columns as in BLOCK_SCHEMA but `text` and `messages`, which lie on the disk
                      already; ordered by split, then by ordinal
refused.json          conversations that the chat template refuses, how often a sample differed, checksums of the rest
"""

from __future__ import annotations

import io
import json
import shutil
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import polars as pl

from nexus_llm.chat import ChatTokenizer, EncodedConversation
from nexus_llm.data.rows import stored_conversation
from nexus_llm.data.tokens.fast_tokenizers import (
    Encoder,
    Offsets,
    TokenIds,
    bounds_of,
    first_difference,
    merged,
    reference,
)
from nexus_llm.errors import ModelError
from nexus_llm.records import SPLITS

BLOCK_SCHEMA: dict[str, type[pl.DataType]] = {
    "ordinal": pl.UInt64,
    "id": pl.String,
    "source": pl.String,
    "origin": pl.String,
    "text": pl.String,
    "messages": pl.String,
    "language": pl.String,
    "cluster": pl.String,
    "split": pl.String,
    "characters": pl.UInt32,
    "tokens": pl.UInt32,
}
"""Columns of an encoded block's documents; `encode_block` adds the last two."""

_NOT_SAVED = ("text", "messages")

# One document in so many is encoded by the reference as well, to catch a fast encoder that is not exact after all.
_CHECKED_ONE_IN = 512
# A longer document is compared by its beginning, so that one of 1 GB does not take minutes.
_CHECKED_CHARACTERS = 100_000


@dataclass(frozen=True)
class RefusedConversation:
    """A conversation that the model's chat template does not accept, and why."""

    ordinal: int
    id: str
    error: str
    rule: str = "chat_template"


@dataclass(frozen=True)
class Rejected:
    """The conversations with the worse answers of a block's preferences; every other document has 0 tokens here."""

    tokens: npt.NDArray[Any]
    offsets: Offsets
    """Shape (documents + 1,)."""
    loss_mask: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class EncodedBlock:
    """The documents of one block as token ids; every array is in the order of `documents`."""

    documents: pl.DataFrame
    """Columns as in BLOCK_SCHEMA, ordered by split (train, validation, test), then by ordinal."""
    tokens: npt.NDArray[Any]
    """uint16 or uint32, all documents behind one another."""
    offsets: Offsets
    """Shape (documents + 1,)."""
    loss_mask: npt.NDArray[np.bool_]
    """Shape (tokens,): may be learned by `sft`."""
    is_conversation: npt.NDArray[np.bool_]
    """Shape (documents,)."""
    refused: tuple[RefusedConversation, ...] = ()
    differences: int = 0
    """Sampled documents whose ids differed from Hugging Face's; above 0, the whole block was encoded by the latter."""
    rejected: Rejected | None = None
    """None where no document is a preference."""

    def sizes(self) -> dict[str, npt.NDArray[np.int64]]:
        """Split → tokens of each of its documents: what `shards.plan_shards` counts."""
        return _sizes_by_split(self.documents["split"], self.documents["tokens"])


def encode_block(frame: pl.DataFrame, encoder: Encoder, tokenizer: ChatTokenizer) -> EncodedBlock:
    """The documents of `frame` with their token ids, and the conversations that the template refuses.

    `frame` has the columns of BLOCK_SCHEMA without the last two, in any order. Running text goes through `encoder` and
    is opened and closed as `ChatTokenizer.encode_document` does; conversations go through the chat template, and what
    the assistant wrote is their loss mask.

    One document in 512, drawn by its ordinal, is encoded by Hugging Face's library too. Where the ids differ, that
    library encodes the whole block, and the difference is counted: a slower right answer beats a stopped run.
    """
    order = pl.col("split").replace_strict({split: place for place, split in enumerate(SPLITS)})
    frame = frame.sort(order, "ordinal")
    is_conversation = frame["messages"].is_not_null().to_numpy()
    running = frame.filter(~is_conversation)
    conversations, worse, refused = _encode_conversations(frame.filter(is_conversation), tokenizer)
    differences = _sampled_differences(running, encoder, tokenizer)
    if differences:
        encoder = reference(tokenizer)
    ids, offsets = _with_ends(*encoder.encode(running["text"]), tokenizer)
    masks = np.ones(len(ids), np.bool_)
    if is_conversation.any():
        ids, offsets = merged(is_conversation, (ids, offsets), conversations[:2])
        masks = np.ones(len(ids), np.bool_)
        masks[np.repeat(is_conversation, np.diff(offsets))] = conversations[2]
    kept = np.diff(offsets) > 0  # a refused conversation has no tokens; every other document has its end
    dtype = token_type(tokenizer.vocabulary_size)
    documents = frame.with_columns(
        characters=pl.col("text").str.len_chars(), tokens=pl.Series(np.diff(offsets), dtype=pl.UInt32)
    ).filter(kept)
    return EncodedBlock(
        documents.select(pl.col(name).cast(kind) for name, kind in BLOCK_SCHEMA.items()),
        ids.astype(dtype),
        bounds_of(np.diff(offsets)[kept]),
        masks,
        is_conversation[kept],
        tuple(refused),
        differences,
        _rejected(worse, is_conversation, kept, dtype) if worse else None,
    )


def save_block(block: EncodedBlock, folder: Path) -> None:
    """Writes the block as the files above; `folder` appears whole or not at all, and a block there is replaced.

    Nothing waits for the disk: after a power cut `is_saved` finds files that are not what was written.

    Raises:
        OSError: the disk is full or refuses.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    arrays = {name: getattr(block, name) for name in _ARRAYS if name != "loss_mask" or not block.loss_mask.all()}
    if block.rejected is not None:
        arrays |= {f"rejected_{name}": getattr(block.rejected, name) for name in REJECTED_ARRAYS}
    checksums = {}
    for name, values in arrays.items():
        with (partial / f"{name}.npy").open("wb") as stream:
            checksums[f"{name}.npy"] = write_array(stream, values)
    # Not into the file: polars turns a full disk into an error without a number. Not compressed: it is read once.
    documents = block.documents.drop(_NOT_SAVED).write_ipc(None, compression="uncompressed").getbuffer()
    (partial / "documents.arrow").write_bytes(documents)
    checksums["documents.arrow"] = zlib.crc32(documents)
    content = {
        "refused": [asdict(one) for one in block.refused],
        "differences": block.differences,
        "checksums": checksums,
    }
    (partial / "refused.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def load_block(folder: Path, texts: pl.DataFrame) -> EncodedBlock:
    """The block that `save_block` wrote, its arrays mapped into memory.

    `texts` has `ordinal` (ascending), `text` and `messages` of at least the block's documents.

    Raises:
        OSError: there is none.
    """
    rest = json.loads((folder / "refused.json").read_bytes())
    arrays = {
        name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS if f"{name}.npy" in rest["checksums"]
    }
    arrays.setdefault("loss_mask", np.ones(len(arrays["tokens"]), np.bool_))
    rejected = None
    if "rejected_tokens.npy" in rest["checksums"]:
        rejected = Rejected(*(np.load(folder / f"rejected_{name}.npy", mmap_mode="r") for name in REJECTED_ARRAYS))
    refused = tuple(RefusedConversation(**one) for one in rest["refused"])
    documents = read_mapped(folder / "documents.arrow")
    documents = documents.hstack(texts[texts["ordinal"].search_sorted(documents["ordinal"])].select(_NOT_SAVED))
    return EncodedBlock(
        documents.select(list(BLOCK_SCHEMA)),
        **arrays,
        refused=refused,
        differences=rest["differences"],
        rejected=rejected,
    )


def is_saved(folder: Path) -> bool:
    """Whether `save_block` finished there, and its files are still what it wrote."""
    try:
        checksums = json.loads((folder / "refused.json").read_bytes())["checksums"]
        return all(checksum(folder / name) == value for name, value in checksums.items())
    except (OSError, ValueError):
        return False


def checksum(path: Path) -> int:
    """CRC-32 of a file: tells a file that a power cut cut short, at 2 GB/s."""
    value = 0
    with path.open("rb") as stream:
        while piece := stream.read(2**20):
            value = zlib.crc32(piece, value)
    return value


def read_mapped(path: Path, columns: list[str] | None = None) -> pl.DataFrame:
    """The rows of an Arrow file, or some of its columns, mapped into memory: nothing is copied.

    pyarrow's reader, because polars' copies and checks all text: 3.8 ms instead of 0.4 for a block of 4 MiB (2026-11).
    """
    import pyarrow.ipc

    with pyarrow.memory_map(str(path)) as file:
        table = pyarrow.ipc.open_file(file).read_all()
    return pl.DataFrame(table if columns is None else table.select(columns))


def load_sizes(folder: Path) -> dict[str, npt.NDArray[np.int64]]:
    """`EncodedBlock.sizes` of a saved block, without its text and tokens."""
    documents = read_mapped(folder / "documents.arrow", ["split", "tokens"])
    return _sizes_by_split(documents["split"], documents["tokens"])


def saved_type(folder: Path) -> np.dtype[Any]:
    """The type of a saved block's token ids, which all blocks of a corpus share."""
    array: npt.NDArray[Any] = np.load(folder / "tokens.npy", mmap_mode="r")
    return array.dtype


def write_array(stream: BinaryIO, values: npt.NDArray[Any]) -> int:
    """One array in numpy's file format, version 1.0; the `checksum` of what was written."""
    # Not np.save: it hands the file to C, where a full disk becomes an error without a number.
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(values))
    content = np.ascontiguousarray(values).view(np.uint8).data
    stream.write(header.getbuffer())
    stream.write(content)
    return zlib.crc32(content, zlib.crc32(header.getbuffer()))


def token_type(vocabulary_size: int) -> type[np.uint16] | type[np.uint32]:
    """The smallest unsigned type that holds every token id."""
    return np.uint16 if vocabulary_size <= 2**16 else np.uint32


_ARRAYS = ("tokens", "offsets", "loss_mask", "is_conversation")
REJECTED_ARRAYS = ("tokens", "offsets", "loss_mask")

_Encoded = tuple[TokenIds, Offsets, npt.NDArray[np.bool_]]


def _encode_conversations(
    frame: pl.DataFrame, tokenizer: ChatTokenizer
) -> tuple[_Encoded, _Encoded | None, list[RefusedConversation]]:
    """(ids, bounds, loss mask) of all conversations, without ids for one that the template refuses; the same of their
    rejected answers, without ids where there is none, or None where nobody has any; the refusals."""
    encoded: list[EncodedConversation] = []
    worse: list[EncodedConversation] = []
    refused: list[RefusedConversation] = []
    for ordinal, identity, messages in frame.select("ordinal", "id", "messages").iter_rows():
        chosen, rejected, tools = stored_conversation(messages)
        encoded.append(_NOTHING)
        worse.append(_NOTHING)
        try:
            one = tokenizer.encode_conversation(chosen, tools=tools or None)
            other = tokenizer.encode_conversation(rejected, tools=tools or None) if rejected else _NOTHING
        except ModelError as error:
            refused.append(RefusedConversation(ordinal, identity, error.what))
            continue
        if not one.token_ids:
            refused.append(RefusedConversation(ordinal, identity, "the chat template makes no text of it"))
            continue
        encoded[-1], worse[-1] = one, other
    has_pairs = any(one is not _NOTHING for one in worse)
    return _joined(encoded), _joined(worse) if has_pairs else None, refused


_NOTHING = EncodedConversation([], [])


def _joined(conversations: list[EncodedConversation]) -> _Encoded:
    return (
        np.concatenate([np.empty(0, np.uint32), *(np.array(one.token_ids, np.uint32) for one in conversations)]),
        bounds_of([len(one.token_ids) for one in conversations]),
        np.concatenate([np.empty(0, np.bool_), *(np.array(one.is_assistant, np.bool_) for one in conversations)]),
    )


def _rejected(
    worse: _Encoded, is_conversation: npt.NDArray[np.bool_], kept: npt.NDArray[np.bool_], dtype: Any
) -> Rejected:
    """What `_encode_conversations` found of conversations alone, told for all documents that are kept."""
    ids, bounds, mask = worse
    sizes = np.zeros(len(is_conversation), np.int64)
    sizes[is_conversation] = np.diff(bounds)
    # A refused conversation has no rejected answer either, so nothing lies between those that are kept.
    return Rejected(ids.astype(dtype), bounds_of(sizes[kept]), mask)


def _sampled_differences(running: pl.DataFrame, encoder: Encoder, tokenizer: ChatTokenizer) -> int:
    """How many of the sampled documents the encoder turns into other ids than the reference."""
    exact = reference(tokenizer)
    if encoder.name == exact.name:
        return 0
    is_sampled = pl.Series(_mixed(running["ordinal"].to_numpy()) % np.uint64(_CHECKED_ONE_IN) == 0)
    texts = running.filter(is_sampled)["text"].str.slice(0, _CHECKED_CHARACTERS).to_list()
    return sum(first_difference([text], encoder.encode([text]), exact.encode([text])) is not None for text in texts)


def _mixed(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Numbers that look random: ordinals count from 1 in every file, and most files may hold a single record.

    Source: Steele et al. 2014, "Fast Splittable Pseudorandom Number Generators", the finaliser of SplitMix64.
    """
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def _with_ends(ids: TokenIds, offsets: Offsets, tokenizer: ChatTokenizer) -> tuple[TokenIds, Offsets]:
    """The same documents, each opened by `document_start_ids` and closed by `document_end_id`."""
    opening = tokenizer.document_start_ids
    bounds = bounds_of(np.diff(offsets) + len(opening) + 1)
    whole = np.empty(bounds[-1], np.uint32)
    is_text = np.ones(len(whole), np.bool_)
    for place, token_id in enumerate(opening):
        whole[bounds[:-1] + place] = token_id
        is_text[bounds[:-1] + place] = False
    whole[bounds[1:] - 1] = tokenizer.document_end_id
    is_text[bounds[1:] - 1] = False
    whole[is_text] = ids
    return whole, bounds


def _sizes_by_split(splits: pl.Series, tokens: pl.Series) -> dict[str, npt.NDArray[np.int64]]:
    return {split: tokens.filter(splits == split).to_numpy().astype(np.int64) for split in SPLITS}
